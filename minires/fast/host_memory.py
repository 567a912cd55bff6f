"""Memory that all ranks of a host reach: sums and gathers read the others' arrays where they lie.

A message is copied into MPI's own memory and out again, and that is what summing gradients on one host then takes. Here
each rank adds up its part of all arrays and copies the parts of the others; nothing moves but once. MPI calls such
memory a window (MPI-4.1, section 12.2.3); this one has no file in /dev/shm, which may be small, and which a killed rank
leaves behind: it is Linux's memfd_create(2), which the others open by way of /proc.
"""

import mmap
import os
import secrets
from contextlib import contextmanager, suppress

import numpy as np

PIECE = 2**17  # elements that are summed at once: of more than two ranks, the sum so far stays in the cache


class HostMemory:
    """An array of each rank, that all of them see; `own` is this one's. Parts are of all that is from `start` on."""

    def __init__(self, ranks, arrays: list[np.ndarray]):
        self.ranks, self.arrays = ranks, arrays

    def own(self) -> np.ndarray:
        """This rank's; anew, so that who holds it holds nothing else."""
        array = self.arrays[self.ranks.rank]
        return np.frombuffer(array.base, array.dtype, array.size)

    def all_reduce(self, start: int, parts: list[slice]) -> None:
        """All ranks have the sums, of which each has added those of its part."""
        self.reduce_scatter(start, parts)
        self.all_gather(start, parts)

    def reduce_scatter(self, start: int, parts: list[slice]) -> None:
        """Rank r has the sums of all arrays in its parts[r], added in the order of the ranks."""
        rank = self.ranks.rank
        with self._between_barriers():
            for part in _pieces(start, parts[rank]):
                total, *others, last = (array[part] for array in self.arrays)
                for other in others:
                    total = total + other
                np.add(total, last, out=self.arrays[rank][part])

    def all_gather(self, start: int, parts: list[slice]) -> None:
        """Rank r has written its parts[r]: the others get it too."""
        with self._between_barriers():
            for rank, part in enumerate(parts):
                if rank != self.ranks.rank:
                    part = slice(start + part.start, start + part.stop)
                    self.arrays[self.ranks.rank][part] = self.arrays[rank][part]

    @contextmanager
    def _between_barriers(self):
        """All have written what is read here, and nobody writes before all have read."""
        self.ranks.barrier()
        with self.ranks.spending():
            yield
        self.ranks.barrier()


def _pieces(start, part):
    """A part in pieces that stay in the cache."""
    for at in range(start + part.start, start + part.stop, PIECE):
        yield slice(at, min(at + PIECE, start + part.stop))


def made(ranks, size: int, dtype) -> HostMemory | None:
    """Memory for an array of each rank; None, on all of them, where one does not see that of all others."""
    if not hasattr(os, "memfd_create"):  # on one host the same everywhere
        return None
    token = ranks.broadcast(np.array([secrets.randbits(62)]))[0]
    length = max(8, size * np.dtype(dtype).itemsize)
    file = -1
    with suppress(OSError):  # the others then find nothing
        file = os.memfd_create("minires-ranks")
        os.ftruncate(file, length)
        with mmap.mmap(file, length) as own:
            own[:8] = (token + ranks.rank).tobytes()
    try:
        places = ranks.all_gather(np.array([os.getpid(), file]))
        found = [_opened(*place, length, token + rank) for rank, place in enumerate(places.tolist())]
        seen = ranks.all_reduce(np.array([all(found)], "i8"))[0] == ranks.size
    finally:
        if file >= 0:
            os.close(file)
    return HostMemory(ranks, [np.frombuffer(each, dtype, size) for each in found]) if seen else None


def _opened(pid, number, length, token) -> mmap.mmap | None:
    """The memory that process `pid` has under this file number, if that is the one that begins with the token."""
    with suppress(OSError):
        file = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR)
        try:
            if os.fstat(file).st_size == length:  # a container may give the same number to another process
                memory = mmap.mmap(file, length)
                if memory[:8] == token.tobytes():
                    return memory
        finally:
            os.close(file)
    return None
