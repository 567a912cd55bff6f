"""Exercise 3: eight nodes, eight lines."""

from minires.lessons.exercises.exercise_03_batchnorm_staged import batchnorm_forward

__all__ = ["batchnorm_backward", "batchnorm_forward"]


def batchnorm_backward(dy, cache):
    """The gradient of every node, last node first."""
    centred, rstd, x_hat, gamma = (cache[name] for name in ("centred", "rstd", "x_hat", "gamma"))
    m = len(dy)
    dbeta = dy.sum(axis=0)
    dgamma = (dy * x_hat).sum(axis=0)
    dx_hat = dy * gamma
    drstd = (dx_hat * centred).sum(axis=0)
    dvar = -drstd * rstd**3 / 2
    dcentred = dx_hat * rstd + 2 * centred * dvar / m
    dmean = -dcentred.sum(axis=0)
    dx = dcentred + dmean / m
    grads = {"dbeta": dbeta, "dgamma": dgamma, "dx_hat": dx_hat, "drstd": drstd}
    return grads | {"dvar": dvar, "dcentred": dcentred, "dmean": dmean, "dx": dx}
