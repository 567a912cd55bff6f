"""Why one layer gives other numbers: try the conventions in which libraries differ, and see which one fits.

Each generator below yields (what the other side does, the output that this layer would then have).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minires import ops
from minires.backend import to_numpy
from minires.geometry import output_size, resolve_padding
from minires.nn import BatchNorm, Conv2d, Dense, Flatten, MaxPool2d, Module, ZeroPad2d

# in float32 the last two look the same; the more usual comes first
EPSILONS = {1e-3: "Keras's default", 1e-5: "PyTorch's default", 1.001e-5: "keras.applications"}
EXPLAINED = 0.1  # a convention explains a difference when it leaves less than this share of it


@dataclass(frozen=True)
class Call:
    """One layer with the input that it got and the output that it gave."""

    layer: Module
    x: object
    y: object


def difference(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """|ours - theirs| / |theirs|; None where the shapes differ."""
    if ours.shape != theirs.shape:
        return None
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), np.finfo(ours.dtype).tiny))


def explain(call: Call, ours: list[Call], theirs: np.ndarray, tolerance: float) -> str:
    """The convention that turns this call's output into `theirs`, in words, or that none does."""
    y = to_numpy(call.y)
    before = difference(y, theirs)
    found = []
    for cause, alternative in _alternatives(call, ours, theirs):
        error = None if alternative is None else difference(to_numpy(alternative), theirs)
        if error is not None and np.isfinite(error):
            found.append((error, cause))
    best = min((error for error, _ in found), default=np.inf)
    # what fits the best but for rounding; the sharper explanation comes first
    enough = max(2 * best, 10 * np.finfo(y.dtype).eps)
    error, cause = next((pair for pair in found if pair[0] <= enough), (np.inf, ""))
    if error <= max(tolerance, EXPLAINED * (1 if before is None else before)):
        return f"{cause} (with that, the difference is {error:.1e})"
    if before is None:
        return f"it gives {theirs.shape}, this network {y.shape}, and none of the known conventions explains it"
    return (
        f"the relative difference is {before:.1e} and none of the known conventions explains it: compare the weights "
        "of this layer, and the layers without weights just before it"
    )


def _alternatives(call: Call, ours: list[Call], theirs: np.ndarray) -> Iterator[tuple]:
    """Conventions from the sharpest to the vaguest; of two that fit equally well the first is told."""
    y = to_numpy(call.y)
    yield from _layouts(y, theirs)
    producers = {id(other.y): other for other in ours if not other.layer.children()}
    source = producers.get(id(call.x))
    match call.layer:
        case Conv2d():
            yield from _convolution(call, source)
        case BatchNorm():
            yield from _norm(call, theirs)
        case Dense():
            yield from _dense(call, source)
        case MaxPool2d():
            yield from _pool(call)
    yield "the other applies its ReLU inside this layer", np.maximum(y, 0)
    if isinstance(call.layer, Conv2d | Dense) and y.shape == theirs.shape:
        shift = (theirs - y).mean(axis=tuple(range(y.ndim - 1)))
        what = "adds a bias, which this network has not" if call.layer.b is None else "has another bias"
        yield f"the other {what}", y + shift


def _layouts(y, theirs):
    """Not a convention of the layer but of the recording: answer in the other's shape."""
    if y.ndim == 4 and y.shape != theirs.shape:
        yield (
            "the other's activations are channels first: transpose them with (0, 2, 3, 1)",
            y.transpose(0, 3, 1, 2),
        )


def _convolution(call: Call, source: Call | None):
    layer, x = call.layer, call.x
    w, b = layer.w.data, None if layer.b is None else layer.b.data
    R, S, C, O = w.shape
    pad = layer.pad
    if source is not None and isinstance(source.layer, ZeroPad2d):  # the padding stands before, as a layer
        x, pad = source.x, source.layer.pad

    def run(x=x, w=w, b=b, stride=layer.stride, pad=pad):
        if min(output_size(x.shape[1:3], (R, S), stride, pad, layer.dilation)) >= 1:
            return ops.conv2d_forward(x, w, b, **{**layer.window, "stride": stride, "pad": pad})

    for stride in ((1, 1), (2, 2)):
        if stride != layer.stride:
            yield (
                f"its stride is {stride[0]}, here {layer.stride[0]}: the stride sits at another convolution (course "
                "and v1 stride the first 1x1 of a block, v1.5 the 3x3)",
                run(stride=stride),
            )
    own = resolve_padding(pad, x.shape[1:3], (R, S), layer.stride, layer.dilation)
    for pads, habit in _paddings(x, (R, S), layer.stride):
        if pads != own:
            yield f"it pads {pads}, here {own}: {habit}", run(pad=pads)
    kernels = {
        "its kernel is turned by 180 degrees: a true convolution, here a correlation": w[::-1, ::-1],
        "rows and columns of its kernel are exchanged": w.transpose(1, 0, 2, 3) if R == S else w,
        "input and output channels of its kernel are exchanged": w.transpose(0, 1, 3, 2) if C == O else w,
        "its kernel was reshaped to (O, C, R, S), not transposed": w.reshape(O, C, R, S).transpose(2, 3, 1, 0),
        "this kernel was reshaped from (O, C, R, S), not transposed": w.transpose(3, 2, 0, 1).reshape(w.shape),
        "its input channels run the other way (BGR, as keras.applications wants)": w[:, :, ::-1] if C == 3 else w,
    }
    for cause, kernel in kernels.items():
        if kernel is not w:
            yield cause, run(w=kernel)
    if b is not None:
        yield "the other adds no bias", run(b=None)
    if source is not None and isinstance(source.layer, MaxPool2d):
        for cause, pooled in _pool(source):
            yield f"at {source.layer.name} before it, {cause}", run(x=pooled)


