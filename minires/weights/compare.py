"""Two networks side by side: layer by layer the relative difference, and the first layer that parts from the other.

The other side is a second minires network, or its activations by name: from PyTorch (`torch_activations`),
from Keras (`keras_activations`), or from a `.npz` file that someone saved. On the first layer that diverges
the usual conventions are tried one by one (explain.py); the one that gives the other's numbers is the cause.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from minires.backend import to_numpy
from minires.console import Shown
from minires.errors import ConfigError, DataError, MiniresError
from minires.nn import Module, Network, ZeroPad2d, inference
from minires.weights.archives import read_npz
from minires.weights.explain import Call, difference, explain
from minires.weights.mapping import layer_list

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # relative differences that rounding explains, after fifty layers


@dataclass(frozen=True)
class Row:
    """One layer. difference: |ours - theirs| / |theirs|; None where the shapes differ."""

    name: str
    type: str
    shape: tuple
    other_shape: tuple
    difference: float | None


@dataclass(frozen=True)
class Comparison(Shown):
    """The layers that both have, in forward order; `first` diverges, None when none does; `cause` in words."""

    rows: tuple[Row, ...]
    tolerance: float
    first: str | None
    cause: str | None

    def verdict(self) -> str:
        """The outcome in a sentence or two."""
        if self.first is None:
            worst = max(row.difference for row in self.rows)
            return f"all {len(self.rows)} layers agree: the largest relative difference is {worst:.1e}"
        return f"{self.first} is the first layer that diverges: {self.cause}"

    def table(self) -> Table:
        """A rich table, the first divergence in bold."""
        table = Table("Layer (type)", "Shape", "Relative difference", caption=self.verdict(), caption_justify="left")
        for row in self.rows:
            shape = str(row.shape) if row.difference is not None else f"{row.shape}, other {row.other_shape}"
            number = "-" if row.difference is None else f"{row.difference:.1e}"
            style = "bold red" if row.name == self.first else None
            table.add_row(f"{row.name} ({row.type})", shape, number, style=style)
        return table

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self)


def calls(model: Module, x) -> list[Call]:
    """Every layer and block that one evaluation pass of x goes through, with input and output, in order of ending."""
    recorded = []

    def recording(module, forward):
        def call(*inputs):
            y = forward(*inputs)
            recorded.append(Call(module, inputs[0], y))
            return y

        return call

    with inference(model):
        named = [m for m in model.modules() if m.name and m is not model]
        try:
            for m in named:
                m.forward = recording(m, m.forward)
            model.forward(x)
        finally:
            for m in named:
                vars(m).pop("forward", None)
    return recorded


def activations(model: Module, x) -> dict[str, np.ndarray]:
    """Name -> output of every layer and block for the input x, in evaluation mode, in forward order."""
    return {call.layer.name: to_numpy(call.y) for call in calls(model, x)}


def compare(model: Network, other, x, *, tolerance: float | None = None) -> Comparison:
    """Run x (N, H, W, C) through the model in evaluation mode and hold every layer against `other`.

    other: a minires network, or a mapping name -> activation (N, ..., C) for the same x; names that the model
    does not have are left out. tolerance: the relative difference up to which layers agree.
    """
    if isinstance(other, Network):
        theirs = _named_alike(model, other, activations(other, x))
    elif isinstance(other, Mapping):
        theirs = dict(other)
    else:
        raise ConfigError(
            f"compare: expected a minires network or a mapping of activations, got {type(other).__name__}"
        )
    ours = calls(model, x)
    # padding that stands as a layer is judged with the convolution that reads it
    shared = [c for c in ours if c.layer.name in theirs and not isinstance(c.layer, ZeroPad2d)]
    if not shared:
        raise ConfigError(
            f"compare: no layer name in common; ours are {', '.join(c.layer.name for c in ours[:3])}, ..., the others "
            f"{', '.join(list(theirs)[:3])}, ...: rename them, or build the variant that has these names"
        )
    tolerance = tolerance or TOLERANCE.get(str(ours[0].y.dtype), 1e-4)
    rows = tuple(_row(call, theirs[call.layer.name]) for call in shared)
    diverging = [i for i, row in enumerate(rows) if row.difference is None or not row.difference <= tolerance]
    if not diverging:
        return Comparison(rows, tolerance, None, None)
    first = shared[diverging[0]]
    cause = explain(first, ours, np.asarray(theirs[first.layer.name]), tolerance)
    return Comparison(rows, tolerance, first.layer.name, cause)


def _row(call: Call, theirs) -> Row:
    y, theirs = to_numpy(call.y), np.asarray(theirs)
    return Row(call.layer.name, type(call.layer).__name__, y.shape, theirs.shape, difference(y, theirs))


def _named_alike(model: Network, other: Network, theirs: dict) -> dict:
    """The other network's activations under our names: layers correspond by their order."""
    ours, others = layer_list(model), layer_list(other)
    if len(ours) != len(others):
        raise ConfigError(
            f"compare: {model.title} has {len(ours)} layers with weights, {other.title} {len(others)}: "
            "compare networks of one architecture"
        )
    names = {b.name: a.name for a, b in zip(ours, others, strict=True)}
    return {names.get(name, name): y for name, y in theirs.items()}


def load_activations(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file: activations by layer name, and the network's input as `input` where it is there."""
    try:
        arrays = read_npz(path)
        if odd := [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]:
            raise DataError(
                f"{path}: {odd[0]!r} holds {arrays[odd[0]].dtype}, expected activations, which are numbers: save those"
            )
        return arrays
    except MiniresError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: expected activations (.npz), but there is no such file: check the path") from None
    except Exception as error:  # on damaged files NumPy and zipfile raise almost anything
        problem = " ".join(str(error).split())
        raise DataError(f"{path}: expected activations (.npz) ({problem}): write them with numpy.savez") from None


def torch_activations(twin, x) -> dict[str, np.ndarray]:
    """Name -> output (N, ..., C) of the modules of a PyTorch network (NCHW) for our x (N, H, W, C), in evaluation mode.

    A module that runs several times, such as a shared ReLU, is left out.
    """
    import torch

    seen: dict[str, list] = {}
    handles = [
        m.register_forward_hook(lambda _module, _inputs, y, name=name: seen.setdefault(name, []).append(y))
        for name, m in twin.named_modules()
        if name
    ]
    modes = [(m, m.training) for m in twin.modules()]
    try:
        dtype = next(twin.parameters()).dtype
        with torch.no_grad():
            twin.eval()(torch.from_numpy(np.ascontiguousarray(to_numpy(x).transpose(0, 3, 1, 2))).to(dtype))
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in modes:
            m.training = mode
    arrays = {name: ys[0].detach().cpu().numpy() for name, ys in seen.items() if len(ys) == 1}
    return {name: y.transpose(0, 2, 3, 1) if y.ndim == 4 else y for name, y in arrays.items()}


def keras_activations(model, x) -> dict[str, np.ndarray]:
    """Name -> output of the layers of a functional Keras network for x (N, H, W, C), in evaluation mode.

    The softmax inside the last layer is left off, so that logits meet logits.
    """
    import keras

    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    try:
        if activation is not None:
            last.activation = keras.activations.linear
        probe = keras.Model(model.inputs, [layer.output for layer in model.layers])
        outputs = probe(to_numpy(x), training=False)
    finally:
        if activation is not None:
            last.activation = activation
    return {layer.name: np.asarray(y) for layer, y in zip(model.layers, outputs, strict=True)}
