"""A probe on every module of a network: what it receives and sends, forward and back.

    with probe(model) as log:
        model.backward(model.forward(x))
    for row in log.rows(): ...

`forward` and `backward` are shadowed on the module instances from outside and restored at the end; the layers
carry no code for it. Each number stays a 0-d array on its device until it is asked for: nothing waits for a
GPU inside the block. `first_nonfinite` asks where a number stopped being finite; `untouched` puts a network back.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from minires.backend import Array, device_of, get_xp
from minires.nn.activation import Dropout
from minires.nn.blocks import Block
from minires.nn.module import Module

# numbers that are not finite are what one looks for with a probe, not a reason to warn
_quiet = np.errstate(all="ignore")


@_quiet
def rms(x: Array):
    """The root mean square of an array, sqrt(mean x^2), as a 0-d float64 array on its device.

    Squared in float64: a gradient of 1e-30, which a plot has to show, squares to 0 in float32.
    """
    xp = get_xp(x)
    return xp.sqrt(xp.square(x, dtype=xp.float64).mean())


@_quiet
def cosine(a, b: Array | None):
    """<a, b> / (|a| |b|) as a 0-d array: 1 where two gradients agree, 0 at right angles; NaN for a zero one."""
    xp = get_xp(a)
    a, b = a.ravel().astype(xp.float64), b.ravel().astype(xp.float64)
    return (a @ b) / xp.sqrt((a @ a) * (b @ b))


@_quiet
def _describe(y) -> dict:
    xp = get_xp(y)
    return {
        "mean": y.mean(dtype=xp.float64),
        "std": y.std(dtype=xp.float64),
        "rms": rms(y),
        "zeros": (y == 0).mean(),
        "finite": xp.isfinite(y).all(),
    }


@dataclass
class Record:
    """What the last forward and backward of one module showed; None for what did not happen."""

    name: str
    kind: str
    shape: tuple | None = None  # of the output, with the batch
    input_shape: tuple | None = None  # of the (first) input
    forward: dict = field(default_factory=dict)  # of the output: mean, std, rms, share of zeros, finite
    dy_rms: object = None
    dx_rms: object = None  # at an add node, of what the branch gets; `Fork` has both
    kept_bytes: int = 0  # a layer's own; an array that two layers keep counts in both
    forward_marks: tuple | None = None
    backward_marks: tuple | None = None


class Fork:
    """Where a block's paths part: the gradient that comes back through each, and how they stand to each other.

    The place is the block's input x; in a pre-activation block with a projection it is h, after the first
    BN and ReLU, since both paths start there.
    """

    def __init__(self, name: str):
        self.name = name
        self.meet = None  # a further function of both gradients, called when they are at hand
        self._parts: dict = {}
        self.numbers: dict = {}

    def note(self, path: str, gradient) -> None:
        """Take the gradient of 'branch' or 'shortcut'. With both at hand they are compared at once, before
        the block may add one to the other in place, and let go."""
        self._parts[path] = gradient
        if len(self._parts) == 2:
            branch, shortcut = self._parts["branch"], self._parts["shortcut"]
            self.numbers |= {
                "branch_rms": rms(branch),
                "shortcut_rms": rms(shortcut),
                "sum_rms": rms(branch + shortcut),
                "cosine": cosine(branch, shortcut),
            }
            if self.meet is not None:
                self.meet(branch, shortcut)
            self._parts = {}


class Probe:
    """What a `probe` block recorded. outputs: False leaves out the numbers of what each module sends forward."""

    def __init__(self, model: Module, *, outputs: bool = True):
        self.modules, self.outputs = list(model.modules()), outputs
        self.records = {m: Record(m.name or type(m).__name__.lower(), type(m).__name__) for m in self.modules}
        self.forks: dict[Module, Fork] = {}
        self._watched: dict[Module, list] = {}  # module -> what to do with the dx that it returns
        for block in self.modules:
            if isinstance(block, Block) and block.shortcut is not None:
                self._watch(block)

    def _watch(self, block: Block) -> None:
        fork = self.forks[block] = Fork(block.name)
        identity = block.shortcut == Block.IDENTITY
        branch = block.before if block.from_x and block.before is not None else block.branch

        def at_add(gradients):
            dbranch, dshortcut = gradients
            fork.numbers |= {"add_branch_rms": rms(dbranch), "add_shortcut_rms": rms(dshortcut)}
            if identity:
                fork.note("shortcut", dshortcut)

        self._watched[block.add] = [at_add]
        self._watched[branch] = [lambda dx: fork.note("branch", dx)]
        if not identity:
            self._watched[block.shortcut] = [lambda dx: fork.note("shortcut", dx)]

    def wrap_forward(self, module: Module, forward):
        """`forward` with a record of what it returns."""
        record = self.records[module]

        def probed(*inputs):
            start = _mark(inputs[0])
            y = forward(*inputs)
            record.forward_marks = get_xp(y), start, _mark(y)
            record.input_shape = inputs[0].shape
            record.shape, record.forward = y.shape, _describe(y) if self.outputs else {}
            record.kept_bytes = sum(getattr(array, "nbytes", 0) for array in module._slot or ())
            return y

        return probed

    def wrap_backward(self, module: Module, backward):
        """`backward` with a record of what it receives and returns."""
        record, watchers = self.records[module], self._watched.get(module, ())

        def probed(dy, *args, **kwargs):
            record.dy_rms = rms(dy)
            start = _mark(dy)
            dx = backward(dy, *args, **kwargs)
            record.backward_marks = get_xp(dy), start, _mark(dy)
            for watcher in watchers:
                watcher(dx)
            first = dx[0] if isinstance(dx, tuple) else dx
            record.dx_rms = None if first is None else rms(first)
            return dx

        return probed

    def rows(self) -> list[dict]:
        """One dict a module, containers before what is in them, in forward order; waits for the device.

        name, kind, shape; mean, std, rms, zeros (share of exact zeros) and finite, of the output; dy_rms and
        dx_rms, the gradients it received and sent back; forward_seconds and backward_seconds; kept_bytes.
        A container's time is the sum of its layers', so that the probe's own work does not count.
        """
        times = {m: self._seconds(m) for m in self.modules}
        return [
            {
                "name": r.name,
                "kind": r.kind,
                "shape": r.shape,
                **{key: _number(r.forward.get(key)) for key in ("mean", "std", "rms", "zeros")},
                "finite": bool(r.forward["finite"]) if r.forward else None,
                "dy_rms": _number(r.dy_rms),
                "dx_rms": _number(r.dx_rms),
                "forward_seconds": times[module][0],
                "backward_seconds": times[module][1],
                "kept_bytes": r.kept_bytes,
            }
            for module, r in self.records.items()
        ]

    def blocks(self) -> list[dict]:
        """One dict a block with a shortcut: the gradients at its add node and where its paths part.

        add_branch_rms, add_shortcut_rms: what the add node sends into each path (equal: it copies).
        branch_rms, shortcut_rms, sum_rms, cosine: what comes back through each path, their sum, their angle.
        """
        return [
            {"name": fork.name, **{key: _number(value) for key, value in fork.numbers.items()}}
            for fork in self.forks.values()
        ]

    def _seconds(self, module: Module) -> tuple:
        leaves = [m for m in module.modules() if not m.children()]
        marks = [(self.records[m].forward_marks, self.records[m].backward_marks) for m in leaves]
        return tuple(
            sum(map(_elapsed, done)) if (done := [m for m in column if m]) else None
            for column in zip(*marks, strict=True)
        )


def _mark(x):
    """A point in time of the device that holds x: seconds, or an event in the GPU's stream."""
    if device_of(x) == "cpu":
        return perf_counter()
    event = get_xp(x).cuda.Event()
    event.record()
    return event


