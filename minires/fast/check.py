"""Before a run relies on the fast way: does it compute what the layers say?

A few images go through the network as it stands, every op as it reads, and through what will run instead, both in
float64. There the order of a sum costs some 1e-13, so that a difference of more than `TOLERANCE` is a fact: somebody
changed what a layer means, and the fast way does not know it.
"""

import copy
import time
from dataclasses import dataclass

import numpy as np

from minires import ops
from minires.backend import blas_threads, get_xp, to_numpy
from minires.errors import DisagreementError
from minires.fast.communicator import ALONE, speaking_through
from minires.fast.cpu import as_read
from minires.fast.fuse import WRITTEN, own_methods
from minires.nn.activation import Dropout
from minires.nn.blocks import Block
from minires.nn.conv import Conv2d
from minires.nn.module import Composite, Module, Sequential, inference
from minires.nn.norm import BatchNorm

TOLERANCE = 1e-8
IMAGES = 3
ADVICE = "run the layers as they stand (--by-layers, by_layers=True), or the ops as they read (MINIRES_KERNELS=numpy)"


@dataclass(frozen=True)
class Agreement:
    """How far the fast way is from the layers, relative to the largest value; `skipped`: why nobody looked."""

    images: int = 0
    logits: float = 0.0
    gradients: float = 0.0
    running_statistics: float = 0.0
    seconds: float = 0.0
    skipped: str = ""

    def __str__(self):
        if self.skipped:
            return f"not checked against the layers: {self.skipped}"
        worst = max(self.logits, self.gradients, self.running_statistics)
        return f"agrees with the layers to {worst:.0e} ({self.images} images in float64, {self.seconds:.1f} s)"


def check_training(model: Sequential, make_net, x, labels) -> Agreement:
    """Whether make_net(model) gives the logits, gradients and running statistics of `model` in training.

    x (N, H, W, C), labels (N,): the first IMAGES are taken. DisagreementError, naming the layer, where they differ.
    """
    start = time.perf_counter()
    if patched := own_methods(model):
        return Agreement(skipped=f"{patched} was replaced, and what it holds on to cannot be copied")
    x, labels = x[:IMAGES].astype("f8"), labels[:IMAGES]
    try:
        reference, fast = _twins(model, 2)
    except TypeError as error:  # a part of the user's own that holds a file, a lock
        return Agreement(skipped=f"the network cannot be copied: {error}")
    with speaking_through(ALONE), as_read(), blas_threads(1):
        logits, statistics, gradients = _step(reference, reference, x, labels)
    if not np.isfinite(logits).all():
        return Agreement(skipped="the network gives numbers that are not finite")
    _drop_gradients(reference)
    with speaking_through(ALONE):
        there = _step(fast, make_net(fast), x, labels)
    far = _distance(logits, there[0])
    if not far <= TOLERANCE:
        twins = _twins(model, 2)
        place = first_difference(twins[0], make_net(twins[1]), x) or model.name
        raise DisagreementError(f"{place}: its output differs from that of the layers by {far:.1e}: {ADVICE}")
    result = {"logits": far}
    for what, ours, theirs in (
        ("running_statistics", there[1], statistics),
        ("gradients", there[2], gradients),  # the last is the first on the way back
    ):
        largest = max((np.abs(v).max() for v in theirs.values()), default=0)
        distances = {name: _distance(theirs[name], ours[name], 1e-3 * largest) for name in reversed(theirs)}
        wrong = [name for name, distance in distances.items() if not distance <= TOLERANCE]
        if wrong:
            word = what.replace("_", " ").removesuffix("s")
            differs = f"{wrong[0]}: its {word} differs from that of the layers by {distances[wrong[0]]:.1e}"
            raise DisagreementError(f"{differs}: {ADVICE}")
        result[what] = max(distances.values(), default=0.0)
    return Agreement(len(x), **result, seconds=round(time.perf_counter() - start, 3))


def check_inference(model: Module, make_net, x, *, whole=False) -> Agreement:
    """Whether make_net(model) gives what `model` gives in evaluation, for the first IMAGES of x.

    Block by block, since a copy of all in float64 would take several times the memory of the network; whole: in one.
    """
    start = time.perf_counter()
    if patched := own_methods(model):
        return Agreement(skipped=f"{patched} was replaced, and what it holds on to cannot be copied")
    x, count, worst = x[:IMAGES].astype("f8"), min(len(x), IMAGES), 0.0
    for piece in [model] if whole else _pieces(model.layers):
        try:
            twin = copy.deepcopy(piece).astype("f8")
        except TypeError as error:
            return Agreement(skipped=f"the network cannot be copied: {error}")
        with inference(twin):
            with as_read(), blas_threads(1):
                y = twin.forward(x)
            if not np.isfinite(to_numpy(y)).all():
                return Agreement(skipped="the network gives numbers that are not finite")
            net = make_net(twin)
            far = _distance(to_numpy(y), to_numpy(net.forward(x)))
            if not far <= TOLERANCE:
                place = first_difference(twin, net, x) or model.name
                raise DisagreementError(f"{place}: its output differs from that of the layers by {far:.1e}: {ADVICE}")
        x, worst = y, max(worst, far)
    return Agreement(count, worst, seconds=round(time.perf_counter() - start, 3))


