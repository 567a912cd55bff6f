"""Convolutions whose shape allows a shorter way than im2col, for NumPy; reading this file is optional.

The same results as ops/conv.py up to the order of summation, in the same notation. The third way, for 3x3
kernels with many channels, is in ops/winograd.py.
"""

import numpy as np

from minires.backend import unpacked_product, workspace
from minires.ops.conv import output_size, pair, resolve_padding, zero_pad2d_backward, zero_pad2d_forward
from minires.ops.products import product

WORKSPACE = 2**21  # bytes of copied rows at a time


def pointwise_forward(x, w, stride=1):
    """y of a 1x1 convolution without padding: the kept pixels' channels times a matrix."""
    x = _kept(x, stride)
    *shape, C = x.shape
    return product(x.reshape(-1, C), w.reshape(C, -1)).reshape(*shape, -1)


def pointwise_backward(dy, x, w, stride=1, need_dx=True, dw=None):
    """(dx, dw) of `pointwise_forward`; pixels that the stride skipped receive nothing."""
    C, O = w.shape[2:]
    rows, kept = dy.reshape(-1, O), _kept(x, stride)
    dw = np.empty(w.shape, w.dtype) if dw is None else dw
    np.matmul(kept.reshape(-1, C).T, rows, out=dw.reshape(C, O))
    if not need_dx:
        return None, dw
    dkept = product(rows, _transposed(w.reshape(C, O))).reshape(kept.shape)
    if kept is x:
        return dkept, dw
    dx = np.zeros(x.shape, dy.dtype)
    (sv, sh) = pair(stride)
    dx[:, ::sv, ::sh] = dkept
    return dx, dw


def _kept(x, stride):
    (sv, sh) = pair(stride)
    return np.ascontiguousarray(x[:, ::sv, ::sh]) if (sv, sh) != (1, 1) else x


def _transposed(w):
    """w^T, in memory of its own where that makes short products faster than the copy costs."""
    return np.ascontiguousarray(w.T) if 8 * w.size <= unpacked_product() else w.T


def rowwise_forward(x, w, pad):
    """y of a convolution with stride 1: one product for each row of the kernel, y = sum over r of X_r w_r.

    X_r holds, for each output, the S pixels that the kernel's row r sees: a third of the columns of a 3x3
    kernel's im2col, since all R products read the same copy, shifted. For few channels, where copying counts.
    """
    R, S, C, O = w.shape
    pads = resolve_padding(pad, x.shape[1:3], (R, S), (1, 1))
    P, Q = output_size(x.shape[1:3], (R, S), (1, 1), pads)
    y = np.empty((len(x), P, Q, O), np.result_type(x, w))
    flat, padded = w.reshape(R, S * C, O), zero_pad2d_forward(x, pads)
    for images in _pieces(padded, Q * S * C):
        first, *others = _shifted(padded[images], R, S, O)
        out = y[images].reshape(*first.shape[:-1], O)
        np.matmul(first, flat[0], out=out)
        for rows, part in zip(others, flat[1:], strict=True):
            out += rows @ part
    return y


def rowwise_backward(dy, x, w, pad, need_dx=True, dw=None):
    """(dx, dw) of `rowwise_forward`: dw_r = X_r^T dy; dx is a convolution of dy with the turned kernel."""
    R, S, C, O = w.shape
    (top, bottom), (left, right) = pads = resolve_padding(pad, x.shape[1:3], (R, S), (1, 1))
    padded, parts = zero_pad2d_forward(x, pads), 0
    for images in _pieces(padded, dy.shape[2] * S * C):
        shifted = _shifted(padded[images], R, S, O)
        g = dy[images].reshape(*shifted[0].shape[:-1], O)
        parts = parts + np.stack([(rows.swapaxes(-1, -2) @ g).sum(axis=(0, 1)) for rows in shifted])
    dw = np.empty(w.shape, w.dtype) if dw is None else dw
    dw[...] = parts.reshape(w.shape)
    if not need_dx:
        return None, dw
    around = ((R - 1 - top, R - 1 - bottom), (S - 1 - left, S - 1 - right))
    inside = tuple(tuple(max(p, 0) for p in side) for side in around)
    dx = rowwise_forward(dy, np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3)), inside)
    beyond = tuple(tuple(max(-p, 0) for p in side) for side in around)  # padding wider than the kernel reaches
    return zero_pad2d_backward(dx, beyond), dw


def _pieces(padded, row_length):
    """Slices of the batch whose copied rows fit in WORKSPACE."""
    N, H = padded.shape[:2]
    step = max(1, workspace(WORKSPACE) // (H * row_length * padded.itemsize))
    return [slice(i, min(i + step, N)) for i in range(0, N, step)]


def _shifted(padded, R, S, O):
    """X_r for each row r of the kernel, (N, blocks, rows of a block * Q, S * C), as views of one copy."""
    N, H, W, C = padded.shape
    P, Q = H - R + 1, W - S + 1
    n, h, w, c = padded.strides
    copied = np.lib.stride_tricks.as_strided(padded, (N, H, Q, S * C), (n, h, w, c)).copy()
    most = max(1, unpacked_product() // (Q * S * C * O))
    block = next(b for b in range(min(most, P), 0, -1) if P % b == 0)
    return [copied[:, r : r + P].reshape(N, P // block, block * Q, S * C) for r in range(R)]
