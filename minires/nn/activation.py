"""Elementwise layers: ReLU, identity, dropout."""

import math
from typing import Any

from minires import ops
from minires.backend import Array, get_xp
from minires.errors import ConfigError
from minires.nn.init import generator
from minires.nn.module import Maths, Module


class ReLU(Module):
    """y = max(x, 0)."""

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

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return graph.node("Relu", self.name, [x])

    def look(self) -> tuple[str, str] | None:
        return "relu", ""


class Identity(Module):
    """y = x: a path that leaves its input as it is."""

    maths = Maths(("y = x", "The path changes nothing."), ("dx = dy", "And neither does the way back."))
    smooth = True

    def forward(self, x: Array) -> Array:
        return x

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return dy

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return x

    def look(self) -> tuple[str, str] | None:
        return None


class Dropout(Module):
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
            raise ConfigError(f"{name}: dropout rate must lie in [0, 1), got {rate}")
        self.rate = rate
        self.rng = generator(seed, name)

    def forward(self, x: Array) -> Array:
        if not self.training or self.rate == 0:
            self.save(None)
            return x
        xp = get_xp(x)
        keep = xp.asarray(self.rng.random(x.shape) >= self.rate).astype(x.dtype)
        self.save(keep)
        return ops.dropout_forward(x, keep, self.rate)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (keep,) = self.saved()
        return dy if keep is None else ops.dropout_backward(dy, keep, self.rate)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def kept_numbers(self, batch: int, shape: tuple[int, ...]) -> int:
        return batch * math.prod(shape) if self.rate else 0  # the mask

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return x  # nothing is dropped in evaluation

    def look(self) -> tuple[str, str] | None:
        return "other", "dropout"
