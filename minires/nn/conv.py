"""Convolution, and zeros around a map."""

import math
from typing import Any

import numpy as np

from minires import ops
from minires.backend import Array
from minires.errors import ConfigError
from minires.geometry import Pad, Pair, pair, resolve_padding, windows_over
from minires.nn.init import draw_kernel
from minires.nn.module import Maths, Module, Param, check_channels, stride_text
from minires.ops.conv import MAX_WORKSPACE

__all__ = [
    "Conv2d",
    "ZeroPad2d",
]


class Conv2d(Module):
    """Convolution. w (R, S, C / groups, O); see ops.conv2d_forward. `init`: 'he' or 'glorot'.

    stride, dilation: one number or (vertical, horizontal). groups: the channels fall into so many equal parts, each by
    itself; as many as channels are a depthwise convolution. ConfigError where in_channels or out_channels do not.

    kernel: R and S, one number or (vertical, horizontal). pad: "valid", "same", a number, (vertical, horizontal) or
    ((top, bottom), (left, right)). bias: whether there is b (O,). seed: of the draw, which the layer's name keys too.

    Shapes: x (N, H, W, in_channels) -> y (N, P, Q, out_channels), P = floor((H + top + bottom - (R - 1) * dilation - 1)
    / stride) + 1, Q alike. ShapeError, naming this layer, for other channels or a map smaller than the window;
    DeviceError where x lies on another device than w.

    >>> conv = minires.Conv2d("conv", 3, 8, 3, stride=2, pad="same")
    >>> conv.output_shape((32, 32, 3))
    (16, 16, 8)
    >>> y = conv.forward(numpy.ones((2, 32, 32, 3), "float32"))
    >>> dx = conv.backward(numpy.ones_like(y))
    >>> y.shape, dx.shape, conv.w.grad.shape
    ((2, 16, 16, 8), (2, 32, 32, 3), (3, 3, 3, 8))
    """

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
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
        init: str = "he",
        seed: int = 0,
    ):
        super().__init__(name)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ConfigError(
                f"{name}: {in_channels} channels in and {out_channels} out do not make {groups} equal groups: "
                "choose a divisor of both"
            )
        self.stride, self.pad, self.dilation, self.groups = pair(stride), pad, pair(dilation), groups
        shape = (*pair(kernel), in_channels // groups, out_channels)
        self.w = Param(f"{name}.w", draw_kernel(f"{name}.w", shape, init, seed))
        self.b = Param(f"{name}.b", np.zeros(out_channels, np.float32), decay=False) if bias else None

    @property
    def window(self) -> dict[str, Any]:
        return {"stride": self.stride, "pad": self.pad, "dilation": self.dilation, "groups": self.groups}

    @property
    def in_channels(self) -> int:
        """Of the input; w has those of one group."""
        return self.w.data.shape[2] * self.groups

    def check_input(self, x: Array) -> None:
        """ShapeError or DeviceError, naming this layer, where x does not fit."""
        check_channels(self, x.shape[1:], self.in_channels, 3)
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
        R, S, _, O = self.w.data.shape
        check_channels(self, shape, self.in_channels, 3)
        return (*windows_over(self.name, shape[:2], (R, S), self.stride, self.pad, self.dilation), O)

    def flops(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        return 2 * math.prod(self.w.data.shape[:3]) * math.prod(y_shape)

    def workspace(self, batch: int, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
        """The padded copy and the columns, forward and backward."""
        (R, S, *_), C, itemsize = self.w.data.shape, self.in_channels, self.w.data.dtype.itemsize
        pads = resolve_padding(self.pad, x_shape[:2], (R, S), self.stride, self.dilation)
        padded = (x_shape[0] + sum(pads[0]), x_shape[1] + sum(pads[1]), C)
        copy = batch * math.prod(padded) * itemsize if padded != x_shape else 0
        if (R, S, *self.stride) == (1, 1, 1, 1):
            return copy
        image = y_shape[0] * y_shape[1] * R * S * C * itemsize
        return copy + 2 * min(batch * image, max(image, MAX_WORKSPACE))

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        pads = resolve_padding(self.pad, shape[:2], self.w.data.shape[:2], self.stride, self.dilation)
        window = graph.window(self.w.data.shape[:2], self.stride, pads, self.dilation)
        return graph.node("Conv", self.name, [x, *graph.hold(self.w, self.b)], group=self.groups, **window)

    def look(self) -> tuple[str, str] | None:
        R, S, _, O = self.w.data.shape
        channels = O if self.groups == 1 else f"{self.groups}×{O // self.groups}"
        dilation = f", dilated {self.dilation[0]}" if self.dilation != (1, 1) else ""
        return "conv", f"{R}×{S}, {channels}{stride_text(self.stride)}{dilation}"


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
        return graph.pad(self.name, x, resolve_padding(self.pad, shape[:2], (1, 1), (1, 1)))

    def look(self) -> tuple[str, str] | None:
        return None  # it belongs to the convolution behind it
