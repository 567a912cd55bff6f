"""What a network is made of, what it costs and what it keeps, told without running it.

`summarize(model)` follows shapes from layer to layer (`output_shape`), so ResNet-152 takes milliseconds.
Memory follows from which arrays each layer's `forward` saves (`Module.keeps`). An array that two
layers save, such as a ReLU's output that the next convolution keeps as its input, is counted once.
"""

import math
from dataclasses import asdict, dataclass

from rich.table import Table

from minires import nn
from minires.console import Shown
from minires.errors import ConfigError
from minires.nn import Module, Network

OPTIMISER_SLOTS = {"sgd": 1, "adam": 2}  # arrays as large as the weights: momentum; first and second moment


_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Row:
    """One layer. shape: of its output, None standing for the batch; flops: forward, one image."""

    name: str
    type: str
    shape: tuple
    trained: int
    kept: int  # parameters that are not trained: running statistics
    inputs: tuple[str, ...]
    flops: int
    kept_bytes: int  # what this layer is the first to keep for backward, the whole batch


@dataclass(frozen=True)
class Memory:
    """Bytes in a training step. activations: what layers keep for backward; workspace: passing arrays.

    workspace is that of the most demanding layer (padded copy, im2col columns, dy and dx), which is rarely
    needed while all activations are still held: `total` is an upper estimate.
    """

    parameters: int
    gradients: int
    optimiser: dict[str, int]
    activations: int
    workspace: int

    def total(self, optimiser: str = "adam") -> int:
        """Bytes with 'sgd' (momentum) or 'adam'."""
        return self.parameters + self.gradients + self.optimiser[optimiser] + self.activations + self.workspace


@dataclass(frozen=True)
class Summary(Shown):
    """The rows in forward order and the totals; FLOPs are those of one image."""

    name: str
    batch: int
    rows: tuple[Row, ...]
    trained: int
    not_trained: int
    flops_forward: int
    flops_training: int
    memory: Memory

    @property
    def total(self) -> int:
        """All parameters, trained or not."""
        return self.trained + self.not_trained

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        totals = {name: self.memory.total(name) for name in OPTIMISER_SLOTS}
        return {**asdict(self), "total": self.total, "memory": {**asdict(self.memory), "total": totals}}

    def table(self) -> Table:
        """A rich table like Keras's, with the totals below."""
        table = Table(title=self.name, title_justify="left", caption=self._totals(), caption_justify="left")
        table.add_column("Layer (type)", overflow="fold")
        table.add_column("Output shape", no_wrap=True)
        table.add_column("Parameters", justify="right", no_wrap=True)
        table.add_column("MFLOP", justify="right", no_wrap=True)
        table.add_column("Connected to", overflow="fold")
        for row in self.rows:
            table.add_row(
                f"{row.name} ({row.type})",
                str(row.shape),
                f"{row.trained + row.kept:,}" if row.trained + row.kept else "",
                f"{row.flops / 1e6:,.2f}" if row.flops else "",
                ", ".join(row.inputs),
            )
        return table

    def _totals(self) -> str:
        memory = self.memory
        slots = ", ".join(f"{show_bytes(size)} {name}" for name, size in memory.optimiser.items())
        totals = ", ".join(f"{show_bytes(memory.total(name))} with {name}" for name in OPTIMISER_SLOTS)
        return "\n".join(
            [
                f"Parameters: {self.total:,} = {self.trained:,} trained + {self.not_trained:,} running statistics",
                f"FLOPs an image: {self.flops_forward / 1e9:.3f} G forward, {self.flops_training / 1e9:.3f} G a "
                "training step (2 per multiply-add; convolutions and dense layers, zeros of the padding included)",
                f"Memory of a training step, batch {self.batch}: {show_bytes(memory.parameters)} parameters, "
                f"{show_bytes(memory.gradients)} gradients, optimiser {slots}, {show_bytes(memory.activations)} "
                f"activations kept for backward, up to {show_bytes(memory.workspace)} workspace; in all {totals}",
            ]
        )


def show_bytes(count: float) -> str:
    """'94.4 MB' (powers of 1000)."""
    power = 0
    while abs(count) >= 1000 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.{min(power, 1)}f} {_UNITS[power]}"


def summarize(model: Network, batch: int = 32) -> Summary:
    """The summary of a network for training on `batch` images. Nothing is run; see `Summary` and `Memory`.

    >>> found = minires.summarize(minires.resnet("resnet20", (32, 32, 3), 10), batch=32)
    >>> found.trained, found.flops_forward  # a multiply-add is two
    (272474, 81626368)
    """
    if batch < 1:
        raise ConfigError(f"a batch holds at least 1 image, got {batch}")
    walk = _Walk(batch, model.dtype.itemsize)
    nn.walk(model, walk.visit, walk.start(model.input_shape))
    trained, not_trained = model.parameter_count()
    forward = sum(row.flops for row in walk.rows)
    # backward costs the forward product twice, for dw and for dx; no one asks for the gradient of the image
    first = next((row.flops for row in walk.rows if row.flops), 0)
    weights = trained * walk.itemsize
    return Summary(
        name=model.name,
        batch=batch,
        rows=tuple(walk.rows),
        trained=trained,
        not_trained=not_trained,
        flops_forward=forward,
        flops_training=3 * forward - first,
        memory=Memory(
            parameters=weights + not_trained * walk.itemsize,
            gradients=weights,
            optimiser={name: slots * weights for name, slots in OPTIMISER_SLOTS.items()},
            activations=sum(row.kept_bytes for row in walk.rows),
            workspace=walk.workspace,
        ),
    )


@dataclass(eq=False)
class _Array:
    """An array that flows between layers: its shape without the batch, who made it, whether a layer keeps it."""

    shape: tuple
    maker: str
    of: "_Array | None" = None  # the array whose memory it shares
    kept: bool = False


class _Walk:
    """Follows an array through the modules, in the order of the forward pass, and writes a row for each layer."""

    def __init__(self, batch: int, itemsize: int):
        self.batch, self.itemsize = batch, itemsize
        self.rows: list[Row] = []
        self.workspace = 0

    def start(self, shape) -> _Array:
        self.rows.append(Row("input", "Input", (None, *shape), 0, 0, (), 0, 0))
        return _Array(tuple(shape), "input")

    def visit(self, layer: Module, *inputs: _Array) -> _Array:
        shapes = [x.shape for x in inputs]
        shape = layer.output_shape(*shapes)
        y = _Array(shape, layer.name, (inputs[0].of or inputs[0]) if layer.view else None)
        named = dict(zip(layer.inputs, inputs, strict=False)) | {"y": y}
        kept = layer.kept_numbers(self.batch, shape) * self.itemsize
        for array in (named[letter].of or named[letter] for letter in layer.keeps if letter in named):
            if not array.kept:
                array.kept = True
                kept += self._bytes(array.shape)
        flops = layer.flops(shapes[0], shape)
        trained, running = layer.parameter_count()
        makers = tuple(x.maker for x in inputs)
        self.rows.append(Row(layer.name, type(layer).__name__, (None, *shape), trained, running, makers, flops, kept))
        passing = sum(map(self._bytes, (*shapes, shape))) + layer.workspace(self.batch, shapes[0], shape)
        self.workspace = max(self.workspace, passing)
        return y

    def _bytes(self, shape) -> int:
        return self.batch * math.prod(shape) * self.itemsize
