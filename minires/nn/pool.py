"""Pooling: the maximum or the mean of windows, the mean of whole maps, one pixel of several."""

from typing import Any

import numpy as np

from minires import ops
from minires.backend import Array
from minires.errors import ConfigError
from minires.geometry import Pad, Pair, pair, pool_window, resolve_padding, windows_over
from minires.nn.module import Maths, Module, check_channels, stride_text

__all__ = [
    "AvgPool2d",
    "GlobalAvgPool2d",
    "MaxPool2d",
    "Subsample",
]


class _Pool2d(Module):
    word = ""  # in a diagram
    dilation = (1, 1)

    def __init__(self, name: str, kernel: Pair, stride: Pair | None, pad: Pad, ceil_mode: bool):
        super().__init__(name)
        self.kernel, self.pad, self.ceil_mode = pair(kernel), pad, ceil_mode
        self.stride = pair(stride if stride is not None else kernel)

    @property
    def window(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "stride": self.stride, "pad": self.pad, "ceil_mode": self.ceil_mode}

    def pads(self, shape: tuple[int, ...]):
        """All that windows over a map of this shape reach beyond it: ((top, bottom), (left, right))."""
        return pool_window(shape[:2], self.kernel, self.stride, self.pad, self.dilation, self.ceil_mode)[2]

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        steps = self.kernel, self.stride, self.pad, self.dilation, self.ceil_mode
        return (*windows_over(self.name, shape[:2], *steps), shape[2])

    def look(self) -> tuple[str, str] | None:
        return "pool", f"{self.word} {self.kernel[0]}×{self.kernel[1]}{stride_text(self.stride)}"


class MaxPool2d(_Pool2d):
    """The largest value of each window. dilation and ceil_mode as in ops.maxpool_forward, and in PyTorch.

    kernel, stride, pad: as Conv2d takes them; the stride is the kernel's where none is given. x (N, H, W, C) ->
    y (N, P, Q, C). ShapeError, naming this layer, where no window fits.

    >>> minires.MaxPool2d("pool", 3, stride=2, pad=1).output_shape((112, 112, 64))
    (56, 56, 64)
    """

    maths = Maths(
        ("y = the largest x of each window", "Each window keeps its largest value."),
        ("dx = dy at each window's maximum", "Only the winner of a window receives its gradient."),
    )
    keeps = ("x", "y")
    word = "max"

    def __init__(
        self,
        name: str,
        kernel: Pair,
        stride: Pair | None = None,
        pad: Pad = 0,
        *,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ):
        super().__init__(name, kernel, stride, pad, ceil_mode)
        self.dilation = pair(dilation)

    @property
    def window(self) -> dict[str, Any]:
        return {**super().window, "dilation": self.dilation}

    def forward(self, x: Array) -> Array:
        y = ops.maxpool_forward(x, **self.window)
        self.save(x, y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.maxpool_backward(dy, *self.saved(), **self.window)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        window = graph.window(self.kernel, self.stride, self.pads(shape), self.dilation)
        return graph.node("MaxPool", self.name, [x], **window)


class AvgPool2d(_Pool2d):
    """The mean of each window. ceil_mode and count_include_pad as in ops.avgpool_forward, and in PyTorch."""

    maths = Maths(
        ("y = the mean of each window", "Each window is replaced by its mean."),
        ("dx = dy / cells of the window", "Each cell of a window receives an equal share."),
    )
    smooth = True
    word = "avg"

    def __init__(
        self,
        name: str,
        kernel: Pair,
        stride: Pair | None = None,
        pad: Pad = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__(name, kernel, stride, pad, ceil_mode)
        self.count_include_pad = count_include_pad

    @property
    def window(self) -> dict[str, Any]:
        return {**super().window, "count_include_pad": self.count_include_pad}

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return ops.avgpool_forward(x, **self.window)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.avgpool_backward(dy, *self.saved(), **self.window)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        pads, asked = self.pads(shape), resolve_padding(self.pad, shape[:2], self.kernel, self.stride)
        counted = int(self.count_include_pad)
        if counted and pads != asked:  # zeros of the padding count, what lies beyond it does not
            x, counted = graph.pad(f"{self.name}.pad", x, asked), 0
            pads = tuple((0, after - zeros) for (_, after), (_, zeros) in zip(pads, asked, strict=True))
        window = graph.window(self.kernel, self.stride, pads)
        return graph.node("AveragePool", self.name, [x], count_include_pad=counted, **window)


class GlobalAvgPool2d(Module):
    """The mean of each channel's map: (N, H, W, C) -> (N, C); keep: -> (N, 1, 1, C)."""

    maths = Maths(
        ("y[n, c] = the mean of channel c's map", "Each channel becomes one number."),
        ("dx = dy / (H W) everywhere", "Each pixel receives an equal share."),
    )
    smooth = True

    def __init__(self, name: str = "", *, keep: bool = False):
        super().__init__(name)
        self.keep = keep

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        y = ops.global_avgpool_forward(x)
        return y[:, None, None] if self.keep else y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.global_avgpool_backward(dy[:, 0, 0] if self.keep else dy, *self.saved())

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1, 1, shape[-1]) if self.keep else shape[-1:]

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        mean = graph.node("GlobalAveragePool", self.name, [x])
        return mean if self.keep else graph.node("Flatten", f"{self.name}.flatten", [mean])

    def look(self) -> tuple[str, str] | None:
        return "pool", "global avg"


class Subsample(Module):
    """One pixel of every stride x stride, and as many channels of zeros as `out_channels` asks for: half before, half
    behind. A shortcut without parameters: option A of K. He et al., arXiv:1512.03385, section 3.3.

    ConfigError where the channels become fewer.
    """

    maths = Maths(
        ("y = [0, x of one pixel in s², 0]", "The shortcut keeps one pixel of several; new channels are zeros."),
        ("dx = dy at these pixels, else 0", "The pixels that were kept receive their gradient, the others none."),
    )
    smooth = True

    def __init__(self, name: str, stride: Pair, in_channels: int, out_channels: int):
        super().__init__(name)
        if out_channels < in_channels:
            raise ConfigError(
                f"{name}: {in_channels} channels do not become {out_channels} by adding zeros: let no stage be "
                "narrower than the one before it, or use projections (option B)"
            )
        more = out_channels - in_channels
        self.stride, self.channels, self.zeros = pair(stride), in_channels, (more // 2, more - more // 2)

    def forward(self, x: Array) -> Array:
        check_channels(self, x.shape[1:], self.channels, 3)
        self.save(x.shape)
        return ops.subsample_forward(x, self.stride, self.zeros)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.subsample_backward(dy, *self.saved(), self.stride, self.zeros)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        check_channels(self, shape, self.channels, 3)
        H, W = (-(-n // s) for n, s in zip(shape, self.stride, strict=False))
        return H, W, self.channels + sum(self.zeros)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        if not any(self.zeros):
            return graph.node("MaxPool", self.name, [x], kernel_shape=[1, 1], strides=self.stride)
        taken = graph.node("MaxPool", f"{self.name}.taken", [x], kernel_shape=[1, 1], strides=self.stride)
        before, behind = self.zeros
        margins = graph.constant(f"{self.name}.zeros", np.array([0, before, 0, 0, 0, behind, 0, 0]))
        return graph.node("Pad", self.name, [taken, margins])

    def look(self) -> tuple[str, str] | None:
        told = [stride_text(self.stride).removeprefix(", "), f"{sum(self.zeros)} zeros" if any(self.zeros) else ""]
        return "pool", " + ".join(filter(None, told))
