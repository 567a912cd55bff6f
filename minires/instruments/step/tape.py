"""A tape of one batch's way through a network: every layer forward, then every gradient backward, in order.

`record` runs one training-mode forward and backward under a probe and notes, for each leaf layer, for the loss,
for each add node and for each fork (the place where a block's two paths start, and where their gradients meet
again), what came in, what went out and what was kept. Nothing is computed again and the model is left as it was.
`terminal.py` plays a tape in the terminal, `page.py` in a web page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest

import numpy as np

from minires import ops
from minires.backend import Array, to_numpy
from minires.instruments.step import formulas
from minires.instruments.step.formulas import Maths
from minires.nn import Add, Block, Branches, Module, Network, Param
from minires.nn.probe import Probe, cosine, probe, rms, untouched

CHANNELS = 8  # of the first image, shown as tiles
SIDE = 40  # pixels of a tile at most; larger maps show every second, third ... pixel
BINS = 41  # odd: one bin has zero in its middle
REACH = 3  # tiles and histogram reach this many times the rms of the values that are not 0

_SETTINGS = ("kernel", "stride", "pad", "epsilon", "rate")


@dataclass(frozen=True, eq=False)
class Tensor:
    """An array that passed: its statistics over the whole batch, and the first image's first channels as tiles.

    limit      tiles and histogram reach from -limit to limit: REACH times the rms of the values that are not
               exactly 0 (half of them are after a ReLU), or the largest |value| if that is less
    histogram  (BINS,) counts of the values that are finite and not 0; what lies beyond counts in the end bins
    tiles      uint8 (channels, height, width): 128 + 127 value / limit, clipped; 0 for what is not finite
    every      the tiles show every so-manieth row and column
    """

    shape: tuple[int, ...]
    mean: float
    rms: float
    low: float
    high: float
    zeros: float  # share of exact zeros
    finite: bool
    limit: float
    histogram: np.ndarray
    tiles: np.ndarray
    every: int


@dataclass(frozen=True)
class Held:
    """An array that a layer keeps for backward; or one of its parameters, then with its RMS and its gradient's."""

    name: str
    shape: tuple[int, ...]
    nbytes: int
    rms: float | None = None
    grad_rms: float | None = None


@dataclass(frozen=True)
class Step:
    """One layer in one direction. `inputs` and `outputs` map the maths's letters to positions in Tape.tensors."""

    name: str
    kind: str
    direction: str  # forward, backward
    stage: str
    block: str  # "" outside of blocks
    path: str  # main, branch, shortcut
    maths: Maths
    inputs: dict[str, int]
    outputs: dict[str, int]
    held_bytes: int  # kept by all layers together once this step is done, each array once
    kept: tuple[Held, ...] = ()  # forward: put into the slot; backward: taken out of it
    params: tuple[Held, ...] = ()
    settings: dict = field(default_factory=dict)  # stride, pad ...
    cosine: float | None = None  # at an add node forward and at a fork backward: between the two paths
    exact: bool | None = None  # at a fork: whether the next layer received this very sum, to the bit


@dataclass(frozen=True)
class Tape:
    """The steps in the order in which they happened, and the tensors that they name."""

    title: str
    seed: int
    batch: int
    loss: float
    classes: tuple[str, ...]
    probs: tuple[float, ...]  # of the first image, as is the label
    label: int
    image: np.ndarray | None  # the first image as it was given, uint8 (H, W, 3)
    steps: tuple[Step, ...]
    tensors: tuple[Tensor, ...]

    def sources(self) -> dict[str, str]:
        """Name of an op -> its source, each once."""
        return {name: code for step in self.steps for name, code in step.maths.sources().items()}

    def find(self, text: str, direction: str | None = None) -> int | None:
        """The position of the first step whose name contains `text`, in this direction if one is given."""
        text = text.lower()
        matches = (i for i, s in enumerate(self.steps) if text in s.name.lower() and direction in (None, s.direction))
        return next(matches, None)

    def sentence(self, position: int) -> str:
        """What happened at this step, in a sentence with its numbers."""
        step = self.steps[position]
        into, out = ([self.tensors[i] for i in ends.values()] for ends in (step.inputs, step.outputs))
        if step.kind == "Fork":
            return (
                f"From the branch comes a gradient of rms {show(into[0].rms)}, from the shortcut one of "
                f"{show(into[1].rms)} (cosine {show(step.cosine)}); their sum has {show(out[0].rms)}."
            )
        if step.kind == "Add" and step.direction == "forward":
            return (
                f"The branch brings rms {show(into[0].rms)}, the shortcut {show(into[1].rms)} "
                f"(cosine {show(step.cosine)}); their sum has {show(out[0].rms)}."
            )
        if step.kind == "Add":
            return f"A gradient of rms {show(into[0].rms)} arrives; the branch and the shortcut each receive all of it."
        if step.kind == "Loss" and step.direction == "forward":
            return f"The loss of the batch is {self.loss:.4f}; the right class of the first image has probability " + (
                f"{self.probs[self.label]:.1%}."
            )
        if step.kind == "Loss":
            return f"The gradient starts with rms {show(out[0].rms)}."
        if step.direction == "forward":
            return f"{_size(into[0])} with rms {show(into[0].rms)} becomes {_size(out[0])} with rms {show(out[0].rms)}."
        return f"A gradient of rms {show(into[0].rms)} arrives, one of {show(out[0].rms)} goes on."


