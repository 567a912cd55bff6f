"""What every module of a copied network receives and sends, and on which side of its kink each unit is."""

from dataclasses import dataclass

import numpy as np

from minires import nn
from minires.errors import ShapeError, StateError
from minires.geometry import span
from minires.instruments import guard
from minires.instruments.guard import label

WRITES = 1_000_000  # numbers of a Param up to which every gradient that it is given is kept


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
    ReLU and maximum keeps the side that `base` says. "off": nothing. In every mode a module that raises, or hands
    back what is no array of the right shape, ends in an error that names it.
    """

    def __init__(self, model: nn.Module):
        self.calls: dict[nn.Module, Call] = {}
        self.written: list[tuple[nn.Module, str]] = []
        self.again: list[nn.Module] = []  # that were run more than once in a forward
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

        def run(*inputs):
            for x in inputs:
                if not guard.is_array(x):
                    detail = f"{label(module)}.forward is handed {guard.kind(x)}, expected an array"
                    raise guard.fault(StateError, "no array", detail, "look at what the layer before it returns")
            y = guard.call(module, "forward", forward, *inputs)
            y = np.asarray(y) if isinstance(y, np.generic) else y  # a loss
            guard.check_forward(module, inputs, y)
            return y

        def watched(*inputs):
            if self.mode == "record":
                before = copies(inputs)
                y = run(*inputs)
                if module in self.calls:
                    self.again.append(module)
                self.calls[module] = Call(before, y.copy())
                self._compare(module, before, inputs, "x")
                return y
            if not kinked or self.mode == "off":
                return run(*inputs)
            key = module, self._count.setdefault(module, 0)
            self._count[module] += 1
            if self.mode == "hold" and key in self.base and _holdable(module):
                return _held(module, inputs[0], self.base[key])
            y = run(*inputs)
            self.patterns[key] = _pattern(module, inputs[0], y)
            return y

        return watched

    def _backward(self, module, backward):
        def watched(dy, *args, **kwargs):
            need_dx = kwargs.get("need_dx", args[0] if args else True)
            call = self.calls.get(module)
            if not guard.is_array(dy) or (call is not None and dy.shape != call.y.shape):
                expected = f", expected an array {call.y.shape}, as y" if call is not None else ""
                detail = f"{label(module)}.backward is handed {guard.kind(dy)}{expected}"
                error = ShapeError if guard.is_array(dy) else StateError
                raise guard.fault(error, "gradient's shape", detail, "look at what hands it on: dy has y's shape")
            if self.mode != "record":
                return guard.call(module, "backward", backward, dy, *args, **kwargs)
            before = copies((dy,))
            dx = guard.call(module, "backward", backward, dy, *args, **kwargs)
            if call is None:
                return dx
            call.dy = before[0]
            given = guard.check_backward(module, call.inputs, dx, need_dx)
            call.dx = copies(given)
            self._compare(module, before, (dy,), "dy")
            return tuple(dx) if isinstance(dx, list) else dx

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


def count_writes(param: nn.Param) -> list[np.ndarray]:
    """The gradients that this Param is given from now on, one after the other; of a large one, none."""
    writes: list[np.ndarray] = []
    usual = type(param)

    def note(self):
        if self.grad is not None and guard.is_array(self.grad) and self.grad.size <= WRITES:
            writes.append(self.grad.copy())

    def give(self, grad):
        vars(self)["grad"] = grad
        note(self)

    def write_grad(self, grad):
        before = len(writes)
        usual.write_grad(self, grad)
        if len(writes) == before:  # in place
            note(self)

    inside = {"grad": property(lambda self: vars(self)["grad"], give), "write_grad": write_grad}
    param.__class__ = type(usual.__name__, (usual,), inside)
    return writes


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


def run_through(model: nn.Module, x: np.ndarray, *, training: bool = True, backward: bool = True) -> None:
    """Run a copy of `model` once, on the CPU: an error of ours, which names the layer, where it does not run."""
    model = guard.copied(model).to("cpu").train(training)
    for module in model.modules():
        module.save_for_backward = True
    for p in model.params():
        p.grad = None
    watch = Watch(model)
    watch.begin("record")
    with np.errstate(all="ignore"):
        y = model.forward(x)
        if backward:
            model.backward(np.ones_like(y), need_dx=False)
