"""How one process speaks to others that train the same network: the few verbs of MPI.

Each of them (a rank) works on its share of every batch. Batch normalisation gathers the statistics of all shares, the
step adds the gradients of all, and each rank's optimiser then makes the same update: the network stays the same
everywhere. Whoever trains alone speaks to nobody, at no cost: `Alone`. MPI Forum, "MPI: A Message-Passing Interface
Standard", version 4.1, chapter 6; P. Goyal et al., arXiv:1706.02677, section 3.
"""

import threading
from contextlib import contextmanager

import numpy as np

from minires import ops
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


# --- batch normalisation over all ranks' shares ---------------------------------------------------------------------


def pooled(mean, var, m):
    """(mean, var, m) of a whole batch, each rank giving those of its share.

    var = sum of counts * (variances + (means - mean)^2) / sum of counts. T. Chan et al., see ops/norm.py.
    """
    ranks = current()
    if ranks.size == 1:
        return mean, var, m
    counts = ranks.all_gather(np.asarray(m))
    means, variances, total = ranks.all_gather(mean), ranks.all_gather(var), int(counts.sum())
    weights = get_xp(mean).asarray(counts / total, mean.dtype)[:, None]
    mean = (weights * means).sum(axis=0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(axis=0), total


def batchnorm_backward(m):
    """ops.batchnorm_backward where a whole batch has m values a channel; dgamma and dbeta are those of this share."""
    ranks = current()
    if ranks.size == 1:
        return ops.batchnorm_backward

    def backward(dy, x, gamma, mean, rstd):
        sums = ops.batchnorm_sums(dy, x, mean, rstd)
        totals = [ranks.all_reduce(s.copy()) for s in sums]
        return ops.batchnorm_dx(dy, x, gamma, mean, rstd, *totals, m), *sums

    return backward