def show(value: float | None) -> str:
    """A number in three digits."""
    return "none" if value is None else f"{value:.3g}".replace("-", "−")


def _size(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape))


def summarise(array: Array) -> Tensor:
    """The Tensor of an array (N, H, W, C) or (N, C), on any device."""
    a = to_numpy(array)
    good = np.isfinite(a)
    values = a[good].astype(np.float64)
    if not values.size:
        values = np.zeros(1)
    squares, counted = np.square(values).sum(), values[values != 0]
    limit = min(REACH * math.sqrt(squares / max(counted.size, 1)), float(np.abs(values).max())) or 1.0
    tiles, every = _tiles(a)
    with np.errstate(invalid="ignore"):
        levels = 128 + np.rint(127 * np.clip(tiles.astype(np.float64) / limit, -1, 1))
    return Tensor(
        shape=a.shape,
        mean=float(values.mean()),
        rms=math.sqrt(squares / values.size),
        low=float(values.min()),
        high=float(values.max()),
        zeros=float((a == 0).mean()),
        finite=bool(good.all()),
        limit=limit,
        histogram=np.histogram(np.clip(counted, -limit, limit), BINS, (-limit, limit))[0],
        tiles=np.where(np.isfinite(tiles), levels, 0).astype(np.uint8),
        every=every,
    )


def _tiles(a) -> tuple[np.ndarray, int]:
    """(the first image's first channels (channels, height, width), how many pixels a step is).

    A vector is one tile: one row if it is short, else as near to a square as its length allows.
    """
    if a.ndim == 4 and max(a.shape[1:3]) > 1:
        every = math.ceil(max(a.shape[1:3]) / SIDE)
        return a[0, ::every, ::every, :CHANNELS].transpose(2, 0, 1), every
    vector = a[0].ravel()
    rows = max(d for d in range(1, math.isqrt(len(vector)) + 1) if len(vector) % d == 0) if len(vector) > 16 else 1
    return vector.reshape(1, rows, -1), 1


class _Recorder(Probe):
    """A probe that also writes a tape. An array that comes again keeps its place among the tensors."""

    def __init__(self, model: Network):
        super().__init__(model)
        self.steps: list[Step] = []
        self.tensors: list[Tensor] = []
        self._known = {}  # id of an array -> (position, the array: held, so that the id stays its own)
        self._places = _places(model)
        self._sum = None  # what the last fork summed, until the next layer receives it
        self._parts = {}  # branches -> path -> the gradient that it sent
        for block, fork in self.forks.items():
            fork.meet = partial(self._meet, block)
        for branches in (m for m in self.modules if isinstance(m, Branches)):
            for path in branches.paths:
                self._watched.setdefault(path, []).append(partial(self._gather, branches, path))

    def wrap_forward(self, module, forward):
        probed = super().wrap_forward(module, forward)
        if module.children():
            return probed

        def taped(*inputs):
            y = probed(*inputs)
            angle = _number(cosine(*inputs)) if isinstance(module, Add) else None
            ends = dict(zip(_letters(module, len(inputs)), inputs, strict=True)), {"y": y}
            self._note_layer(module, "forward", *ends, kept=_kept(module), cosine=angle)
            return y

        return taped

    def wrap_backward(self, module, backward):
        probed = super().wrap_backward(module, backward)
        if module.children():
            return probed

        def taped(dy, *args, **kwargs):
            self.receive(dy)
            kept = _kept(module)
            dx = probed(dy, *args, **kwargs)
            into = dx if isinstance(dx, tuple) else (dx,)
            letters = ("d" + letter.removesuffix("(x)") for letter in _letters(module, len(into)))
            outputs = {letter: d for letter, d in zip(letters, into, strict=True) if d is not None}
            self._note_layer(module, "backward", {"dy": dy}, outputs, kept=kept)
            return dx

        return taped

    def receive(self, gradient) -> None:
        """Compare the gradient that arrives after a fork with the sum that was noted there, bit by bit."""
        if self._sum is not None:
            same = np.array_equal(to_numpy(self._sum), to_numpy(gradient), equal_nan=True)
            self.steps[-1] = replace(self.steps[-1], exact=same)
            if same:
                self._known[id(gradient)] = self._position(self._sum), gradient
            self._sum = None

    def note(self, direction: str, inputs: dict, outputs: dict, **fields) -> None:
        """Write a step down; inputs and outputs map letters to arrays."""
        inputs, outputs = ({letter: self._position(a) for letter, a in end.items()} for end in (inputs, outputs))
        slots = {id(a): a.nbytes for m in self.modules for a in m._slot or () if hasattr(a, "nbytes")}
        held = sum(slots.values())
        self.steps.append(Step(direction=direction, inputs=inputs, outputs=outputs, held_bytes=held, **fields))

    def _note_layer(self, module, direction, inputs, outputs, **fields) -> None:
        record = self.records[module]
        settings = {key: getattr(module, key) for key in _SETTINGS if hasattr(module, key)}
        self.note(
            direction,
            inputs,
            outputs,
            name=record.name,
            kind=record.kind,
            **self._places[module],
            maths=formulas.maths(module, direction),
            settings=settings,
            params=_params(module, direction),
            **fields,
        )

    def _meet(self, block: Block, branch, shortcut) -> None:
        """Where the paths part: both gradients are at hand and the block is about to add them."""
        angle = _number(self.forks[block].numbers["cosine"])
        self._add_up(block, self._places[block.add], {"via branch": branch, "via shortcut": shortcut}, cosine=angle)

    def _gather(self, branches: Branches, path: Module, dx) -> None:
        """The same for paths that are joined otherwise, once the last of them has sent its gradient."""
        parts = self._parts.setdefault(branches, {})
        parts[path] = dx
        if len(parts) == len(branches.paths):
            named = {f"via {p.name or i}": parts[p] for i, p in enumerate(branches.paths, 1)}
            self._add_up(branches, self._places[branches], named)
            del self._parts[branches]

    def _add_up(self, block, place, parts, **fields) -> None:
        first, *others = parts.values()
        self._sum = sum(others, first)
        maths = formulas.fork(type(block), tuple(parts))
        self.note(
            "backward", parts, {"dx": self._sum}, name=f"{block.name}.fork", kind="Fork", **place, maths=maths, **fields
        )

    def _position(self, array) -> int:
        if id(array) not in self._known:
            self.tensors.append(summarise(array))
            self._known[id(array)] = len(self.tensors) - 1, array
        return self._known[id(array)][0]


