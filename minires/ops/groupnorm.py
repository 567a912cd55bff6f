"""Group normalisation: each image by itself, one mean and variance a group of neighbouring channels.

Y. Wu, K. He, "Group Normalization", arXiv:1803.08494, section 3. Shapes: x, y (N, H, W, C) or (N, C); gamma, beta (C,);
mean, rstd (N, G), with rstd = 1 / sqrt(var + epsilon). G = 1 takes a whole image, G = C each channel of it.
Nothing here looks at a second image: any batch will do, and evaluation is training.

Layer normalisation is the case of one group for everything in the last axes that gamma and beta have, each position of
the others by itself. J. L. Ba et al., arXiv:1607.06450, section 3.
"""

import math

from minires.backend import Array, get_xp
from minires.errors import ShapeError

__all__ = [
    "groupnorm_backward",
    "groupnorm_forward",
    "groupnorm_statistics",
    "layernorm_backward",
    "layernorm_forward",
    "layernorm_statistics",
]


def _grouped(x, groups):
    """x as (N, H * W, G, C / G)."""
    return x.reshape(len(x), math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)


def _spread(v):
    """(N, G) beside what `_grouped` gives."""
    return v[:, None, :, None]


def _sum(grouped):
    """The sum over each group, in float32 at least: (N, G). A product with ones adds up pixels many times faster."""
    (N, pixels, G, C), xp = grouped.shape, get_xp(grouped)
    ones = xp.ones((1, pixels), xp.result_type(grouped, "f4"))
    return (ones @ grouped.reshape(N, pixels, G * C)).reshape(N, G, C).sum(axis=2)


def groupnorm_statistics(x: Array, groups: int) -> tuple[Array, Array]:
    """(mean, var) (N, G): mean = sum x / m,  var = sum (x - mean)^2 / m, over the m = H*W*C/G values of a group."""
    C = x.shape[-1]
    if not math.prod(x.shape[1:]) or C % groups:
        raise ShapeError(f"group normalisation: {C} channels of {x.shape} do not make {groups} equal groups")
    x = _grouped(x, groups)
    m = x.shape[1] * x.shape[3]
    mean = _sum(x) / m
    return mean, _sum((x - _spread(mean)) ** 2) / m


def groupnorm_forward(x: Array, gamma: Array, beta: Array, mean: Array, rstd: Array) -> Array:
    """y = gamma * (x - mean) * rstd + beta."""
    x_hat = (_grouped(x, mean.shape[1]) - _spread(mean)) * _spread(rstd)
    return (gamma * x_hat.reshape(x.shape) + beta).astype(x.dtype, copy=False)


def groupnorm_backward(dy: Array, x: Array, gamma: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    """(dx, dgamma, dbeta). With x_hat = (x - mean) * rstd and g = gamma * dy, sums over the m values of each group:

    dx = rstd * (g - sum g / m - x_hat * sum (g * x_hat) / m): as in batch normalisation, what flows back through the
    mean and through the variance is subtracted, here of one image alone.
    """
    groups, every = mean.shape[1], tuple(range(x.ndim - 1))
    x_hat = (_grouped(x, groups) - _spread(mean)) * _spread(rstd)
    wide = x_hat.dtype
    dgamma, dbeta = (dy * x_hat.reshape(x.shape)).sum(axis=every), dy.sum(axis=every, dtype=wide)
    g = _grouped(gamma * dy, groups)
    m = g.shape[1] * g.shape[3]
    dx = _spread(rstd) * (g - _spread(_sum(g) / m) - x_hat * _spread(_sum(g * x_hat) / m))
    grads = dx.reshape(x.shape), dgamma, dbeta
    return tuple(d.astype(v.dtype, copy=False) for d, v in zip(grads, (x, gamma, gamma), strict=True))


def _positions(x, axes):
    """x as (positions, the values of the last `axes` axes)."""
    return x.reshape(math.prod(x.shape[: x.ndim - axes]), math.prod(x.shape[x.ndim - axes :]))


def layernorm_statistics(x: Array, axes: tuple[int, ...] = 1) -> tuple[Array, Array]:
    """(mean, var) over the last `axes` axes, each of the shape of those before: (N, H, W) for the channels of a map."""
    mean, var = groupnorm_statistics(_positions(x, axes), 1)
    before = x.shape[: x.ndim - axes]
    return mean.reshape(before), var.reshape(before)


def layernorm_forward(x: Array, gamma: Array, beta: Array, mean: Array, rstd: Array) -> Array:
    """y = gamma * (x - mean) * rstd + beta; gamma, beta: (last axes of x,), mean, rstd: (the others,)."""
    rows = _positions(x, gamma.ndim)
    y = groupnorm_forward(rows, gamma.ravel(), beta.ravel(), mean.reshape(-1, 1), rstd.reshape(-1, 1))
    return y.reshape(x.shape)


def layernorm_backward(dy: Array, x: Array, gamma: Array, mean: Array, rstd: Array) -> Array:
    """(dx, dgamma, dbeta): as in `groupnorm_backward`, each position a group."""
    rows, drows = _positions(x, gamma.ndim), _positions(dy, gamma.ndim)
    grads = groupnorm_backward(drows, rows, gamma.ravel(), mean.reshape(-1, 1), rstd.reshape(-1, 1))
    return tuple(d.reshape(v.shape) for d, v in zip(grads, (x, gamma, gamma), strict=True))