def _paddings(x, kernel, stride):
    """(pads, whose habit it is)."""
    (top, bottom), (left, right) = same = resolve_padding("same", x.shape[1:3], kernel, stride)
    yield same, "'same' puts the odd zero at the bottom and right, as TensorFlow does"
    yield ((bottom, top), (right, left)), "the odd zero of 'same' goes to the top and left"
    yield (
        resolve_padding((kernel[0] // 2, kernel[1] // 2), x.shape[1:3], kernel, stride),
        "k // 2 on every side, as PyTorch",
    )
    yield ((0, 0), (0, 0)), "no padding ('valid')"


def _pool(call: Call):
    layer = call.layer
    own = resolve_padding(layer.pad, call.x.shape[1:3], layer.kernel, layer.stride)
    for pads, habit in _paddings(call.x, layer.kernel, layer.stride):
        if pads != own:
            pooled = ops.maxpool_forward(call.x, **{**layer.window, "pad": pads})
            yield f"it pads {pads}, here {own}: {habit}", pooled


def _norm(call: Call, theirs):
    layer, x = call.layer, to_numpy(call.x)
    gamma, beta, mean, var = (to_numpy(v.data) for v in (layer.gamma, layer.beta, layer.mean, layer.var))

    def run(mean=mean, var=var, epsilon=layer.epsilon):
        return ops.batchnorm_forward(x, gamma, beta, mean, 1 / np.sqrt(var + epsilon))

    for epsilon, whose in EPSILONS.items():
        if not math.isclose(epsilon, layer.epsilon, rel_tol=1e-6):
            yield f"its epsilon is {epsilon} ({whose}), here {layer.epsilon}", run(epsilon=epsilon)
    batch_mean, batch_var = ops.batchnorm_statistics(x)
    yield (
        "it normalises with the batch's statistics, here the running ones: the other is in training mode",
        run(batch_mean, batch_var),
    )
    yield "it takes its variance for a standard deviation", run(var=var**2)
    if theirs.shape != x.shape:
        return
    # theirs = slope * x + shift in every channel: what variance would give this slope?
    axes = tuple(range(x.ndim - 1))
    dx, dy = x - x.mean(axes), theirs - theirs.mean(axes)
    slope = (dx * dy).sum(axes) / np.maximum((dx * dx).sum(axes), np.finfo(x.dtype).tiny)
    with np.errstate(all="ignore"):
        ratio = float(np.median(((gamma / slope) ** 2 - layer.epsilon) / var))
    if ratio > 0 and ratio != 1:
        m = ratio / (ratio - 1) if ratio > 1 else 1 / (1 - ratio)
        theirs_is, ours_is = ("unbiased", "biased") if ratio > 1 else ("biased", "unbiased")
        yield (
            f"its running variance is {ratio:.4g} times that of this network in every channel: it is {theirs_is}, here "
            f"{ours_is} (over m - 1 or over m, with m = {m:.0f} values a channel)",
            run(var=var * ratio),
        )
    yield (
        "its scale and shift differ from channel to channel: gamma, beta or the running statistics are others",
        slope * dx + theirs.mean(axes),
    )


def _dense(call: Call, source: Call | None):
    w, b = to_numpy(call.layer.w.data), 0 if call.layer.b is None else to_numpy(call.layer.b.data)
    x, y = to_numpy(call.x), to_numpy(call.y)
    if source is not None and isinstance(source.layer, Flatten) and source.x.ndim == 4:
        x_first = to_numpy(source.x).transpose(0, 3, 1, 2).reshape(len(x), -1)
        yield "it flattens its map channels first (C, H, W), here (H, W, C)", x_first @ w + b
    exponentials = np.exp(y - y.max(axis=-1, keepdims=True))
    yield "it gives probabilities: its softmax is inside the layer", exponentials / exponentials.sum(-1, keepdims=True)
    if w.shape[0] == w.shape[1]:
        yield "its weights are transposed", x @ w.T + b
    if call.layer.b is not None:
        yield "the other adds no bias", x @ w