def record(
    model: Network,
    x: Array,
    labels: Array,
    *,
    classes: Sequence[str] | None = None,
    image: np.ndarray | None = None,
    title: str | None = None,
) -> Tape:
    """The tape of softmax cross-entropy on one batch, in training mode, with the gradient carried back to x.

    x (N, H, W, C) in the model's dtype and on its device, labels (N,) integers; classes: their names; image: the
    first one as uint8 (H, W, 3), to show. Every array that passes is held until the recording ends: about twice
    the memory of a training step. The model is left exactly as it was. Raises ShapeError as `forward` does.
    """
    recorder = _Recorder(model)
    loss_place = {"name": "loss", "kind": "Loss", "stage": "loss", "block": "", "path": "main"}
    with untouched(model), probe(model, recorder):
        model.train()
        logits = model.forward(x)
        loss, probs = ops.softmax_cross_entropy_forward(logits, labels)
        recorder.note("forward", {"logits": logits}, {"p": probs}, **loss_place, maths=formulas.LOSS["forward"])
        dlogits = ops.softmax_cross_entropy_backward(probs, labels)
        recorder.note("backward", {"p": probs}, {"dlogits": dlogits}, **loss_place, maths=formulas.LOSS["backward"])
        recorder.receive(model.backward(dlogits))
    return Tape(
        title=title or model.title,
        seed=model.config.seed,
        batch=len(x),
        loss=float(loss),
        classes=tuple(classes or map(str, range(probs.shape[1]))),
        probs=tuple(map(float, to_numpy(probs)[0])),
        label=int(labels[0]),
        image=image,
        steps=tuple(recorder.steps),
        tensors=tuple(recorder.tensors),
    )


def _places(model: Network) -> dict[Module, dict]:
    """Each module's stage, block and path."""
    paths = {}
    for block in (m for m in model.modules() if isinstance(m, Block)):
        for path in ("branch", "shortcut"):
            if isinstance(top := getattr(block, path), Module):
                paths |= dict.fromkeys(top.modules(), path)
    return {
        module: {
            "stage": stage,
            "block": block.name if block and block.children() else "",
            "path": paths.get(module, "main"),
        }
        for module, (stage, block) in model.places().items()
    }


def _letters(module: Module, count: int) -> tuple[str, ...]:
    """What the inputs of a module are called: x, or x1, x2, ... where a join takes any number of them."""
    return module.inputs if len(module.inputs) == count else tuple(f"x{i}" for i in range(1, count + 1))


def _kept(module: Module) -> tuple[Held, ...]:
    """What is in the layer's slot now; a slot may also hold shapes, which cost nothing."""
    arrays = [a for a in module._slot or () if hasattr(a, "nbytes")]
    names = module.keeps[: len(arrays)]
    return tuple(Held(name, a.shape, a.nbytes) for name, a in zip_longest(names, arrays, fillvalue="array"))


def _params(module: Module, direction: str) -> tuple[Held, ...]:
    """A layer's parameters; on the way back with their gradients."""
    return tuple(
        Held(
            p.name.removeprefix(f"{module.name}."),
            p.data.shape,
            p.data.nbytes,
            float(rms(p.data)),
            float(rms(p.grad)) if direction == "backward" else None,
        )
        for p in module._members()
        if isinstance(p, Param)
    )


def _number(value) -> float | None:
    """A Python float from wherever the array is; None for what is not a number, such as an angle to nothing."""
    return None if math.isnan(number := float(value)) else number
