"""Generators of random numbers, a layer's own and the process's, so that every evaluation draws the same."""

import random

import numpy as np


def draws(value) -> bool:
    """Whether it is a generator of a layer's own."""
    return isinstance(value, np.random.Generator | np.random.RandomState | random.Random)


def state(generator):
    """Where a generator stands."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def set_state(generator, before) -> None:
    """Put it back there."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = before
    elif isinstance(generator, random.Random):
        generator.setstate(before)
    else:
        generator.set_state(before)


def process() -> tuple:
    """Where the process's own two generators stand, from which np.random.rand and random.random draw."""
    return np.random.get_state(), random.getstate()  # noqa: NPY002


def set_process(before: tuple) -> None:
    """Put them back there."""
    np.random.set_state(before[0])  # noqa: NPY002
    random.setstate(before[1])


def same(one, other) -> bool:
    """Whether two states are one."""
    if isinstance(one, tuple) and all(type(v) is int for v in one):
        return one == other
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))
