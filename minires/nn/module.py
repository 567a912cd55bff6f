"""State: parameters, buffers, and modules that hold them.

A module computes with the pure functions of minires.ops. `forward` puts what backward will need into one
slot; `backward` takes it out again, so memory falls as backward proceeds, and a missing or a second backward
is an error that names the layer.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from numpy.typing import DTypeLike

from minires.backend import Array, device_of, get_xp, to_device
from minires.errors import ConfigError, DeviceError, ShapeError, StateError

__all__ = [
    "Buffer",
    "Composite",
    "Maths",
    "Module",
    "Param",
    "Sequential",
    "inference",
    "walk",
]


class Param:
    """A trained array. `data` and `grad` have one shape; `decay` tells whether weight decay applies.

    trainable: False where it is frozen (`Module.freeze`): it has no gradient then, and optimisers leave it out.
    """

    def __init__(self, name: str, data: Array, *, decay: bool = True):
        self.name, self.data, self.grad, self.decay = name, data, None, decay
        self.trainable = True

    def write_grad(self, grad: Array) -> None:
        """Keep the gradient of the last backward pass; into the optimiser's flat buffer where there is one."""
        if not self.trainable:
            return
        if self.grad is None:
            self.grad = grad
        elif grad is not self.grad:
            self.grad[...] = grad


class Buffer:
    """An array that is kept with the weights but not trained, such as a running mean."""

    def __init__(self, name: str, data: Array):
        self.name, self.data = name, data


class Maths(NamedTuple):
    """What a layer computes and what it hands back: (formula, a sentence) each, in the letters of minires.ops."""

    forward: tuple[str, str]
    backward: tuple[str, str]


MODES = {"name", "training", "save_for_backward", "frozen"}  # what every module has, beside its settings


