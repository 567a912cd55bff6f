"""Convolutions whose shape allows a shorter way than im2col, for NumPy; reading this file is optional.

The same results as ops/conv.py up to the order of summation, in the same notation. A further way, for 3x3
kernels with many channels, is in ops/winograd.py.
"""

import numpy as np

from minires.backend import unpacked_product, workspace
from minires.ops.conv import output_size, pair, resolve_padding, zero_pad2d_backward, zero_pad2d_forward
from minires.ops.products import product

WORKSPACE = 2**21  # bytes of copied rows at a time
FEW_ROWS = 64  # up to so many, the weights go first in a product


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
    dkept = _times_transposed(rows, w.reshape(C, O)).reshape(kept.shape)
    if kept is x:
        return dkept, dw
    dx = np.zeros(x.shape, dy.dtype)
    (sv, sh) = pair(stride)
    dx[:, ::sv, ::sh] = dkept
    return dx, dw


def _kept(x, stride):
    (sv, sh) = pair(stride)
    return np.ascontiguousarray(x[:, ::sv, ::sh]) if (sv, sh) != (1, 1) else x


def _times_transposed(rows, w):
    """rows (M, O) @ w^T (O, C), in the order that a BLAS likes."""
    if 8 * w.size <= unpacked_product():
        return product(rows, np.ascontiguousarray(w.T))  # short products: worth the copy
    if len(rows) > FEW_ROWS:
        return product(rows, w.T)
    # the large operand first: a BLAS would copy it otherwise
    return np.ascontiguousarray(product(w, np.ascontiguousarray(rows.T)).T)


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


def tapwise_forward(x, w, stride, pad):
    """y of a convolution as a product for each tap of the kernel, y += (the pixels under it) w[r, s].

    Only pixels that exist are multiplied. Where maps are hardly larger than the kernel most of what im2col copies is
    padding: on a map of 2x2, 16 of a 3x3 kernel's 36 pairs of output and tap meet a pixel.
    """
    (R, S, C, O), stride = w.shape, pair(stride)
    pads = resolve_padding(pad, x.shape[1:3], (R, S), stride)
    y = np.zeros((len(x), *output_size(x.shape[1:3], (R, S), stride, pads), O), np.result_type(x, w))
    for tap, outputs, inputs in _taps(x, y, w, stride, pads):
        part = x[inputs]
        y[outputs] += product(part.reshape(-1, C), w[tap]).reshape(*part.shape[:3], O)
    return y


def tapwise_backward(dy, x, w, stride, pad, need_dx=True, dw=None):
    """(dx, dw) of `tapwise_forward`: dw[r, s] = (the pixels under it)^T dy; dx^T += w[r, s] dy^T at those pixels."""
    (R, S, C, O), stride = w.shape, pair(stride)
    taps = list(_taps(x, dy, w, stride, resolve_padding(pad, x.shape[1:3], (R, S), stride)))
    dw = np.empty(w.shape, w.dtype) if dw is None else dw
    if len(taps) < R * S:
        dw[...] = 0  # the taps that meet no pixel
    for tap, outputs, inputs in taps:
        np.matmul(x[inputs].reshape(-1, C).T, dy[outputs].reshape(-1, O), out=dw[tap])
    if not need_dx:
        return None, dw
    # with few rows, the large operand goes first: a BLAS would copy it otherwise
    turned = np.ascontiguousarray(dy.transpose(3, 0, 1, 2))
    dx = np.zeros((C, *x.shape[:3]), dy.dtype)
    for tap, outputs, inputs in taps:
        part = turned[:, *outputs]
        dx[:, *inputs] += product(w[tap], part.reshape(O, -1)).reshape(C, *part.shape[1:])
    return np.ascontiguousarray(dx.transpose(1, 2, 3, 0)), dw


def tap_pairs(size, output, kernel, stride, pads) -> int:
    """How many pairs of an output and a tap of the kernel meet a pixel rather than padding."""
    count = 1
    for taps, *axis in zip(kernel, size, output, stride, pads, strict=True):
        met = [_span(k, *axis)[0] for k in range(taps)]
        count *= sum(max(0, outputs.stop - outputs.start) for outputs in met)
    return count


def _taps(x, y, w, stride, pads):
    """(index of the tap, of the outputs where it meets a pixel, of these pixels), for each tap that meets any."""
    every = slice(None)
    for r in range(w.shape[0]):
        rows = _span(r, x.shape[1], y.shape[1], stride[0], pads[0])
        for s in range(w.shape[1]):
            columns = _span(s, x.shape[2], y.shape[2], stride[1], pads[1])
            (p, h), (q, v) = rows, columns
            if p.stop > p.start and q.stop > q.start:
                yield (r, s), (every, p, q), (every, h, v)


def _span(k, size, output, stride, pads):
    """Along one axis, the outputs for which tap `k` meets a pixel, and these pixels."""
    first = max(0, -(-(pads[0] - k) // stride))
    last = min(output, (size - 1 + pads[0] - k) // stride + 1)
    start = first * stride + k - pads[0]
    return slice(first, last), slice(start, start + (last - first - 1) * stride + 1, stride)


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
