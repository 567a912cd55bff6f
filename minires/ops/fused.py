"""Batch normalisation, the residual add and ReLU in one walk over memory; reading this file is optional.

The same results as batchnorm, add and relu one after the other (the tests hold them equal), for one part of a
batch: the statistics come from outside, since the parts of a batch share them. Pieces of a few hundred
kilobytes stay in the cache between the passes. With x_hat = (x - mean) * rstd over the m values of a channel:

    y = relu(gamma * x_hat + beta + shortcut)
    g = dy where y > 0, else 0                         the gradient of the shortcut, too
    dbeta = sum g,   dgamma = sum g * x_hat            over all parts
    dx = gamma * rstd * (g - dbeta / m - x_hat * dgamma / m)

Each is written as x * slope + shift, one pass less than with x - mean. That costs digits where a mean is
large beside the deviation, so `centre` takes such a mean away first.
"""

from minires.backend import get_xp
from minires.ops.norm import _fold, _rows, _tiled, batchnorm_statistics

# A mean of so many deviations leaves float32 five digits of x * slope + shift.
FAR = 16


def statistics(x):
    """(mean, var) as `batchnorm_statistics`, in a pass less where no channel's mean is large beside its deviation."""
    xp = get_xp(x)
    m = x.size // x.shape[-1]
    rows, W, chunks = _rows(x)
    sums, squares = (xp.zeros(rows.shape[1], x.dtype) for _ in range(2))
    ones = xp.ones(len(rows[chunks[0]]), x.dtype)
    for i in chunks:
        sums += ones[: len(rows[i])] @ rows[i]
        squares += xp.einsum("ij,ij->j", rows[i], rows[i])
    mean, square = _fold(sums, W) / m, _fold(squares, W) / m
    if not (mean * mean <= square * (1 - 1 / FAR)).all():
        return batchnorm_statistics(x)
    return mean, square - mean * mean


def centre(x, mean, rstd):
    """(x, mean), or (x - mean, 0) where some channel's mean is far from 0."""
    xp = get_xp(x)
    if not (xp.abs(mean) * rstd).max() > FAR:
        return x, mean
    return x - mean, xp.zeros_like(mean)


def norm_add_relu_forward(x, gamma, beta, mean, rstd, shortcut=None, relu=True):
    """y = relu(gamma * x_hat + beta + shortcut), the last two if asked for."""
    xp = get_xp(x)
    rows, W, chunks = _rows(x)
    slope = gamma * rstd
    slope, shift, zero = (_tiled(v, W) for v in (slope, beta - mean * slope, xp.zeros_like(beta)))
    y = xp.empty_like(rows)
    other = None if shortcut is None else shortcut.reshape(rows.shape)
    for i in chunks:
        part = xp.multiply(rows[i], slope, out=y[i])
        part += shift
        if other is not None:
            part += other[i]
        if relu:
            xp.maximum(part, zero, out=part)  # a row of zeros: the scalar form takes twice as long
    return y.reshape(x.shape)


def norm_add_relu_sums(dy, x, y, mean, rstd, relu=True):
    """(g, dgamma, dbeta) of one part; g is dy itself where there is no ReLU."""
    xp = get_xp(x)
    rows, W, chunks = _rows(x)
    dy, y = dy.reshape(rows.shape), y.reshape(rows.shape)
    g = xp.empty_like(rows) if relu else dy
    sums, products = (xp.zeros(rows.shape[1], x.dtype) for _ in range(2))
    for i in chunks:
        if relu:
            xp.multiply(dy[i], y[i] > 0, out=g[i])
        sums += g[i].sum(axis=0)
        products += xp.einsum("ij,ij->j", g[i], rows[i])
    dbeta = _fold(sums, W)
    return g.reshape(x.shape), (_fold(products, W) - mean * dbeta) * rstd, dbeta


def norm_add_relu_backward(g, x, gamma, mean, rstd, dgamma, dbeta, m, out=None):
    """dx from g and the sums over all parts, m values a channel; `out` may be g itself."""
    xp = get_xp(x)
    rows, W, chunks = _rows(x)
    g = g.reshape(rows.shape)
    scale = gamma * rstd
    slope = scale * rstd * dgamma / m
    scale, slope, shift = (_tiled(v, W) for v in (scale, slope, scale * dbeta / m - mean * slope))
    dx = xp.empty_like(rows) if out is None else out.reshape(rows.shape)
    scratch = xp.empty((len(rows[chunks[0]]), rows.shape[1]), x.dtype)
    for i in chunks:
        tilt = xp.multiply(rows[i], slope, out=scratch[: len(rows[i])])
        tilt += shift
        part = xp.multiply(g[i], scale, out=dx[i])
        part -= tilt
    return dx.reshape(x.shape)


def shift_add_relu(x, shift, shortcut=None, relu=True):
    """relu(x + shift + shortcut), the last two if asked for, written into x."""
    xp = get_xp(x)
    rows, W, chunks = _rows(x)
    shift, zero = _tiled(shift, W), xp.zeros(rows.shape[1], x.dtype)
    other = None if shortcut is None else shortcut.reshape(rows.shape)
    for i in chunks:
        part = rows[i]
        part += shift
        if other is not None:
            part += other[i]
        if relu:
            xp.maximum(part, zero, out=part)
    return x
