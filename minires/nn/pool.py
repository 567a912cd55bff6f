"""Pooling: the maximum or the mean of windows, the mean of whole maps."""

from typing import Any

from minires import ops
from minires.backend import Array
from minires.geometry import Pad, Pair, pair, windows_over
from minires.nn.module import Maths, Module, stride_text


class _Pool2d(Module):
    word = ""  # in a diagram

    def __init__(self, name: str, kernel: Pair, stride: Pair | None = None, pad: Pad = 0):
        super().__init__(name)
        self.kernel, self.pad = pair(kernel), pad
        self.stride = pair(stride if stride is not None else kernel)

    @property
    def window(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "stride": self.stride, "pad": self.pad}

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*windows_over(self.name, shape[:2], self.kernel, self.stride, self.pad), shape[2])

    def look(self) -> tuple[str, str] | None:
        return "pool", f"{self.word} {self.kernel[0]}×{self.kernel[1]}{stride_text(self.stride)}"


class MaxPool2d(_Pool2d):
    """The largest value of each window."""

    maths = Maths(
        ("y = the largest x of each window", "Each window keeps its largest value."),
        ("dx = dy at each window's maximum", "Only the winner of a window receives its gradient."),
    )
    keeps = ("x", "y")
    word = "max"

    def forward(self, x: Array) -> Array:
        y = ops.maxpool_forward(x, **self.window)
        self.save(x, y)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.maxpool_backward(dy, *self.saved(), **self.window)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return graph.node("MaxPool", self.name, [x], **graph.window(self.kernel, self.stride, self.pad, shape))


class AvgPool2d(_Pool2d):
    """The mean of each window."""

    maths = Maths(
        ("y = the mean of each window", "Each window is replaced by its mean."),
        ("dx = dy / cells of the window", "Each cell of a window receives an equal share."),
    )
    smooth = True
    word = "avg"

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return ops.avgpool_forward(x, **self.window)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.avgpool_backward(dy, *self.saved(), **self.window)

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        window = graph.window(self.kernel, self.stride, self.pad, shape)
        return graph.node("AveragePool", self.name, [x], count_include_pad=1, **window)


class GlobalAvgPool2d(Module):
    """The mean of each channel's map: (N, H, W, C) -> (N, C)."""

    maths = Maths(
        ("y[n, c] = the mean of channel c's map", "Each channel becomes one number."),
        ("dx = dy / (H W) everywhere", "Each pixel receives an equal share."),
    )
    smooth = True

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return ops.global_avgpool_forward(x)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        return ops.global_avgpool_backward(dy, *self.saved())

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[-1:]

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        mean = graph.node("GlobalAveragePool", self.name, [x])
        return graph.node("Flatten", f"{self.name}.flatten", [mean])

    def look(self) -> tuple[str, str] | None:
        return "pool", "global avg"
