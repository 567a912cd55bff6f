"""The fully connected layer."""

from minires.backend import Array
from minires.fast.dispatch import compiled
from minires.ops.norm import channel_sum

__all__ = [
    "dense_backward",
    "dense_forward",
]


@compiled
def dense_forward(x: Array, w: Array, b: Array | None = None) -> Array:
    """y = x w + b.  x (N, C), w (C, O), b (O,) or None -> y (N, O)."""
    y = x @ w
    return y if b is None else y + b


@compiled
def dense_backward(dy: Array, x: Array, w: Array, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """dx = dy w^T,  dw = x^T dy,  db = the sum of dy's rows; dx is None unless needed."""
    return dy @ w.T if need_dx else None, x.T @ dy, channel_sum(dy)
