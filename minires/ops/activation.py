"""Elementwise ops: ReLU, dropout, flatten."""

import math

from minires.backend import get_xp
from minires.fast.dispatch import compiled


@compiled
def relu_forward(x):
    """y = max(x, 0). V. Nair, G. Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", 2010."""
    xp = get_xp(x)
    return xp.maximum(x, xp.zeros(x.shape[1:], x.dtype))  # NumPy takes three times as long with the scalar 0


@compiled
def relu_backward(dy, y):
    """dx = dy where y > 0, else 0 (so the slope at exactly 0 is taken as 0). Needs the output alone."""
    return dy * (y > 0)


def dropout_forward(x, keep, rate):
    """y = x * keep / (1 - rate), with keep (x's shape) 1 where a unit survives. N. Srivastava et al., JMLR 15, 2014."""
    return x * keep / (1 - rate)


def dropout_backward(dy, keep, rate):
    """dx = dy * keep / (1 - rate), with the very mask of the forward pass."""
    return dy * keep / (1 - rate)


def flatten_forward(x):
    """(N, H, W, C) -> (N, H * W * C)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def flatten_backward(dy, shape):
    """dx: dy in the shape that x had."""
    return dy.reshape(shape)
