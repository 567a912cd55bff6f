"""Where several paths become one: the residual add, concatenation, multiplication."""

from itertools import pairwise

from minires.backend import get_xp
from minires.fast.dispatch import compiled


@compiled
def add_forward(branch, shortcut):
    """y = F(x) + x, the residual add. K. He et al., arXiv:1512.03385, equation 1."""
    return branch + shortcut


def add_backward(dy):
    """(dbranch, dshortcut) = (dy, dy): both inputs receive the whole gradient. It is copied, not halved."""
    return dy, dy


def concat_forward(*xs):
    """y = the channels of every x, one after the other. C. Szegedy et al., arXiv:1409.4842, section 4."""
    return get_xp(xs[0]).concatenate(xs, axis=-1)


def concat_backward(dy, channels):
    """(dx, ...): each input's own channels of dy; channels: how many each input has."""
    ends, xp = [sum(channels[:i]) for i in range(len(channels) + 1)], get_xp(dy)
    return tuple(xp.ascontiguousarray(dy[..., a:b]) for a, b in pairwise(ends))


def multiply_forward(x, gate):
    """y = x * gate, with a gate of x's shape, or (N, C) or (N, 1, 1, C): then one factor for each channel's whole map.

    J. Hu et al., "Squeeze-and-Excitation Networks", arXiv:1709.01507, equation 4.
    """
    return x * _spread(gate, x)


def multiply_backward(dy, x, gate):
    """(dx, dgate) = (dy * gate, dy * x), the latter summed over the map where one factor served all of it."""
    wide, dgate = _spread(gate, x), dy * x
    shared = tuple(i for i, size in enumerate(wide.shape) if size != x.shape[i])
    return dy * wide, dgate.sum(axis=shared).reshape(gate.shape) if shared else dgate


def _spread(gate, x):
    return gate if gate.ndim == x.ndim else gate[:, None, None, :]
