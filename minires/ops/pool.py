"""Pooling: maximum, average, global average. Shapes: x (N, H, W, C) -> y (N, P, Q, C)."""

import math

from minires.backend import Array, get_xp
from minires.fast.dispatch import compiled
from minires.geometry import Pad, Pair, output_size, pair, pool_window, resolve_padding
from minires.ops.conv import zero_pad2d_backward, zero_pad2d_forward

__all__ = [
    "avgpool_backward",
    "avgpool_forward",
    "global_avgpool_backward",
    "global_avgpool_forward",
    "maxpool_backward",
    "maxpool_forward",
    "subsample_backward",
    "subsample_forward",
]


def _windows(x, kernel, stride, dilation=(1, 1)):
    """The R * S views of x that together cover each window, in row-major order of the window's cells."""
    (R, S), (sv, sh), (dv, dh) = kernel, stride, dilation
    P, Q = output_size(x.shape[1:3], kernel, stride, "valid", dilation)
    starts = [(r * dv, s * dh) for r in range(R) for s in range(S)]
    return [x[:, h : h + sv * (P - 1) + 1 : sv, w : w + sh * (Q - 1) + 1 : sh] for h, w in starts]


def _maxpool_setup(x, kernel, stride, pad, dilation, ceil_mode):
    """(x with minus infinity around it, which can never win; its windows' geometry; the padding)."""
    kernel, stride, pads = pool_window(x.shape[1:3], kernel, stride, pad, dilation, ceil_mode)
    (top, bottom), (left, right) = pads
    window = kernel, stride, pair(dilation)
    if not (top or bottom or left or right):
        return x, window, pads
    N, H, W, C = x.shape
    padded = get_xp(x).full((N, top + H + bottom, left + W + right, C), -math.inf, x.dtype)
    padded[:, top : top + H, left : left + W] = x
    return padded, window, pads


@compiled
def maxpool_forward(
    x: Array, *, kernel: Pair, stride: Pair | None = None, pad: Pad = 0, dilation: Pair = 1, ceil_mode: bool = False
) -> Array:
    """y[n, p, q, c] = the largest x of the window, NaN where it holds one; stride defaults to the kernel.

    Padding never wins. dilation: how far a window's cells lie apart. ceil_mode: a last window may reach beyond the
    padding (see geometry.output_size). Both as in PyTorch. ShapeError for a window without a pixel.
    """
    xp = get_xp(x)
    padded, window, _ = _maxpool_setup(x, kernel, stride, pad, dilation, ceil_mode)
    first, *others = _windows(padded, *window)
    y = first.copy()
    for cell in others:
        xp.maximum(y, cell, out=y)
    return y


@compiled
def maxpool_backward(
    dy: Array,
    x: Array,
    y: Array,
    *,
    kernel: Pair,
    stride: Pair | None = None,
    pad: Pad = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Array:
    """dx: each dy goes to its window's maximum, or its NaN; of equal ones to the first in row-major order."""
    xp = get_xp(dy)
    padded, window, pads = _maxpool_setup(x, kernel, stride, pad, dilation, ceil_mode)
    dpadded = xp.zeros(padded.shape, dy.dtype)
    free = xp.ones(y.shape, bool)  # windows whose gradient is still to be given away
    for cell, dcell in zip(_windows(padded, *window), _windows(dpadded, *window), strict=True):
        wins = free & ((cell == y) | (cell != cell))
        dcell += dy * wins
        free ^= wins
    return zero_pad2d_backward(dpadded, pads)


def _avgpool_setup(shape, kernel, stride, pad, ceil_mode, count_include_pad, like):
    """Geometry, and how many cells each window averages: (P, Q, 1) or a plain number."""
    size = shape[1:3]
    kernel, stride, pads = pool_window(size, kernel, stride, pad, 1, ceil_mode)
    counted = resolve_padding(pad, size, kernel, stride) if count_include_pad else ((0, 0), (0, 0))
    if counted == pads:
        return kernel, stride, pads, kernel[0] * kernel[1]
    rest = tuple((b - d, a - c) for (b, a), (d, c) in zip(pads, counted, strict=True))
    ones = [n + sum(p) for n, p in zip(size, counted, strict=True)]
    cells = zero_pad2d_forward(get_xp(like).ones((1, *ones, 1), like.dtype), rest)
    return kernel, stride, pads, sum(_windows(cells, kernel, stride))[0]


@compiled
def avgpool_forward(
    x: Array,
    *,
    kernel: Pair,
    stride: Pair | None = None,
    pad: Pad = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """y = the mean of the window. Zeros of the padding count, as in PyTorch, unless told otherwise, as in Keras.

    ceil_mode: as in `maxpool_forward`; what lies beyond the padding does not count.
    """
    kernel, stride, pads, cells = _avgpool_setup(x.shape, kernel, stride, pad, ceil_mode, count_include_pad, x)
    first, *others = _windows(zero_pad2d_forward(x, pads), kernel, stride)
    y = first.astype(get_xp(x).result_type(x, "f4"))
    for window in others:
        y += window
    return (y / cells).astype(x.dtype, copy=False)


def avgpool_backward(
    dy: Array,
    shape: tuple[int, ...],
    *,
    kernel: Pair,
    stride: Pair | None = None,
    pad: Pad = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """dx, of the given shape: every cell of a window receives dy / cells."""
    kernel, stride, pads, cells = _avgpool_setup(shape, kernel, stride, pad, ceil_mode, count_include_pad, dy)
    (top, bottom), (left, right) = pads
    N, H, W, C = shape
    dpadded = get_xp(dy).zeros((N, top + H + bottom, left + W + right, C), dy.dtype)
    share = dy / cells
    for dwindow in _windows(dpadded, kernel, stride):
        dwindow += share
    return zero_pad2d_backward(dpadded, pads)


@compiled
def global_avgpool_forward(x: Array) -> Array:
    """y[n, c] = the mean over the map. M. Lin et al., "Network In Network", arXiv:1312.4400, section 3.2."""
    return x.mean(axis=(1, 2))


def global_avgpool_backward(dy: Array, shape: tuple[int, ...]) -> Array:
    """dx, of the given shape: dy / (H * W) everywhere."""
    return get_xp(dy).broadcast_to((dy / (shape[1] * shape[2]))[:, None, None, :], shape)


def subsample_forward(x: Array, stride: Pair, zeros: tuple[int, int] = (0, 0)) -> Array:
    """y = the upper left pixel of every `stride` pixels, with so many channels of zeros before x's own and behind.

    K. He et al., arXiv:1512.03385, section 3.3, option A.
    """
    (sv, sh), (before, behind), C = pair(stride), zeros, x.shape[-1]
    kept = x[:, ::sv, ::sh]
    y = get_xp(x).zeros((*kept.shape[:-1], before + C + behind), x.dtype)
    y[..., before : before + C] = kept
    return y


def subsample_backward(dy: Array, shape: tuple[int, ...], stride: Pair, zeros: tuple[int, int] = (0, 0)) -> Array:
    """dx, of the given shape: dy at the pixels that were kept, else 0."""
    (sv, sh), (before, _), C = pair(stride), zeros, shape[-1]
    dx = get_xp(dy).zeros(shape, dy.dtype)
    dx[:, ::sv, ::sh] = dy[..., before : before + C]
    return dx
