"""Elementwise ops: ReLU, dropout, flatten."""

import math

from minires.backend import Array, get_xp
from minires.fast.dispatch import compiled


@compiled
def relu_forward(x: Array) -> Array:
    """y = max(x, 0). V. Nair, G. Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", 2010."""
    xp = get_xp(x)
    return xp.maximum(x, xp.zeros(x.shape[1:], x.dtype))  # NumPy takes three times as long with the scalar 0


@compiled
def relu_backward(dy: Array, y: Array) -> Array:
    """dx = dy where y > 0, else 0 (so the slope at exactly 0 is taken as 0). Needs the output alone."""
    return dy * (y > 0)


def dropout_forward(x: Array, keep: Array, rate: float) -> Array:
    """y = x * keep / (1 - rate), with keep (x's shape) 1 where a unit survives. N. Srivastava et al., JMLR 15, 2014."""
    return x * keep / (1 - rate)


def dropout_backward(dy: Array, keep: Array, rate: float) -> Array:
    """dx = dy * keep / (1 - rate), with the very mask of the forward pass."""
    return dy * keep / (1 - rate)


def flatten_forward(x: Array) -> Array:
    """(N, H, W, C) -> (N, H * W * C)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def flatten_backward(dy: Array, shape: tuple[int, ...]) -> Array:
    """dx: dy in the shape that x had."""
    return dy.reshape(shape)
