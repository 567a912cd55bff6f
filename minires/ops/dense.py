"""The fully connected layer."""

from minires.backend import get_xp
from minires.fast.dispatch import compiled


@compiled
def dense_forward(x, w, b=None):
    """y = x w + b.  x (N, C), w (C, O), b (O,) or None -> y (N, O)."""
    y = x @ w
    return y if b is None else y + b


@compiled
def dense_backward(dy, x, w, *, need_dx=True, dw=None):
    """dx = dy w^T,  dw = x^T dy,  db = the sum of dy's rows; dx is None unless needed. `dw` is written if given."""
    dx, dw = dy @ w.T if need_dx else None, get_xp(x).matmul(x.T, dy, out=dw)
    return dx, dw, dy.sum(axis=0)
