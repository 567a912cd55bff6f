"""Convolution, and zeros around a map."""

import math
from typing import Any

import numpy as np

from minires import ops
from minires.backend import Array
from minires.geometry import Pad, Pair, pair, resolve_padding, windows_over
from minires.nn.init import draw_kernel
from minires.nn.module import Maths, Module, Param, check_channels, stride_text
from minires.ops.conv import MAX_WORKSPACE


class Conv2d(Module):
    """Convolution. w (R, S, C, O); see ops.conv2d_forward. `init`: 'he' or 'glorot'."""

    maths = Maths(
        ("y = w ∗ x + b", "Each output pixel is a weighted sum over a window of all input channels."),
        (
            "dw = Xᵀ dy,   dx = dy wᵀ,   db = Σ dy",
            "The input that was kept meets the arriving gradient and gives the weight gradient; the weights carry "
            "the gradient on.",
        ),
    )
    keeps = ("x",)
    smooth = True

    def __init__(
        self,
        name: str,
        in_channels: int,
        out_channels: int,
        kernel: Pair,
        *,
        stride: Pair = 1,
        pad: Pad = 0,
        bias: bool = False,
        init: str = "he",
        seed: int = 0,
    ):
        super().__init__(name)
        self.stride, self.pad = pair(stride), pad
        shape = (*pair(kernel), in_channels, out_channels)
        self.w = Param(f"{name}.w", draw_kernel(f"{name}.w", shape, init, seed))
        self.b = Param(f"{name}.b", np.zeros(out_channels, np.float32), decay=False) if bias else None

    @property
    def window(self) -> dict[str, Any]:
        return {"stride": self.stride, "pad": self.pad}

    def check_input(self, x: Array) -> None:
        """ShapeError or DeviceError, naming this layer, where x does not fit."""
        check_channels(self, x.shape[1:], self.w.data.shape[2], 3)
        self.check_device(x, self.w.data)

    def forward(self, x: Array) -> Array:
        self.check_input(x)
        self.save(x)
        return ops.conv2d_forward(x, self.w.data, None if self.b is None else self.b.data, **self.window)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        (x,) = self.saved()
        wanted = {"need_dx": need_dx, "need_dw": self.w.trainable, "need_db": self.b is not None, "dw": self.w.grad}
        dx, dw, db = ops.conv2d_backward(dy, x, self.w.data, **self.window, **wanted)
        self.w.write_grad(dw)
        if self.b is not None:
            self.b.write_grad(db)
        return dx

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        R, S, C, O = self.w.data.shape
        check_channels(self, shape, C, 3)
        return (*windows_over(self.name, shape[:2], (R, S), self.stride, self.pad), O)

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        return 2 * math.prod(self.w.data.shape[:3]) * math.prod(y_shape)

    def workspace(self, batch: int, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        """The padded copy and the columns, forward and backward."""
        (R, S, C, _), itemsize = self.w.data.shape, self.w.data.dtype.itemsize
        pads = resolve_padding(self.pad, x_shape[:2], (R, S), self.stride)
        padded = (x_shape[0] + sum(pads[0]), x_shape[1] + sum(pads[1]), C)
        copy = batch * math.prod(padded) * itemsize if padded != x_shape else 0
        if (R, S, *self.stride) == (1, 1, 1, 1):
            return copy
        image = y_shape[0] * y_shape[1] * R * S * C * itemsize
        return copy + 2 * min(batch * image, max(image, MAX_WORKSPACE))

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        window = graph.window(self.w.data.shape[:2], self.stride, self.pad, shape)
        return graph.node("Conv", self.name, [x, *graph.hold(self.w, self.b)], **window)

    def look(self) -> tuple[str, str] | None:
        R, S, _, O = self.w.data.shape
        return "conv", f"{R}×{S}, {O}{stride_text(self.stride)}"


class ZeroPad2d(Module):
    """Zeros around the image; pad as in geometry.resolve_padding."""

    maths = Maths(
        ("y = x with a frame of zeros", "Zeros around the map let the windows reach the edge."),
        ("dx = dy without the frame", "The zeros came from no input: their gradient is dropped."),
    )
    smooth = True

    def __init__(self, name: str, pad: Pad):
        super().__init__(name)
        self.pad = pad

    def forward(self, x: Array) -> Array:
        return ops.zero_pad2d_forward(x, self.pad)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.zero_pad2d_backward(dy, self.pad)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        (top, bottom), (left, right) = resolve_padding(self.pad, shape[:2], (1, 1), (1, 1))
        return shape[0] + top + bottom, shape[1] + left + right, shape[2]

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        (top, bottom), (left, right) = resolve_padding(self.pad, shape[:2], (1, 1), (1, 1))
        pads = graph.constant(f"{self.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
        return graph.node("Pad", self.name, [x, pads])

    def look(self) -> tuple[str, str] | None:
        return None  # it belongs to the convolution behind it
