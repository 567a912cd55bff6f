"""From maps to scores: flatten, and the fully connected layer."""

import math
from typing import Any

import numpy as np

from minires import ops
from minires.backend import Array
from minires.nn.init import draw_kernel
from minires.nn.module import Maths, Module, Param, check_channels

__all__ = [
    "Dense",
    "Flatten",
]


class Flatten(Module):
    """(N, H, W, C) -> (N, H * W * C)."""

    maths = Maths(
        ("y = x as one row an image", "The same numbers in another shape."),
        ("dx = dy in the shape of x", "The same numbers, back in their shape."),
    )
    smooth = view = True

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return ops.flatten_forward(x)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.flatten_backward(dy, *self.saved())

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (int(np.prod(shape)),)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        if len(shape) == 3:  # our maps run (H, W, C), ONNX's (C, H, W)
            x = graph.node("Transpose", f"{self.name}.nhwc", [x], perm=[0, 2, 3, 1])
        return graph.node("Flatten", self.name, [x])

    def look(self) -> tuple[str, str] | None:
        return "other", "flatten"


class Dense(Module):
    """Fully connected: y = x w + b. w (C, O).

    x (N, in_features) -> y (N, out_features). `init`: 'glorot' or 'he'; bias: whether there is b (O,). ShapeError,
    naming this layer, for other features; DeviceError where x lies on another device than w.

    >>> fc = minires.Dense("fc", 64, 10)
    >>> fc.forward(numpy.ones((2, 64), "float32")).shape
    (2, 10)
    >>> fc.output_shape((32,))
    Traceback (most recent call last):
    minires.errors.ShapeError: fc: expected (C,) with C = 64, got (32,): check the layer before it
    """

    maths = Maths(
        ("y = x w + b", "Each class scores a weighted sum of the features."),
        (
            "dw = xᵀ dy,   dx = dy wᵀ,   db = Σ dy",
            "Input and arriving gradient give the weight gradient; the weights carry the gradient on.",
        ),
    )
    keeps = ("x",)
    smooth = True

    def __init__(
        self, name: str, in_features: int, out_features: int, *, bias: bool = True, init: str = "glorot", seed: int = 0
    ):
        super().__init__(name)
        self.w = Param(f"{name}.w", draw_kernel(f"{name}.w", (in_features, out_features), init, seed))
        self.b = Param(f"{name}.b", np.zeros(out_features, np.float32), decay=False) if bias else None

    def forward(self, x: Array) -> Array:
        check_channels(self, x.shape[1:], self.w.data.shape[0], 1)
        self.check_device(x, self.w.data)
        self.save(x)
        return ops.dense_forward(x, self.w.data, None if self.b is None else self.b.data)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (x,) = self.saved()
        dx, dw, db = ops.dense_backward(dy, x, self.w.data, need_dx=need_dx)
        self.w.write_grad(dw)
        if self.b is not None:
            self.b.write_grad(db)
        return dx

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        check_channels(self, shape, self.w.data.shape[0], 1)
        return self.w.data.shape[1:]

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        return 2 * self.w.data.shape[0] * math.prod(y_shape)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return graph.node("Gemm", self.name, [x, *graph.hold(self.w, self.b)], transB=1)

    def look(self) -> tuple[str, str] | None:
        return "dense", f"fc, {self.w.data.shape[1]}"
