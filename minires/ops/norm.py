"""Batch normalisation over (N, H, W), one mean and variance a channel.

S. Ioffe, C. Szegedy, "Batch Normalization", arXiv:1502.03167, section 3 (algorithm 1 and the gradients below it).
Shapes: x, y (N, H, W, C) or (N, C); gamma, beta, mean, var, rstd (C,), with rstd = 1 / sqrt(var + epsilon).

Every pass walks over pieces that stay in the cache, as rows of W * C numbers: the per-channel vectors are
tiled W times, which makes NumPy's inner loops long. Sums are taken after something near the mean is
subtracted, so a mean that is large beside the spread costs no digits; those of float16 are float32.
"""

import math

from minires.backend import Array, get_xp, row_chunks
from minires.errors import ShapeError
from minires.fast.dispatch import compiled

__all__ = [
    "batchnorm_backward",
    "batchnorm_dx",
    "batchnorm_eval_backward",
    "batchnorm_forward",
    "batchnorm_running",
    "batchnorm_statistics",
    "batchnorm_sums",
]


def _rows(x):
    """x as (rows, W * C), with the slices that walk over it."""
    C = x.shape[-1]
    W = x.shape[2] if x.ndim == 4 else 1
    x = x.reshape(math.prod(x.shape[: 2 if x.ndim == 4 else -1]), W * C)
    return x, W, row_chunks(len(x), W * C, x)


def _fold(sums, W):
    """Column sums (W * C,) -> channel sums (C,)."""
    return sums.reshape(W, -1).sum(axis=0)


def _tiled(v, W):
    """(C,) -> (W * C,), at a tenth of what xp.tile spends before it copies."""
    tiled = get_xp(v).empty((W, len(v)), v.dtype)
    tiled[...] = v
    return tiled.reshape(-1)


def _wide_sum(rows, W):
    """The sum of rows of W * C numbers, a channel, in float32 at least: (C,)."""
    return _fold(rows.sum(axis=0, dtype=get_xp(rows).result_type(rows, "f4")), W)


@compiled
def channel_sum(x: Array) -> Array:
    """The sum over everything but the channels: (N, H, W, C) or (N, C) -> (C,)."""
    rows, W, _ = _rows(x)
    return _wide_sum(rows, W).astype(x.dtype, copy=False)


@compiled
def batchnorm_statistics(x: Array) -> tuple[Array, Array]:
    """(mean, var): mean = sum x / m,  var = sum (x - mean)^2 / m (biased), over the m = N*H*W values of a channel.

    One pass: with d = x - shift for any shift near the mean, here that of some rows from all over the batch,
    mean = shift + sum d / m and var = sum d^2 / m - (sum d / m)^2. T. Chan, G. Golub, R. LeVeque,
    "Algorithms for Computing the Sample Variance", The American Statistician 37, 1983.
    ShapeError for an empty batch, which has neither.
    """
    if not x.size:
        raise ShapeError(f"batch normalisation: {x.shape} has no mean and variance: give at least one image")
    xp = get_xp(x)
    m = x.size // x.shape[-1]
    x, W, chunks = _rows(x)
    step = len(x) // 32 | 1  # odd: it does not meet the same row of each map
    sample = x[step // 2 :: step]
    shift = _wide_sum(sample, W) / (len(sample) * W)
    tiled = _tiled(shift, W)
    sums, squares = xp.zeros_like(tiled), xp.zeros_like(tiled)
    for rows in chunks:
        d = x[rows] - tiled
        sums += d.sum(axis=0)
        squares += xp.einsum("ij,ij->j", d, d)
    offset = _fold(sums, W) / m
    # rounding may leave a constant channel slightly below zero
    return shift + offset, xp.maximum(_fold(squares, W) / m - offset * offset, 0)


def batchnorm_running(
    running_mean: Array, running_var: Array, mean: Array, var: Array, m: int, *, momentum: float, unbiased: bool = False
) -> tuple[Array, Array]:
    """(running_mean, running_var) = momentum * running + (1 - momentum) * batch; unbiased: the variance over m - 1."""
    if unbiased and m > 1:
        var = var * (m / (m - 1))
    return momentum * running_mean + (1 - momentum) * mean, momentum * running_var + (1 - momentum) * var


@compiled
def batchnorm_forward(x: Array, gamma: Array, beta: Array, mean: Array, rstd: Array) -> Array:
    """y = gamma * (x - mean) * rstd + beta, with statistics of the batch (training) or running ones (evaluation)."""
    xp = get_xp(x)
    shape = x.shape
    x, W, chunks = _rows(x)
    mean, scale, beta = _tiled(mean, W), _tiled(gamma * rstd, W), _tiled(beta, W)
    y = xp.empty_like(x)
    for rows in chunks:
        part = y[rows]
        xp.subtract(x[rows], mean, out=part)
        part *= scale
        part += beta
    return y.reshape(shape)


@compiled
def batchnorm_sums(dy: Array, x: Array, mean: Array, rstd: Array) -> tuple[Array, Array]:
    """dgamma = sum dy * x_hat and dbeta = sum dy, a channel, where x_hat = (x - mean) * rstd; in float32 at least."""
    xp = get_xp(x)
    x, W, chunks = _rows(x)
    dy = dy.reshape(x.shape)
    mean = _tiled(mean, W).astype(xp.result_type(x, "f4"), copy=False)
    products = xp.zeros_like(mean)
    for rows in chunks:
        products += xp.einsum("ij,ij->j", dy[rows], x[rows] - mean)
    return _fold(products, W) * rstd, _wide_sum(dy, W)


@compiled
def batchnorm_dx(
    dy: Array, x: Array, gamma: Array, mean: Array, rstd: Array, dgamma: Array, dbeta: Array, m: int
) -> Array:
    """dx = gamma * rstd * (dy - dbeta / m - x_hat * dgamma / m), with the sums over all m values of a channel."""
    xp, shape = get_xp(x), x.shape
    x, W, chunks = _rows(x)
    dy = dy.reshape(x.shape)
    slope = _tiled(rstd * dgamma / m, W)  # x_hat * dgamma / m = (x - mean) * slope
    mean, scale, shift = _tiled(mean, W), _tiled(gamma * rstd, W), _tiled(dbeta / m, W)
    dx = xp.empty_like(x)
    for rows in chunks:
        part = dx[rows]
        xp.subtract(mean, x[rows], out=part)
        part *= slope
        part += dy[rows]
        part -= shift
        part *= scale
    return dx.reshape(shape)


@compiled
def batchnorm_backward(dy: Array, x: Array, gamma: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta) in training, where the mean and the variance depend on x too: see `batchnorm_dx`.

    The two subtracted terms are what flows back through the mean and through the variance; they make dx sum
    to zero over each channel and stand orthogonal to x_hat.
    """
    dgamma, dbeta = batchnorm_sums(dy, x, mean, rstd)
    dx = batchnorm_dx(dy, x, gamma, mean, rstd, dgamma, dbeta, max(1, x.size // x.shape[-1]))
    return dx, dgamma.astype(gamma.dtype, copy=False), dbeta.astype(gamma.dtype, copy=False)


@compiled
def batchnorm_eval_backward(dy: Array, x: Array, gamma: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta) in evaluation, where the statistics are constants: dx = gamma * rstd * dy."""
    dgamma, dbeta = (v.astype(gamma.dtype, copy=False) for v in batchnorm_sums(dy, x, mean, rstd))
    return dy * (gamma * rstd).astype(dy.dtype, copy=False), dgamma, dbeta