def check_shares(model: Sequential, x) -> None:
    """Whether every layer treats images one by one, but for those that ask the other ranks: each rank has a share.

    Only where it has layers that are not the library's own: the first IMAGES of x go through the network together and
    one by one. DisagreementError, naming the layer, where that is not the same.
    """
    own = [m for m in model.modules() if type(m) not in WRITTEN and type(m).forward is not Composite.forward]
    if not own or own_methods(model):
        return
    try:
        (twin,) = _twins(model, 1)
    except TypeError:
        return
    for module in twin.modules():
        module.training &= not isinstance(module, BatchNorm | Dropout)
        module.save_for_backward = False
    with speaking_through(ALONE), as_read(), blas_threads(1):
        if name := _mixing(twin, x[:IMAGES].astype("f8")):
            raise DisagreementError(
                f"{name}: what it gives for an image depends on the others of the batch, and each rank has a share "
                "only: train with one rank, or let it ask the others as BatchNorm does (minires/fast/communicator.py)"
            )


def _mixing(module, x) -> str:
    """The innermost part whose output for an image depends on the others of x; "" where there is none."""

    def forward(part):
        together = part.forward(x)
        return together, np.concatenate([to_numpy(part.forward(x[i : i + 1])) for i in range(len(x))])

    if _same(*forward(module)):
        return ""
    for layer in getattr(module, "layers", []):
        if name := _mixing(layer, x):
            return name
        x = layer.forward(x)
    return module.name


def _pieces(layers):
    """Each block by itself, what lies between two blocks together."""
    between = []
    for layer in layers:
        holds_blocks = isinstance(layer, Sequential) and any(isinstance(part, Block) for part in layer.layers)
        if not holds_blocks and not isinstance(layer, Block):
            between.append(layer)
            continue
        if between:
            yield Sequential(*between, name=between[0].name)
            between = []
        yield from _pieces(layer.layers) if holds_blocks else [Sequential(layer, name=layer.name)]
    if between:
        yield Sequential(*between, name=between[0].name)


def first_difference(reference: Module, fast, x) -> str:
    """The name of the innermost part of `fast` that gives something else than the part of that name in `reference`."""
    fast = getattr(fast, "net", fast)
    if not hasattr(reference, "layers") or not hasattr(fast, "layers"):
        return reference.name
    outputs, y, names = [], x, [layer.name for layer in reference.layers]
    with as_read():
        for layer in reference.layers:
            outputs.append(y := layer.forward(y))
    for part in fast.layers:
        here, y = names.index(part.name) if part.name in names else len(names), part.forward(x)
        for expected in outputs[here : here + 2]:  # a normalisation may have taken in the ReLU behind it
            if _same(expected, y):
                x = expected
                break
        else:
            bias_left_out = isinstance(part, Conv2d) and part.b is None and reference.layers[here].b is not None
            if not bias_left_out:
                return first_difference(reference.layers[here], part, x) if here < len(names) else part.name
            x = y
    return ""


def _same(expected, actual) -> bool:
    expected, actual = map(to_numpy, (expected, actual))
    return expected.shape == actual.shape and _distance(expected, actual) <= TOLERANCE


def _twins(model, count):
    """Copies in float64 that share their weights."""
    twins = [copy.deepcopy(model).astype("f8")]
    weights = {id(p.data): p.data for p in twins[0].params()}
    while len(twins) < count:
        twins.append(copy.deepcopy(twins[0], dict(weights)))
    for twin in twins:
        _drop_gradients(twin)
        twin.train()
    return twins


def _drop_gradients(model):
    for param in model.params():
        param.grad = None


def _step(model, net, x, labels):
    """(logits, running statistics, gradients) of one step in training; of a gradient a random projection."""
    logits = net.forward(x)
    probs = ops.softmax_cross_entropy_forward(logits, labels)[1]
    net.backward(ops.softmax_cross_entropy_backward(probs, labels), need_dx=False)
    statistics = {b.name: to_numpy(b.data) for b in model.buffers()}
    trained = [p for p in model.params() if p.trainable]
    return to_numpy(logits), statistics, {p.name: _projection(p.grad) for p in trained}


def _projection(gradient):
    """[s^T G r, |G|] with random s and r, for a gradient G of rows of channels: enough to tell two apart."""
    xp, rng = get_xp(gradient), np.random.default_rng(0)
    rows = gradient.reshape(-1, gradient.shape[-1])
    s, r = (xp.asarray(rng.standard_normal(n)) for n in rows.shape)
    return np.array([float(s @ (rows @ r)), float(xp.einsum("ij,ij->", rows, rows) ** 0.5)])


def _distance(expected, actual, least=0.0) -> float:
    """The greatest difference over the greatest value; NaN where one of them is not finite."""
    scale = max(np.abs(expected).max(initial=0), least, np.finfo(float).tiny)
    return float(np.abs(actual - expected).max(initial=0) / scale)
