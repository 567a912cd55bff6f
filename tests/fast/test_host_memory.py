"""Memory that the ranks of a host share: what is summed and gathered there, and where it cannot be had."""

import os
from pathlib import Path

import numpy as np
import pytest
import threads

from minires.fast import communicator, host_memory

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2), of Linux")
SIZE = 3 * host_memory.PIECE + 17


def together(size, work):
    """[work(memory, own array, rank)] of so many ranks that share memory."""

    def one(rank):
        memory = host_memory.made(communicator.current(), SIZE, np.float32)
        own = memory.own()
        own[:] = np.random.default_rng(rank).standard_normal(SIZE)
        work(memory, own, rank)
        return own.copy()

    return threads.run(size, one)


def drawn(size):
    return [np.random.default_rng(rank).standard_normal(SIZE).astype(np.float32) for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_sums_are_added_in_the_order_of_the_ranks(size):
    start, stop = 5, SIZE - 7

    def work(memory, own, rank):
        memory.all_reduce(start, communicator.shares(stop - start))

    expected = sum(drawn(size)[1:], drawn(size)[0])
    for array, before in zip(together(size, work), drawn(size), strict=True):
        np.testing.assert_array_equal(array[start:stop], expected[start:stop])
        np.testing.assert_array_equal(array[:start], before[:start])
        np.testing.assert_array_equal(array[stop:], before[stop:])


def test_a_rank_gets_the_sums_of_its_part():
    parts = [slice(0, 0), slice(0, 100), slice(100, SIZE)]  # one has none

    def work(memory, own, rank):
        memory.reduce_scatter(0, parts)

    found, (a, b, c) = together(3, work), drawn(3)
    for array, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(array[part], (a + b + c)[part])


def test_parts_are_gathered():
    parts = [slice(0, 1000), slice(1000, 1000), slice(1000, SIZE - 3)]

    def work(memory, own, rank):
        memory.all_gather(3, parts)

    a, _, c = drawn(3)
    expected = np.concatenate([a[3:1003], c[1003:]])
    for array in together(3, work):
        np.testing.assert_array_equal(array[3:], expected)


@pytest.mark.parametrize("fault", ["cannot be opened", "is another's", "cannot be made"])
def test_all_ranks_do_without_it_where_one_cannot_see_it(fault, monkeypatch):
    opened, create = host_memory._opened, os.memfd_create

    def open_memory(pid, number, length, token):
        if communicator.current().rank == 1 and fault != "cannot be made":
            return None if fault == "cannot be opened" else opened(pid, number, length, token + 1)
        return opened(pid, number, length, token)

    def make(name):
        if communicator.current().rank == 1 and fault == "cannot be made":
            raise OSError("too many open files")
        return create(name)

    monkeypatch.setattr(host_memory, "_opened", open_memory)
    monkeypatch.setattr(os, "memfd_create", make)
    assert threads.run(3, lambda _: host_memory.made(communicator.current(), 10, np.float64)) == [None] * 3


def test_it_is_given_back():
    """With the last array of it: each epoch that thaws a layer makes an optimiser, and memory, anew."""
    held = together(2, lambda *_: None)
    assert len(held) == 2
    assert "memfd:minires-ranks" not in Path("/proc/self/maps").read_text()