class Module:
    """Base of every layer, block and network. Subclasses give `forward`, `backward` and `output_shape`.

    What the instruments tell of a layer stands in its class too: `maths`, `keeps`, `smooth` and the methods from
    `kept_numbers` to `look`. Each has a usual answer, so that a layer of one's own needs none of them.

    >>> class Double(minires.Module):
    ...     def forward(self, x):
    ...         return 2 * x
    ...     def backward(self, dy, need_dx=True):
    ...         return 2 * dy
    ...     def output_shape(self, shape):
    ...         return shape
    >>> minires.gradcheck(Double("double"), numpy.ones((2, 3))).ok
    True
    """

    maths: Maths | None = None
    inputs: tuple[str, ...] = ("x",)  # the letters of what `forward` takes
    keeps: tuple[str, ...] = ()  # the letters of the arrays that `forward` saves, in their order
    smooth = False  # whether y has a derivative everywhere
    view = False  # whether y is x itself, maybe in another shape: it takes no memory of its own

    def __init__(self, name: str = ""):
        self.name = name
        self.training = True
        self.frozen = False
        self.save_for_backward = True  # whether forward saves for backward
        self._slot = None

    def forward(self, x: Array) -> Array:
        """y; in training or evaluation mode as `self.training` says."""
        raise NotImplementedError

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """dx, with every Param's gradient written. Consumes what the last forward saved."""
        raise NotImplementedError

    def output_shape(self, shape: tuple) -> tuple:
        """The shape (without the batch) of y for an x of this shape; ShapeError where it does not fit."""
        raise NotImplementedError

    def kept_numbers(self, batch: int, shape: tuple) -> int:
        """How many numbers `forward` saves beside x and y, for an output of this shape."""
        return 0

    def flops(self, x_shape: tuple, y_shape: tuple) -> int:
        """2 for each multiply-add of one image's forward pass; 0 where there is no matrix product."""
        return 0

    def workspace(self, batch: int, x_shape: tuple, y_shape: tuple) -> int:
        """How many numbers pass through memory beside x and y."""
        return 0

    def onnx(self, graph: Any, x: str, shape: tuple) -> str:
        """Add this layer's nodes to a graph (weights/onnx.py) for the value x; the name of the value that they give.

        A layer of several inputs takes several names and shapes.
        """
        raise ConfigError(f"{self.name}: no ONNX operator is known for {type(self).__name__}: give it a method `onnx`")

    def look(self) -> tuple[str, str] | None:
        """(kind, text) of the layer's bar in a diagram; None: no bar of its own."""
        return "other", type(self).__name__

    def __call__(self, *inputs: Array) -> Array:
        return self.forward(*inputs)

    def __repr__(self) -> str:
        """This module and all inside, a line each: name, type, settings, shapes of the parameters, their numbers."""
        return "\n".join(self._lines(""))

    def _lines(self, indent: str):
        settings = {k: v for k, v in vars(self).items() if k not in MODES and isinstance(v, int | float | str | tuple)}
        shapes = {p.name.removeprefix(f"{self.name}."): p.data.shape for p in self._members() if isinstance(p, Param)}
        inside = ", ".join(f"{k}={v!r}" for k, v in (settings | shapes).items())
        count = sum(self.parameter_count())
        numbers = f"  {count:,} parameters" if count else ""
        yield f"{indent}{self.name}{': ' * bool(self.name)}{type(self).__name__}({inside}){numbers}"
        for child in self.children():
            yield from child._lines(indent + "  ")

    def save(self, *arrays: Array) -> None:
        """Keep arrays for backward."""
        if self.save_for_backward:
            self._slot = arrays

    def saved(self) -> tuple:
        """Take out what forward saved."""
        if self._slot is None:
            raise StateError(
                f"{self.name or type(self).__name__}: backward without a forward before it; call forward "
                "first (and once for each backward; inside `inference()` nothing is kept)"
            )
        slot, self._slot = self._slot, None
        return slot

    def release(self) -> None:
        """Forget what forward saved, here and below."""
        for module in self.modules():
            module._slot = None

    def _members(self):
        for value in vars(self).values():
            yield from value if isinstance(value, list) else [value]

    def children(self) -> list["Module"]:
        """The modules directly inside, in the order of the forward pass."""
        return [m for m in self._members() if isinstance(m, Module)]

    def modules(self) -> Iterator["Module"]:
        """This module and all below it, depth first."""
        yield self
        for child in self.children():
            yield from child.modules()

    def _collect(self, kind) -> list:
        return [v for module in self.modules() for v in module._members() if isinstance(v, kind)]

    def params(self) -> list[Param]:
        """Every Param, here and below, in the order of the forward pass."""
        return self._collect(Param)

    def buffers(self) -> list[Buffer]:
        """Every Buffer, here and below."""
        return self._collect(Buffer)

    def state(self) -> dict:
        """Name -> array (not copied) of every parameter and buffer."""
        return {v.name: v.data for v in self.params() + self.buffers()}

    def parameter_count(self) -> tuple[int, int]:
        """(trained, kept but not trained) numbers."""
        return sum(p.data.size for p in self.params()), sum(b.data.size for b in self.buffers())

    def train(self, mode: bool = True) -> "Module":
        """Training mode: batch normalisation uses the batch's statistics, dropout drops. Returns self.

        What is frozen stays in evaluation mode.
        """
        for module in self.modules():
            module.training = mode and not module.frozen
        return self

    def eval(self) -> "Module":
        """Evaluation mode: running statistics, nothing dropped. Returns self."""
        return self.train(False)

    def freeze(self, frozen: bool = True) -> "Module":
        """Leave all below as it is from now on: no gradient, no update, evaluation mode. Returns self.

        An optimiser and a training step are made after it. freeze(False): trainable again, after `.train()` in
        training mode too.
        """
        for module in self.modules():
            module.frozen = frozen
            module.training &= not frozen
        for p in self.params():
            p.trainable = not frozen
            p.grad = None if frozen else p.grad
        return self

    def is_trainable(self) -> bool:
        """Whether a parameter here or below is trained."""
        return any(p.trainable for p in self.params())

    def _convert(self, change) -> "Module":
        for v in self.params() + self.buffers():
            v.data = change(v.data)
            if isinstance(v, Param):
                v.grad = None
        self.release()
        return self

    def to(self, device: str) -> "Module":
        """Move to 'cpu' or 'gpu', in place; gradients are dropped, and an optimiser must be made anew. Returns self."""
        return self._convert(lambda a: to_device(a, device))

    def astype(self, dtype: DTypeLike) -> "Module":
        """Change the precision, in place (float64 for gradient checks); as `to` otherwise. Returns self."""
        return self._convert(lambda a: a.astype(dtype))

    def check_device(self, x: Array, weight: Array) -> None:
        """DeviceError, naming this layer, when the input and the weights live on different devices."""
        if get_xp(x) is not get_xp(weight):
            here, there = device_of(weight), device_of(x)
            raise DeviceError(
                f"{self.name}: the input is on the {there}, the weights on the {here}: "
                f"move one with minires.to_device(x, '{here}') or model.to('{there}')"
            )


