"""What a gradient check moves and evaluates: a wrapped copy of a network, or a pair of functions.

`Watch` wraps every module of a copy: what each receives and sends, and on which side of its kink each unit is.
`subject` makes, of either kind of target, tensors by name, a forward, and the gradients at the starting point.
"""

import copy
import inspect
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minires import nn
from minires.backend import to_numpy
from minires.geometry import span
from minires.instruments.findings import Finding
from minires.instruments.gradcheck.causes import in_place, label, moving

FLOAT32 = {"epsilon": 1e-2, "tolerance": 3e-2}  # what float32 can tell at best


@dataclass
class Call:
    """The last forward and backward of a module: copies of what it received and returned."""

    inputs: tuple
    y: np.ndarray
    dy: np.ndarray | None = None
    dx: tuple = ()


@dataclass(frozen=True)
class Kink:
    """Where a stencil's two ends lie on different sides of a kink or a tie."""

    layer: str
    kind: str
    index: tuple  # into the layer's output
    count: int  # in the whole network

    def __str__(self) -> str:
        what = "another pixel wins the window of" if self.kind == "MaxPool2d" else "a unit changes sides in"
        return f"{what} {self.layer} ({self.kind}) at index {self.index}; {self.count} in all"


class Watch:
    """Wraps every module of `model`, which must be a copy to throw away.

    mode "record": `calls` takes each module's inputs, output, dy and dx, and `written` the arrays that a module
    was handed and changed. "pattern": `patterns` takes on which side of its kink each unit is. "hold": every
    ReLU and maximum keeps the side that `base` says. "off": nothing.
    """

    def __init__(self, model: nn.Module):
        self.calls: dict[nn.Module, Call] = {}
        self.written: list[tuple[nn.Module, str]] = []
        self.base: dict[tuple, np.ndarray] = {}
        self.begin("off")
        for module in list(model.modules()):
            module.forward = self._forward(module, module.forward)
            module.backward = self._backward(module, module.backward)

    def begin(self, mode: str) -> None:
        """Start a pass."""
        self.mode, self.patterns, self._count = mode, {}, {}

    def _forward(self, module, forward):
        kinked = not module.children() and not module.smooth  # then it is watched by the zeros in its output

        def watched(*inputs):
            if self.mode == "record":
                before = copies(inputs)
                y = forward(*inputs)
                self.calls[module] = Call(before, y.copy())
                self._compare(module, before, inputs, "x")
                return y
            if not kinked or self.mode == "off":
                return forward(*inputs)
            key = module, self._count.setdefault(module, 0)
            self._count[module] += 1
            if self.mode == "hold" and key in self.base and _holdable(module):
                return _held(module, inputs[0], self.base[key])
            y = forward(*inputs)
            self.patterns[key] = _pattern(module, inputs[0], y)
            return y

        return watched

    def _backward(self, module, backward):
        def watched(dy, *args, **kwargs):
            if self.mode != "record":
                return backward(dy, *args, **kwargs)
            before = copies((dy,))
            dx = backward(dy, *args, **kwargs)
            call = self.calls[module]
            call.dy, call.dx = before[0], copies(dx if isinstance(dx, tuple) else (dx,))
            self._compare(module, before, (dy,), "dy")
            return dx

        return watched

    def _compare(self, module, before, after, what) -> None:
        if not all(np.array_equal(b, a, equal_nan=True) for b, a in zip(before, after, strict=True)) and not any(
            w == what and (m in module.modules()) for m, w in self.written
        ):
            self.written.append((module, what))

    def first_float32(self) -> str | None:
        """The first layer that was handed float64 and returned less; None where there is none."""
        for module, call in self.calls.items():
            if not module.children() and call.inputs[0].dtype == np.float64 and call.y.dtype != np.float64:
                return label(module)
        return None


def crossing(one: dict, other: dict) -> Kink | None:
    """The first kink that lies between two points' patterns."""
    differ = [(key, one[key] != other[key]) for key in one if key in other]
    count = sum(int(d.sum()) for _, d in differ)
    if not count:
        return None
    (module, _), where = next((key, d) for key, d in differ if d.any())
    return Kink(label(module), type(module).__name__, tuple(map(int, np.argwhere(where)[0])), count)


def copies(arrays) -> tuple:
    """A copy of each, None for None."""
    return tuple(None if a is None else a.copy() for a in arrays)


def _holdable(module) -> bool:
    return type(module).forward in (nn.ReLU.forward, nn.LeakyReLU.forward, nn.MaxPool2d.forward)


def _pool_windows(module, x):
    """(N, P, Q, C, R * S): every window of the pool, its cells in row-major order."""
    (sv, sh), (dv, dh) = module.stride, module.dilation
    padded = np.pad(x, ((0, 0), *module.pads(x.shape[1:]), (0, 0)), constant_values=-np.inf)
    reach = span(module.kernel, module.dilation)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))[:, ::sv, ::sh, :, ::dv, ::dh]
    return windows.reshape(*windows.shape[:4], -1)