def _elapsed(marks) -> float:
    xp, start, end = marks
    if xp is np:
        return end - start
    end.synchronize()
    return xp.cuda.get_elapsed_time(start, end) / 1000  # it counts milliseconds


def _number(value) -> float | None:
    """A Python float, from wherever the array is; None where there is none or it is not a number."""
    return None if value is None or np.isnan(number := float(value)) else number


@contextmanager
def probe(model: Module, log: Probe | None = None):
    """Record every forward and backward inside the block; yields a `Probe`. Restores the methods on any exit.

    log: another Probe than the usual one, made for this model, to record with.
    """
    log = log or Probe(model)
    before = [(m, {k: v for k, v in vars(m).items() if k in ("forward", "backward")}) for m in log.modules]
    try:
        for m in log.modules:
            m.forward, m.backward = log.wrap_forward(m, m.forward), log.wrap_backward(m, m.backward)
        yield log
    finally:
        for m, methods in before:
            del m.forward, m.backward
            vars(m).update(methods)  # those of an outer probe, if any


@dataclass(frozen=True)
class NonFinite:
    """Where a value that is not finite came up first; kind is 'parameter', 'buffer', 'input' or the layer's type."""

    name: str
    kind: str

    def __str__(self) -> str:
        if self.kind in ("parameter", "buffer"):
            return f"the {self.kind} {self.name}"
        return "the input" if self.kind == "input" else f"the output of {self.name} ({self.kind})"


def first_nonfinite(model: Module, x: Array) -> NonFinite | None:
    """Where values stop being finite: the first parameter or buffer, else the input, else the first layer output
    as x goes forward in the model's present mode. None where all is finite. The model is left as it was."""
    for kind, held in (("parameter", model.params()), ("buffer", model.buffers())):
        for value in held:
            if not get_xp(value.data).isfinite(value.data).all():
                return NonFinite(value.name, kind)
    if not get_xp(x).isfinite(x).all():
        return NonFinite("input", "input")
    with untouched(model), probe(model) as log, np.errstate(all="ignore"):
        model.forward(x)
    leaves = {m.name for m in model.modules() if not m.children()}
    bad = (row for row in log.rows() if row["finite"] is False and row["name"] in leaves)
    return next((NonFinite(row["name"], row["kind"]) for row in bad), None)


@contextmanager
def untouched(model: Module):
    """Put back what a forward and a backward in training mode change; gradients inside start from none."""
    modules = [(m, m.training, m.save_for_backward, m._slot) for m in model.modules()]
    buffers = [(b, b.data.copy()) for b in model.buffers()]
    grads = [(p, p.grad) for p in model.params()]
    dropouts = [(m.rng.bit_generator, m.rng.bit_generator.state) for m, *_ in modules if isinstance(m, Dropout)]
    try:
        for module, *_ in modules:
            module.save_for_backward = True
        for p, _ in grads:
            p.grad = None  # else backward would write into the array that is to be kept
        yield
    finally:
        for module, training, keeps, slot in modules:
            module.training, module.save_for_backward, module._slot = training, keeps, slot
        for buffer, data in buffers:
            buffer.data[...] = data
        for p, grad in grads:
            p.grad = grad
        for generator, state in dropouts:
            generator.state = state
