"""Initial weights: He, Glorot.

Each array is drawn by a generator keyed by the seed and the parameter's name, on the CPU. Layers therefore
never share a draw, a network and its twin without skips start from identical main-path weights, and so do
the CPU and the GPU.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar
from zlib import crc32

import numpy as np


def generator(seed: int, name: str) -> np.random.Generator:
    """The random generator that belongs to `name`."""
    return np.random.default_rng([seed, crc32(name.encode())])


def he_normal(rng, shape: tuple[int, ...], fan_in, fan_out):
    """N(0, 2 / fan_in): keeps the scale through ReLUs. K. He et al., arXiv:1502.01852, section 2.2."""
    return rng.standard_normal(shape, dtype=np.float32) * math.sqrt(2 / fan_in)


def glorot_uniform(rng, shape: tuple[int, ...], fan_in, fan_out):
    """U(-a, a), a^2 = 6 / (fan_in + fan_out). X. Glorot, Y. Bengio, AISTATS 2010, equation 16."""
    return (2 * rng.random(shape, dtype=np.float32) - 1) * math.sqrt(6 / (fan_in + fan_out))


INITIALISERS = {"he": he_normal, "glorot": glorot_uniform}


_drawn = ContextVar("drawn", default=True)


@contextmanager
def undrawn():
    """Kernels are zeros inside: for a network that takes its weights from a file."""
    token = _drawn.set(False)
    try:
        yield
    finally:
        _drawn.reset(token)


def draw_kernel(name: str, shape: tuple, scheme: str, seed: int) -> np.ndarray:
    """float32 weights of `shape` (..., C, O): a convolution's fan is its channels times its window."""
    if not _drawn.get():
        return np.zeros(shape, np.float32)
    window = math.prod(shape[:-2])
    fans = window * shape[-2], window * shape[-1]
    return INITIALISERS[scheme](generator(seed, name), shape, *fans)
