"""Elementwise layers: ReLU and its relatives, identity, dropout, stochastic depth."""

import math
from typing import Any

from minires import ops
from minires.backend import Array, get_xp
from minires.errors import ConfigError
from minires.fast import communicator
from minires.nn.init import generator
from minires.nn.module import Maths, Module

__all__ = [
    "GELU",
    "Dropout",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "Sigmoid",
    "StochasticDepth",
]


class _Elementwise(Module):
    """What layers that treat each number alike share: the shape of y is that of x."""

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


class ReLU(_Elementwise):
    """y = max(x, 0).

    Of any shape. At 0 the derivative is taken as 0.

    >>> relu = minires.ReLU("relu")
    >>> relu.forward(numpy.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    >>> relu.backward(numpy.array([5.0, 5.0])).tolist()
    [0.0, 5.0]
    """

    maths = Maths(
        ("y = max(x, 0)", "Negative values become zero."),
        ("dx = dy where y > 0, else 0", "The gradient passes where the unit was on and stops where it was off."),
    )
    keeps = ("y",)

    def forward(self, x: Array) -> Array:
        y = ops.relu_forward(x)
        self.save(y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (y,) = self.saved()
        return ops.relu_backward(dy, y)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return graph.node("Relu", self.name, [x])

    def look(self) -> tuple[str, str] | None:
        return "relu", ""


class LeakyReLU(_Elementwise):
    """y = x where x > 0, else slope * x. ConfigError for a slope below 0: the output would not tell x's side."""

    maths = Maths(
        ("y = x where x > 0, else slope · x", "Negative values are made small."),
        (
            "dx = dy where y > 0, else slope · dy",
            "The gradient passes where the unit was on, elsewhere a little of it.",
        ),
    )
    keeps = ("y",)

    def __init__(self, name: str, slope: float = 0.01):
        super().__init__(name)
        if not 0 <= slope < math.inf:
            raise ConfigError(f"{name}: the slope must be a number of at least 0, got {slope}")
        self.slope = float(slope)

    def forward(self, x: Array) -> Array:
        y = ops.leaky_relu_forward(x, self.slope)
        self.save(y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (y,) = self.saved()
        return ops.leaky_relu_backward(dy, y, self.slope)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return graph.node("LeakyRelu", self.name, [x], alpha=self.slope)

    def look(self) -> tuple[str, str] | None:
        return "relu", "leaky"


class Sigmoid(_Elementwise):
    """y = 1 / (1 + exp(-x)): between 0 and 1, as a gate has to be."""

    maths = Maths(
        ("y = 1 / (1 + exp(−x))", "Every value is brought between 0 and 1."),
        ("dx = dy · y (1 − y)", "The gradient is at most a quarter, and small where the unit is near 0 or 1."),
    )
    keeps = ("y",)
    smooth = True

    def forward(self, x: Array) -> Array:
        y = ops.sigmoid_forward(x)
        self.save(y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (y,) = self.saved()
        return ops.sigmoid_backward(dy, y)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return graph.node("Sigmoid", self.name, [x])

    def look(self) -> tuple[str, str] | None:
        return "relu", "sigmoid"


class GELU(_Elementwise):
    """y = x * Phi(x), Phi the normal distribution's share below x: exact, by erf. See ops.gelu_forward."""

    maths = Maths(
        ("y = x · Φ(x)", "Each value is weighted by how large it is among normal numbers."),
        ("dx = dy · (Φ(x) + x φ(x))", "Large values pass the gradient whole, very negative ones hardly any."),
    )
    keeps = ("x",)
    smooth = True

    def forward(self, x: Array) -> Array:
        self.save(x)
        return ops.gelu_forward(x)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (x,) = self.saved()
        return ops.gelu_backward(dy, x)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        scaled = graph.node("Mul", f"{self.name}.scaled", [x, graph.number(f"{self.name}.root", 0.5**0.5)])
        erf = graph.node("Erf", f"{self.name}.erf", [scaled])
        twice = graph.node("Add", f"{self.name}.twice", [erf, graph.number(f"{self.name}.one", 1)])
        share = graph.node("Mul", f"{self.name}.share", [twice, graph.number(f"{self.name}.half", 0.5)])
        return graph.node("Mul", self.name, [x, share])

    def look(self) -> tuple[str, str] | None:
        return "relu", "GELU"


class Identity(_Elementwise):
    """y = x: a path that leaves its input as it is."""

    maths = Maths(("y = x", "The path changes nothing."), ("dx = dy", "And neither does the way back."))
    smooth = view = True

    def forward(self, x: Array) -> Array:
        return x

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return dy

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return x

    def look(self) -> tuple[str, str] | None:
        return None


class Dropout(_Elementwise):
    """Drop each unit with probability `rate` in training; the mask comes from a generator keyed by the name."""

    maths = Maths(
        ("y = x · keep / (1 − rate)", "Units are dropped at random, the others scaled up."),
        ("dx = dy · keep / (1 − rate)", "The mask of the forward pass is applied again."),
    )
    keeps = ("keep",)
    smooth = True

    def __init__(self, name: str, rate: float, *, seed: int = 0):
        super().__init__(name)
        if not 0 <= rate < 1:
            raise ConfigError(f"{name}: the rate at which to drop must lie in [0, 1), got {rate}")
        self.rate = rate
        self.rng = generator(seed, name)

    def forward(self, x: Array) -> Array:
        if not self.training or self.rate == 0:
            self.save(None)
            return x
        xp = get_xp(x)
        keep = xp.asarray(communicator.draw(self.rng, self.mask_shape(x.shape)) >= self.rate).astype(x.dtype)
        self.save(keep)
        return ops.dropout_forward(x, keep, self.rate)

    def mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of what is drawn for a batch of this shape."""
        return shape

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (keep,) = self.saved()
        return dy if keep is None else ops.dropout_backward(dy, keep, self.rate)

    def kept_numbers(self, batch: int, shape: tuple[int, ...]) -> int:
        return batch * math.prod(shape) if self.rate else 0  # the mask

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return x  # nothing is dropped in evaluation

    def look(self) -> tuple[str, str] | None:
        return "other", "dropout"


class StochasticDepth(Dropout):
    """Drop a branch of whole images with probability `rate` in training, scale those that stay by 1 / (1 - rate).

    The last layer of a residual branch: an image whose branch is dropped goes through the shortcut alone. Keyed by the
    name, as dropout. G. Huang et al., "Deep Networks with Stochastic Depth", arXiv:1603.09382.
    """

    maths = Maths(
        ("y = x · keep / (1 − rate)", "Whole images are dropped at random, the others scaled up."),
        ("dx = dy · keep / (1 − rate)", "The same images are dropped on the way back."),
    )

    def mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], *(1 for _ in shape[1:]))

    def kept_numbers(self, batch: int, shape: tuple[int, ...]) -> int:
        return batch if self.rate else 0

    def look(self) -> tuple[str, str] | None:
        return "other", "stochastic depth"