def check_channels(layer: Module, shape: tuple, expected: int, rank: int) -> None:
    """ShapeError, naming the layer, where a shape (without the batch) has another rank or number of channels."""
    if len(shape) != rank or shape[-1] != expected:
        layout = "(H, W, C)" if rank == 3 else "(C,)"
        raise ShapeError(f"{layer.name}: expected {layout} with C = {expected}, got {shape}: check the layer before it")


def stride_text(stride: tuple) -> str:
    """', /2' for a diagram; nothing for a stride of 1."""
    return "" if stride == (1, 1) else f", /{stride[0]}"


_inside = {}  # module -> its modes before the first `inference` that holds it, and how many hold it
_inside_lock = threading.Lock()


@contextmanager
def inference(model: Module) -> Iterator[Module]:
    """Evaluation mode with nothing saved for backward; the former modes come back when the last one inside leaves.

    Forward passes inside touch no state, so several threads may run them at once.
    """
    modules = list(model.modules())
    model.release()
    with _inside_lock:
        for m in modules:
            modes = _inside.setdefault(m, [m.training, m.save_for_backward, 0])
            modes[2] += 1
            m.training = m.save_for_backward = False
    try:
        yield model
    finally:
        with _inside_lock:
            for m in modules:
                _inside[m][2] -= 1
                if not _inside[m][2]:
                    m.training, m.save_for_backward, _ = _inside.pop(m)


class Composite(Module):
    """A module made of others, whose `flow` says once how arrays pass through them.

    `forward` and `output_shape` follow from it, and so does what the instruments see; `backward` is the way back,
    written by hand. y = f(x) + x, say, with an `Add` for the sum:

        def flow(self, x, visit):
            return visit(self.add, visit(self.f, x), x)
    """

    def flow(self, x: Any, visit: Callable) -> Any:
        """The output for x, where visit(child, *inputs) gives a child's output."""
        raise NotImplementedError

    def forward(self, x: Array) -> Array:
        return self.flow(x, lambda child, *inputs: child.forward(*inputs))

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.flow(shape, lambda child, *shapes: child.output_shape(*shapes))


def walk(module: Module, visit: Callable, *inputs: Any) -> Any:
    """What comes out of `module` where visit(layer, *inputs) stands for a layer: inputs may be arrays, shapes, names.

    It goes down to the layers; a composite with a `forward` of its own is one, since its `flow` may not be what runs.
    """
    if isinstance(module, Composite) and type(module).forward is Composite.forward:
        return module.flow(*inputs, lambda child, *into: walk(child, visit, *into))
    return visit(module, *inputs)


class Sequential(Composite):
    """Modules one after the other: y = f_n(... f_2(f_1(x))). Of none: y = x.

    >>> net = minires.Sequential(minires.Conv2d("conv", 3, 4, 3, pad=1), minires.ReLU("relu"), name="net")
    >>> net
    net: Sequential()  108 parameters
      conv: Conv2d(stride=(1, 1), pad=1, dilation=(1, 1), groups=1, w=(3, 3, 3, 4))  108 parameters
      relu: ReLU()
    >>> net.output_shape((8, 8, 3))
    (8, 8, 4)
    """

    def __init__(self, *layers: Module, name: str = ""):
        super().__init__(name)
        self.layers = list(layers)

    def flow(self, x: Any, visit: Callable) -> Any:
        for layer in self.layers:
            x = visit(layer, x)
        return x

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """dx, or None unless needed: then the walk ends at the first layer that has parameters to train."""
        first = 0 if need_dx else next((i for i, m in enumerate(self.layers) if m.is_trainable()), 0)
        for i in reversed(range(first, len(self.layers))):
            dy = self.layers[i].backward(dy, need_dx=need_dx or i > first)
        for layer in self.layers[:first]:
            layer.release()
        return dy if need_dx else None
