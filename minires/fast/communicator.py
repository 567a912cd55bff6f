"""How one process speaks to others that train the same network: the few verbs of MPI.

Each of them (a rank) works on its share of every batch. Batch normalisation gathers the statistics of all shares, the
step adds the gradients of all, and each rank's optimiser then makes the same update: the network stays the same
everywhere. Whoever trains alone speaks to nobody, at no cost: `Alone`. MPI Forum, "MPI: A Message-Passing Interface
Standard", version 4.1, chapter 6; P. Goyal et al., arXiv:1706.02677, section 3.
"""

import threading
from contextlib import contextmanager

from minires.backend import get_xp

_here = threading.local()


class Alone:
    """The only rank. Others have the same attributes and methods; arrays of one shape and type on all ranks."""

    rank, size = 0, 1

    def all_reduce(self, array):
        """The sum of all ranks' arrays, in the order of the ranks, written into `array` and returned."""
        return array

    def all_gather(self, array):
        """All ranks' arrays, stacked in the order of the ranks: (size, *array.shape)."""
        return get_xp(array).stack([array])

    def broadcast(self, array, root: int = 0):
        """The array of rank `root`, written into `array` and returned."""
        return array

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def abort(self, error: BaseException) -> None:
        """End all ranks, since this one cannot go on; `error` goes on here."""


def current():
    """The communicator of this thread."""
    return getattr(_here, "communicator", None) or ALONE


@contextmanager
def speaking_through(communicator):
    """Inside, this thread is a rank of `communicator`; what fails here ends the others too."""
    before, _here.communicator = current(), communicator
    try:
        yield communicator
    except BaseException as error:
        communicator.abort(error)
        raise
    finally:
        _here.communicator = before


def share(count: int) -> slice:
    """This rank's part of `count` images that follow one another; parts differ by one at most."""
    ranks = current()
    return slice(count * ranks.rank // ranks.size, count * (ranks.rank + 1) // ranks.size)


ALONE = Alone()