def _pattern(module, x, y):
    """Which cell wins each window of a pool, which outputs are not positive; for anything else, which are zero."""
    if isinstance(module, nn.MaxPool2d):
        return _pool_windows(module, x).argmax(axis=-1)
    return y <= 0 if isinstance(module, (nn.ReLU, nn.LeakyReLU)) else y == 0


def _held(module, x, pattern):
    if isinstance(module, nn.MaxPool2d):
        return np.take_along_axis(_pool_windows(module, x), pattern[..., None], axis=-1)[..., 0]
    return np.where(pattern, getattr(module, "slope", 0) * x, x)


def make_subject(target, x, *, dtype, training=None, dy=None, seed=0):
    """The subject of a Module, or of a pair (forward, backward); arguments as `gradcheck.gradcheck` has them."""
    arrays = x if isinstance(x, dict) else dict(enumerate(x if isinstance(x, tuple) else (x,)))
    arrays = {name: np.array(to_numpy(a)) for name, a in arrays.items()}
    single = dtype is not None and any(a.dtype == np.float32 for a in arrays.values())
    if dtype is not None:
        arrays = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    if isinstance(target, nn.Module):
        module = copy.deepcopy(target).to("cpu")
        module = module if dtype is None else module.astype(dtype)
        module = module if training is None else module.train(training)
        for part in module.modules():
            part.save_for_backward = True
        subject = ModuleSubject(module, arrays, dy, seed)
    else:
        subject = FunctionSubject(*target, arrays, dy, seed)
    if single and subject.y.dtype == np.float64:
        detail = "x is float32: a copy was checked in float64, since float32 differences have 2 or 3 digits"
        subject.notes.append(Finding("float32", "ok", detail))
    return subject


