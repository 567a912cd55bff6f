"""Sizes of windows that slide over an image, shared by convolution and pooling.

V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285.
"""

from typing import Any, TypeAlias

from minires.errors import ShapeError

Size: TypeAlias = tuple[int, int]  # (vertical, horizontal)
Pair: TypeAlias = int | Size  # both directions alike, or each its own
Pad: TypeAlias = str | int | tuple  # as `resolve_padding` takes it


def pair(value: Any) -> tuple:
    """(v, v) for a single v, else the two values given."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def span(kernel: Pair, dilation: Pair = 1) -> tuple[int, int]:
    """(vertical, horizontal) pixels from a window's first cell to its last, which lie d apart: (k - 1) * d + 1."""
    return tuple((k - 1) * d + 1 for k, d in zip(pair(kernel), pair(dilation), strict=True))


def resolve_padding(
    pad: Pad, size: Size, kernel: Size, stride: Size, dilation: Pair = 1
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) for any way of stating a padding.

    `pad` is "valid" (none), "same" (ceil(H / stride) outputs; an odd zero goes to the bottom and right, as
    in TensorFlow and PyTorch), an int, (vertical, horizontal), or the four numbers themselves.
    `size`, `kernel`, `stride`: each (vertical, horizontal); dilation: one number, or two like these.
    """
    if pad == "valid":
        return (0, 0), (0, 0)
    if pad == "same":
        reach = span(kernel, dilation)
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, reach, stride, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(pad, str):
        raise ShapeError(f"unknown padding {pad!r}: use 'valid', 'same', an int, (v, h) or ((t, b), (l, r))")
    return tuple(pair(p) for p in pair(pad))


def output_size(
    size: Size, kernel: Size, stride: Size, pad: Pad, dilation: Pair = 1, ceil_mode: bool = False
) -> tuple[int, int]:
    """(P, Q): P = floor((H + top + bottom - R) / stride) + 1, Q alike; may be < 1 when the image is too small.

    Of a dilated window R is its `span`. ceil_mode: the ceiling, where the last window may reach beyond the padding;
    one that would start behind the image is left out, as in PyTorch's pooling.
    """
    pads = resolve_padding(pad, size, kernel, stride, dilation)
    axes = zip(size, pads, span(kernel, dilation), stride, strict=True)
    return tuple(_outputs(*axis, ceil_mode) for axis in axes)


def _outputs(n, pads, reach, stride, ceil_mode):
    room = n + sum(pads) - reach
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - ((count - 1) * stride >= n + pads[0])


def windows_over(
    name: str, size: Size, kernel: Size, stride: Size, pad: Pad, dilation: Pair = 1, ceil_mode: bool = False
) -> tuple[int, int]:
    """`output_size`; ShapeError, from the layer or op of this name, where no window fits."""
    P, Q = output_size(size, kernel, stride, pad, dilation, ceil_mode)
    if min(P, Q) < 1:
        raise ShapeError(
            f"{name}: the map of {size[0]}x{size[1]} that arrives is smaller than the window: "
            "use a larger image or a network with fewer stages"
        )
    return P, Q


def pool_window(size: Size, kernel: Pair, stride: Pair | None, pad: Pad, dilation: Pair = 1, ceil_mode: bool = False):
    """(kernel, stride, padding) of a pooling, each in full; the stride is the kernel's where none is given.

    The padding is all that windows reach: with ceil_mode it may be more than was asked for at the bottom and right.
    ShapeError where no window fits, or one would lie in the padding alone.
    """
    kernel, dilation = pair(kernel), pair(dilation)
    stride = pair(stride if stride is not None else kernel)
    pads = resolve_padding(pad, size, kernel, stride, dilation)
    outputs = windows_over("pooling", size, kernel, stride, pads, dilation, ceil_mode)
    axes = list(zip(size, kernel, stride, pads, dilation, outputs, strict=True))
    if any(_misses(*axis) for axis in axes):
        raise ShapeError(f"pooling: padding {pads} leaves a {kernel} window without a pixel: pad less")
    reaches = zip(axes, span(kernel, dilation), strict=True)
    return kernel, stride, tuple(_reached(n, p, count, s, reach) for (n, _, s, p, _, count), reach in reaches)


def _misses(n, k, stride, pads, dilation, count):
    """Whether a window has no cell on the n pixels."""
    if dilation == 1:
        return max(pads) >= k
    starts = range(-pads[0], count * stride - pads[0], stride)
    return any(not any(0 <= at < n for at in range(start, start + k * dilation, dilation)) for start in starts)


def _reached(n, pads, count, stride, reach):
    """(before, behind): `pads`, as far as the last window goes beyond them."""
    return pads[0], max(pads[1], (count - 1) * stride + reach - n - pads[0])
