"""The fully connected layer."""

from minires.fast.dispatch import compiled
from minires.ops.norm import channel_sum


@compiled
def dense_forward(x, w, b=None):
    """y = x w + b.  x (N, C), w (C, O), b (O,) or None -> y (N, O)."""
    y = x @ w
    return y if b is None else y + b


@compiled
def dense_backward(dy, x, w, *, need_dx=True):
    """dx = dy w^T,  dw = x^T dy,  db = the sum of dy's rows; dx is None unless needed."""
    return dy @ w.T if need_dx else None, x.T @ dy, channel_sum(dy)