class Subject:
    """What is checked: tensors by name that can be moved, a forward, and the gradients at the start."""

    module = pristine = None
    mode = "function"

    def finish(self, dy, seed):
        """The pass at the starting point, from which everything else departs."""
        self.notes: list[Finding] = []
        self.y = np.array(self.forward("record"))
        # a stream of its own: a dy that equals the caller's x makes the dx of a batch norm vanish
        rng = np.random.default_rng([seed, 1])
        self.dy = rng.standard_normal(self.y.shape) if dy is None else np.asarray(dy)
        self.dy = self.dy.astype(self.y.dtype)
        self.grads = self.gradients(self.dy.copy())
        self.tensors = {n: t for n, t in self.tensors.items() if t.dtype.kind == "f" and n not in self.constant}
        self.after_first_pass()
        if self.y.dtype == np.float32:
            where = self.first_float32()
            reason = f"from {where} on" if where else "as the input or the weights are"
            detail = f"{self.title} computes in float32, {reason}: judged to {FLOAT32['tolerance']:g} only"
            fix = "check in float64 (dtype=np.float64), and keep every constant and result in the dtype of x"
            self.notes.append(Finding("float32", "warn", detail, fix))

    def norm(self, name) -> float:
        grad = self.grads.get(name)
        return 0.0 if grad is None else float(np.linalg.norm(grad.astype(np.float64)))

    @cached_property
    def whole(self) -> float:
        """The norm of all gradients together."""
        return float(np.sqrt(sum(self.norm(name) ** 2 for name in self.tensors)))

    def analytic(self, directions: dict) -> float:
        parts = ((self.grads.get(name), d) for name, d in directions.items())
        return float(sum(np.sum(g * d, dtype=np.float64) for g, d in parts if g is not None))

    def slope(self, directions: dict, epsilon: float, mode: str = "pattern"):
        """(the central difference along the directions, the kink that lies between its ends or None)."""
        before = {name: self.tensors[name].copy() for name in directions}
        ends = []
        for sign in (1, -1):
            for name, d in directions.items():
                self.tensors[name][...] = before[name] + (sign * epsilon) * d
            ends.append((np.array(self.forward(mode, set(directions)), np.float64), self.patterns()))
        for name, value in before.items():
            self.tensors[name][...] = value
        (high, one), (low, other) = ends
        return float(np.sum((high - low) * self.dy)) / (2 * epsilon), crossing(one, other)

    def moved_inputs(self) -> dict:
        """The inputs, each next to where it was: off any kink on which it lay."""
        rng = np.random.default_rng(0)
        return {
            name: a + 1e-3 * rng.standard_normal(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a
            for name, a in zip(self.input_names, self.inputs, strict=True)
        }


class ModuleSubject(Subject):
    def __init__(self, pristine, arrays, dy, seed):
        self.pristine, self.module = pristine, copy.deepcopy(pristine)  # the second one is wrapped and moved about
        self.title = label(pristine)
        self.mode = "training" if pristine.training else "evaluation"
        params = list(self.module.params())
        for p in params:
            p.grad, p.trainable = None, True  # also of what is frozen
        names = [p for p in inspect.signature(type(pristine).forward).parameters if p != "self"]
        self.inputs = tuple(arrays.values())
        self.input_names = [n if isinstance(n, str) else names[min(n, len(names) - 1)] for n in arrays]
        self.tensors = dict(zip(self.input_names, self.inputs, strict=True)) | {p.name: p.data for p in params}
        self.buffers = {b.name: (b, b.data.copy()) for b in self.module.buffers()}
        drawing = [(m, g) for m in self.module.modules() for g in vars(m).values() if _draws(g)]
        self.drawing, self.states = drawing, [g.bit_generator.state for _, g in drawing]
        self.units = [self.module] if drawing else _chain(self.module)
        self.modules = list(self.module.modules())
        self.watch = Watch(self.module)
        self.constant: set = set()
        self.finish(dy, seed)

    def nearby(self):
        return ModuleSubject(copy.deepcopy(self.pristine), self.moved_inputs(), self.dy, 0)

    @property
    def calls(self):
        return self.watch.calls

    def restore(self):
        """Buffers and generators as at the start: every evaluation is of one function."""
        for buffer, data in self.buffers.values():
            buffer.data[...] = data
        for (_, generator), state in zip(self.drawing, self.states, strict=True):
            generator.bit_generator.state = state

    def forward(self, mode="off", moved=(), restore=True):
        """y; what comes before the first moved tensor is not computed again."""
        if restore:
            self.restore()
        self.watch.begin(mode)
        start = 0 if mode == "record" else min((self.first.get(name, 0) for name in moved), default=0)
        values = copies(self.inputs if start == 0 else self.calls[self.units[start]].inputs)
        for unit in self.units[start:]:
            values = (unit.forward(*values),)
        return values[0]

    def patterns(self):
        return self.watch.patterns

    def gradients(self, dy):
        dx = dy
        for unit in reversed(self.units):
            dx = unit.backward(dx)
        dx = dx if isinstance(dx, tuple) else (dx,)
        grads = dict(zip(self.input_names, dx, strict=True)) | {p.name: p.grad for p in self.module.params()}
        return {name: None if g is None else np.array(g) for name, g in grads.items()}

    def after_first_pass(self):
        self.first = {p.name: i for i, unit in enumerate(self.units) for p in unit.params()}
        for module in self.modules:
            module.save_for_backward = False
        close = {"rtol": 1e-9, "atol": 1e-12 * max(1.0, float(np.abs(self.y).max()))}
        if not np.allclose(self.forward(restore=False), self.y, **close):
            moved = [name for name, (buffer, data) in self.buffers.items() if not np.array_equal(buffer.data, data)]
            self.notes.append(moving(moved, [label(m) for m, _ in self.drawing]))
        if not np.allclose(self.forward(), self.y, **close):
            self.notes.append(moving([], []))
        self.forward("pattern")
        self.watch.base = self.watch.patterns
        for module, what in self.watch.written:
            self.notes.append(in_place(self.module, module, what))

    def first_float32(self):
        return self.watch.first_float32()


class FunctionSubject(Subject):
    def __init__(self, forward, backward, arrays, dy, seed):
        self._forward, self._backward = forward, backward
        self.title = getattr(forward, "__name__", "function").strip("<>")
        names = list(inspect.signature(forward).parameters)
        self.input_names = [n if isinstance(n, str) else names[min(n, len(names) - 1)] for n in arrays]
        self.tensors = self.all = dict(zip(self.input_names, arrays.values(), strict=True))
        self.inputs, self.calls, self.constant = tuple(arrays.values()), {}, set()
        self.finish(dy, seed)

    def nearby(self):
        return FunctionSubject(self._forward, self._backward, self.moved_inputs(), self.dy, 0)

    def forward(self, mode="off", moved=()):
        return self._forward(*copies(self.all.values()))

    def patterns(self):
        return {}

    def gradients(self, dy):
        given = [dy, *self.all.values()]
        before = [a.copy() for a in given]
        grads = self._backward(*given)
        self.changed = [
            name for name, a, b in zip(["dy", *self.all], given, before, strict=True) if not np.array_equal(a, b)
        ]
        for a, b in zip(given, before, strict=True):
            a[...] = b
        grads = dict(zip(self.all, grads if isinstance(grads, tuple) else (grads,), strict=True))
        self.constant = {name for name, g in grads.items() if g is None}
        return {name: None if g is None else np.array(g) for name, g in grads.items()}

    def after_first_pass(self):
        for name in self.changed:
            detail = f"{self.title}: backward writes in place into the {name} it was handed"
            fix = f"compute a new array, such as dx = dy * (y > 0), and leave {name} as it is"
            self.notes.append(Finding("in-place write", "warn", detail, fix))

    def first_float32(self):
        return self.title


def _draws(value) -> bool:
    return isinstance(value, np.random.Generator)


def _chain(module) -> list[nn.Module]:
    """The modules whose composition `module` is."""
    if (
        type(module).forward is nn.Sequential.forward
        and type(module).backward is nn.Sequential.backward
        and module.layers
    ):
        return [unit for layer in module.layers for unit in _chain(layer)]
    return [module]
