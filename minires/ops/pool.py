"""Pooling: maximum, average, global average. Shapes: x (N, H, W, C) -> y (N, P, Q, C)."""

import math

from minires.backend import Array, get_xp
from minires.fast.dispatch import compiled
from minires.geometry import Pad, Pair, output_size, pool_window
from minires.ops.conv import zero_pad2d_backward, zero_pad2d_forward


def _windows(x, kernel, stride):
    """The R * S views of x that together cover each window, in row-major order of the window's cells."""
    (R, S), (sv, sh) = kernel, stride
    P, Q = output_size(x.shape[1:3], kernel, stride, "valid")
    return [x[:, r : r + sv * (P - 1) + 1 : sv, s : s + sh * (Q - 1) + 1 : sh] for r in range(R) for s in range(S)]


def _maxpool_setup(x, kernel, stride, pad):
    """x with minus infinity around it (a pad can never win), and its windows' geometry."""
    kernel, stride, pads = pool_window(x.shape[1:3], kernel, stride, pad)
    (top, bottom), (left, right) = pads
    if not (top or bottom or left or right):
        return x, kernel, stride, pads
    N, H, W, C = x.shape
    padded = get_xp(x).full((N, top + H + bottom, left + W + right, C), -math.inf, x.dtype)
    padded[:, top : top + H, left : left + W] = x
    return padded, kernel, stride, pads


@compiled
def maxpool_forward(x: Array, *, kernel: Pair, stride: Pair | None = None, pad: Pad = 0) -> Array:
    """y[n, p, q, c] = the largest x of the window, NaN where it holds one; stride defaults to the kernel.

    Padding never wins.
    """
    xp = get_xp(x)
    padded, kernel, stride, _ = _maxpool_setup(x, kernel, stride, pad)
    first, *others = _windows(padded, kernel, stride)
    y = first.copy()
    for window in others:
        xp.maximum(y, window, out=y)
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
) -> Array:
    """dx: each dy goes to its window's maximum, or its NaN; of equal ones to the first in row-major order."""
    xp = get_xp(dy)
    padded, kernel, stride, pads = _maxpool_setup(x, kernel, stride, pad)
    dpadded = xp.zeros(padded.shape, dy.dtype)
    free = xp.ones(y.shape, bool)  # windows whose gradient is still to be given away
    for window, dwindow in zip(_windows(padded, kernel, stride), _windows(dpadded, kernel, stride), strict=True):
        wins = free & ((window == y) | (window != window))
        dwindow += dy * wins
        free ^= wins
    return zero_pad2d_backward(dpadded, pads)


def _avgpool_setup(shape, kernel, stride, pad, count_include_pad, like):
    """Geometry, and how many cells each window averages: (P, Q, 1) or a plain number."""
    kernel, stride, pads = pool_window(shape[1:3], kernel, stride, pad)
    if count_include_pad or not any(map(any, pads)):
        return kernel, stride, pads, kernel[0] * kernel[1]
    ones = zero_pad2d_forward(get_xp(like).ones((1, *shape[1:3], 1), like.dtype), pads)
    return kernel, stride, pads, sum(_windows(ones, kernel, stride))[0]


@compiled
def avgpool_forward(
    x: Array,
    *,
    kernel: Pair,
    stride: Pair | None = None,
    pad: Pad = 0,
    count_include_pad: bool = True,
) -> Array:
    """y = the mean of the window. Zeros of the padding count, as in PyTorch, unless told otherwise, as in Keras."""
    kernel, stride, pads, cells = _avgpool_setup(x.shape, kernel, stride, pad, count_include_pad, x)
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
    count_include_pad: bool = True,
) -> Array:
    """dx, of the given shape: every cell of a window receives dy / cells."""
    kernel, stride, pads, cells = _avgpool_setup(shape, kernel, stride, pad, count_include_pad, dy)
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
