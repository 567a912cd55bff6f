"""Convolution, and zeros around a map."""

import math

import numpy as np

from minires import ops
from minires.errors import ConfigError
from minires.geometry import pair, resolve_padding, windows_over
from minires.nn.init import draw_kernel
from minires.nn.module import Maths, Module, Param, check_channels, stride_text
from minires.ops.conv import MAX_WORKSPACE


class Conv2d(Module):
    """Convolution. w (R, S, C / groups, O); see ops.conv2d_forward. `init`: 'he' or 'glorot'.

    stride, dilation: one number or (vertical, horizontal). groups: the channels fall into so many equal parts, each by
    itself; as many as channels are a depthwise convolution. ConfigError where in_channels or out_channels do not.
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
        name,
        in_channels,
        out_channels,
        kernel,
        *,
        stride=1,
        pad=0,
        dilation=1,
        groups=1,
        bias=False,
        init="he",
        seed=0,
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
    def window(self):
        return {"stride": self.stride, "pad": self.pad, "dilation": self.dilation, "groups": self.groups}

    @property
    def in_channels(self):
        """Of the input; w has those of one group."""
        return self.w.data.shape[2] * self.groups

    def check_input(self, x):
        """ShapeError or DeviceError, naming this layer, where x does not fit."""
        check_channels(self, x.shape[1:], self.in_channels, 3)
        self.check_device(x, self.w.data)

    def forward(self, x):
        self.check_input(x)
        self.save(x)
        return ops.conv2d_forward(x, self.w.data, None if self.b is None else self.b.data, **self.window)

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        wanted = {"need_dx": need_dx, "need_dw": self.w.trainable, "need_db": self.b is not None, "dw": self.w.grad}
        dx, dw, db = ops.conv2d_backward(dy, x, self.w.data, **self.window, **wanted)
        self.w.write_grad(dw)
        if self.b is not None:
            self.b.write_grad(db)
        return dx

    def output_shape(self, shape):
        R, S, _, O = self.w.data.shape
        check_channels(self, shape, self.in_channels, 3)
        return (*windows_over(self.name, shape[:2], (R, S), self.stride, self.pad, self.dilation), O)

    def flops(self, x_shape, y_shape):
        return 2 * math.prod(self.w.data.shape[:3]) * math.prod(y_shape)

    def workspace(self, batch, x_shape, y_shape):
        """The padded copy and the columns, forward and backward."""
        (R, S, *_), C, itemsize = self.w.data.shape, self.in_channels, self.w.data.dtype.itemsize
        pads = resolve_padding(self.pad, x_shape[:2], (R, S), self.stride, self.dilation)
        padded = (x_shape[0] + sum(pads[0]), x_shape[1] + sum(pads[1]), C)
        copy = batch * math.prod(padded) * itemsize if padded != x_shape else 0
        if (R, S, *self.stride) == (1, 1, 1, 1):
            return copy
        image = y_shape[0] * y_shape[1] * R * S * C * itemsize
        return copy + 2 * min(batch * image, max(image, MAX_WORKSPACE))

    def onnx(self, graph, x, shape):
        pads = resolve_padding(self.pad, shape[:2], self.w.data.shape[:2], self.stride, self.dilation)
        window = graph.window(self.w.data.shape[:2], self.stride, pads, self.dilation)
        return graph.node("Conv", self.name, [x, *graph.hold(self.w, self.b)], group=self.groups, **window)

    def look(self):
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

    def __init__(self, name, pad):
        super().__init__(name)
        self.pad = pad

    def forward(self, x):
        return ops.zero_pad2d_forward(x, self.pad)

    def backward(self, dy, need_dx=True):
        return ops.zero_pad2d_backward(dy, self.pad)

    def output_shape(self, shape):
        (top, bottom), (left, right) = resolve_padding(self.pad, shape[:2], (1, 1), (1, 1))
        return shape[0] + top + bottom, shape[1] + left + right, shape[2]

    def onnx(self, graph, x, shape):
        return graph.pad(self.name, x, resolve_padding(self.pad, shape[:2], (1, 1), (1, 1)))

    def look(self):
        return None  # it belongs to the convolution behind it
