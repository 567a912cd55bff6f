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


def resolve_padding(pad: Pad, size: Size, kernel: Size, stride: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) for any way of stating a padding.

    `pad` is "valid" (none), "same" (ceil(H / stride) outputs; an odd zero goes to the bottom and right, as
    in TensorFlow and PyTorch), an int, (vertical, horizontal), or the four numbers themselves.
    `size`, `kernel`, `stride`: each (vertical, horizontal).
    """
    if pad == "valid":
        return (0, 0), (0, 0)
    if pad == "same":
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(pad, str):
        raise ShapeError(f"unknown padding {pad!r}: use 'valid', 'same', an int, (v, h) or ((t, b), (l, r))")
    return tuple(pair(p) for p in pair(pad))


def output_size(size: Size, kernel: Size, stride: Size, pad: Pad) -> tuple[int, int]:
    """(P, Q): P = floor((H + top + bottom - R) / stride) + 1, Q alike; may be < 1 when the image is too small."""
    pads = resolve_padding(pad, size, kernel, stride)
    return tuple((n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, pads, kernel, stride, strict=True))


def windows_over(name: str, size: Size, kernel: Size, stride: Size, pad: Pad) -> tuple[int, int]:
    """`output_size`; ShapeError, from the layer or op of this name, where no window fits."""
    P, Q = output_size(size, kernel, stride, pad)
    if min(P, Q) < 1:
        raise ShapeError(
            f"{name}: the map of {size[0]}x{size[1]} that arrives is smaller than the window: "
            "use a larger image or a network with fewer stages"
        )
    return P, Q


def pool_window(size: Size, kernel: Pair, stride: Pair | None, pad: Pad) -> tuple[Size, Size, tuple[Size, Size]]:
    """(kernel, stride, padding) of a pooling, each in full; the stride is the kernel's where none is given.

    ShapeError where no window fits, or one would lie in the padding alone.
    """
    kernel = pair(kernel)
    stride = pair(stride if stride is not None else kernel)
    pads = resolve_padding(pad, size, kernel, stride)
    if any(max(p) >= k for p, k in zip(pads, kernel, strict=True)):
        raise ShapeError(f"pooling: padding {pads} leaves a {kernel} window without a pixel: pad less")
    windows_over("pooling", size, kernel, stride, pads)
    return kernel, stride, pads
