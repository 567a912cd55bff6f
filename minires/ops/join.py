"""Where several paths become one: the residual add, concatenation, multiplication."""

from collections.abc import Sequence
from itertools import pairwise

from minires.backend import Array, get_xp
from minires.fast.dispatch import compiled

__all__ = [
    "add_backward",
    "add_forward",
    "concat_backward",
    "concat_forward",
    "multiply_backward",
    "multiply_forward",
]


@compiled
def add_forward(branch: Array, shortcut: Array) -> Array:
    """y = F(x) + x, the residual add. K. He et al., arXiv:1512.03385, equation 1."""
    return branch + shortcut


def add_backward(dy: Array) -> tuple[Array, Array]:
    """(dbranch, dshortcut) = (dy, dy): both inputs receive the whole gradient. It is copied, not halved."""
    return dy, dy


def concat_forward(*xs: Array) -> Array:
    """y = the channels of every x, one after the other. C. Szegedy et al., arXiv:1409.4842, section 4."""
    return get_xp(xs[0]).concatenate(xs, axis=-1)


def concat_backward(dy: Array, channels: Sequence[int]) -> tuple[Array, ...]:
    """(dx, ...): each input's own channels of dy; channels: how many each input has."""
    ends, xp = [sum(channels[:i]) for i in range(len(channels) + 1)], get_xp(dy)
    return tuple(xp.ascontiguousarray(dy[..., a:b]) for a, b in pairwise(ends))


def multiply_forward(x: Array, gate: Array) -> Array:
    """y = x * gate, with a gate of x's shape, or (N, C) or (N, 1, 1, C): then one factor for each channel's whole map.

    J. Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507, equation 4.
    """
    return x * _spread(gate, x)


def multiply_backward(dy: Array, x: Array, gate: Array) -> tuple[Array, Array]:
    """(dx, dgate) = (dy * gate, dy * x), the latter summed over the map where one factor served all of it."""
    wide, dgate = _spread(gate, x), dy * x
    shared = tuple(i for i, size in enumerate(wide.shape) if size != x.shape[i])
    return dy * wide, (dgate.sum(axis=shared) if shared else dgate).reshape(gate.shape)


def _spread(gate, x):
    return gate if gate.ndim == x.ndim else gate[:, None, None, :]
