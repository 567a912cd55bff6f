"""How one process speaks to others that train the same network: the few verbs of MPI.

Each of them (a rank) works on its share of every batch. Batch normalisation gathers the statistics of all shares, the
step adds the gradients of all, and each rank's optimiser then makes the same update: the network stays the same
everywhere. Whoever trains alone speaks to nobody, at no cost: `Alone`. MPI Forum, "MPI: A Message-Passing Interface
Standard", version 4.1, chapter 6; P. Goyal et al., arXiv:1706.02677, section 3.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache, wraps

import numpy as np

from minires import ops
from minires.backend import get_xp
from minires.errors import DisagreementError

_here = threading.local()


class Communicator:
    """One rank of `size`; arrays have one shape and type on all ranks, and every rank makes the same calls in order.

    local_bn: whether each rank normalises with the statistics of its own share of a batch.
    """

    rank, size, local_bn = 0, 1, False
    near = False  # whether all ranks are on one host
    host = doing = ""  # where this rank is, and what it does now, in words
    spent = 0.0  # seconds in calls of others so far, waiting for them among it
    waiting, limit = False, 60.0  # whether it waits for others; seconds after which it says for whom

    def all_reduce(self, array):
        """The sum of all ranks' arrays, written into `array` and returned; the same bits on every rank."""
        raise NotImplementedError

    def start_all_reduce(self, array) -> Callable[[], None]:
        """Begin `all_reduce`, go on meanwhile without touching `array`; call what is returned to wait for its end."""
        self.all_reduce(array)
        return lambda: None

    def start_reduce(self, array, root: int) -> Callable[[], None]:
        """As `start_all_reduce`, for a sum that rank `root` alone needs: what others find in `array` is anything."""
        return self.start_all_reduce(array)

    def start_reduce_scatter(self, array, parts: list[slice]) -> Callable[[], None]:
        """As `start_all_reduce`, for sums of which rank r needs array[parts[r]]; what else is there then is anything.

        The parts follow one another and are all of the array; some may be empty.
        """
        waits = [self.start_reduce(array[part], root) for root, part in enumerate(parts) if part.start < part.stop]

        def wait_for_all():
            for wait in waits:
                wait()

        return wait_for_all

    def memory(self, size: int, dtype):
        """An array of so many elements, of any values, that this rank's calls move fastest: MPI's Alloc_mem.

        None where they move all arrays alike. Every rank asks for it, in the same order.
        """
        return None

    def all_gather(self, array):
        """All ranks' arrays, stacked in the order of the ranks: (size, *array.shape)."""
        raise NotImplementedError

    def all_gather_into(self, array, parts: list[slice]):
        """Rank r has written array[parts[r]]: the others get it too, in place. MPI's Allgatherv."""
        for root, part in enumerate(parts):
            if part.stop > part.start:
                self.broadcast(array[part], root)
        return array

    def broadcast(self, array, root: int = 0):
        """The array of rank `root`, written into `array` and returned."""
        raise NotImplementedError

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.all_gather(np.zeros(1))

    def abort(self, error: BaseException) -> None:
        """End all ranks, since this one cannot go on; `error` goes on here."""

    def leave(self, status: int = 0) -> None:
        """At the end of the process, where all ranks have come to theirs."""

    @contextmanager
    def spending(self):
        """What is done inside is counted as communication."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent += time.perf_counter() - began

    @contextmanager
    def busy(self, what: str):
        """Inside, this rank alone does what may take long: the others wait for it with patience."""
        yield


class Alone(Communicator):
    """The only rank, at no cost."""

    def all_reduce(self, array):
        return array

    def all_gather(self, array):
        return get_xp(array).stack([array])

    def broadcast(self, array, root=0):
        return array

    def barrier(self):
        pass


ALONE = Alone()


def current() -> Communicator:
    """The communicator of this thread."""
    return getattr(_here, "communicator", None) or ALONE


@contextmanager
def speaking_through(communicator):
    """Inside, this thread is a rank of `communicator`; what fails here ends the others too."""
    before, _here.communicator = getattr(_here, "communicator", None), communicator
    try:
        yield communicator
    except BaseException as error:
        communicator.abort(error)
        raise
    finally:
        _here.communicator = before


def collective(function):
    """A door to what all ranks do together: where a launcher started this process, it is entered as one of its ranks.

    A thread that speaks through a communicator already goes on with that one; other threads than the first are alone.
    """

    @wraps(function)
    def run(*args, **options):
        if getattr(_here, "communicator", None) is not None:
            return function(*args, **options)
        from minires.fast.mpi import world  # it builds on this

        with speaking_through(world()):
            return function(*args, **options)

    return run


def shares(count: int) -> list[slice]:
    """Each rank's part of `count` things that follow one another; parts differ by one at most."""
    size = current().size
    return [slice(count * rank // size, count * (rank + 1) // size) for rank in range(size)]


def share(count: int) -> slice:
    """This rank's part."""
    return shares(count)[current().rank]


def overlap(a: slice, b: slice) -> slice:
    """What two stretches have in common; where that is nothing, its stop is not above its start."""
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def share_of_batch(count: int) -> slice:
    """This rank's part of a batch; where some rank would have nothing, each has all of it, see `on_batch`."""
    return share(count) if count >= current().size else slice(None)


@contextmanager
def on_batch(count: int):
    """Inside, this rank works on its `share_of_batch`: with the others, or alone where each has all of it."""
    before, _here.batch = getattr(_here, "batch", None), count
    try:
        with speaking_through(current() if count >= current().size else ALONE):
            yield
    finally:
        _here.batch = before


def share_sizes(here: int) -> list[int]:
    """How many images of a batch each rank has, where this one has so many: as `on_batch` says, or by asking."""
    if batch := getattr(_here, "batch", None):
        return [part.stop - part.start for part in shares(batch)]
    return current().all_gather(np.array([here]))[:, 0].tolist()


def part_of_batch(here: int) -> float:
    """What of a batch this rank has, where it has so many images; 1.0 is all."""
    return here / sum(share_sizes(here)) if current().size > 1 else 1.0


def gather(value) -> list:
    """The values of all ranks, JSON data, in their order."""
    if current().size == 1:
        return [value]
    ranks, data = current(), np.frombuffer(json.dumps(value, default=str).encode(), np.uint8)
    lengths = ranks.all_gather(np.array([data.size]))[:, 0]
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: data.size] = data
    return [json.loads(bytes(row[:n])) for row, n in zip(ranks.all_gather(padded), lengths, strict=True)]


def check_agreement(facts: dict[str, object]) -> None:
    """DisagreementError, on all ranks, where one has other facts than the first: it names both, and what differs."""
    first, *others = gather([current().host, facts])
    for rank, (host, theirs) in enumerate(others, 1):
        for name, value in first[1].items():
            if theirs.get(name) != value:
                raise DisagreementError(
                    f"rank {rank} on {host or 'this host'} has another {name} than rank 0, {theirs.get(name)} for "
                    f"{value}: start all ranks with the same program, options and data"
                )


# --- layers that look at more than one image --------------------------------------------------------------------------


def synchronised() -> bool:
    """Whether normalisation is over the shares of several ranks."""
    return current().size > 1 and not current().local_bn


def pooled(mean, var, m, images):
    """What a layer normalises with, where a share has these statistics of m values: those of the batch, or its own."""
    return over_all(mean, var, m, images) if synchronised() else (mean, var, m)


def over_all(mean, var, m, images):
    """(mean, var, m) of a whole batch, each rank giving those of its share, of m values in so many images.

    var = sum of counts * (variances + (means - mean)^2) / sum of counts. T. Chan et al., see ops/norm.py.
    """
    ranks, xp = current(), get_xp(mean)
    if ranks.size == 1:
        return mean, var, m
    sizes = share_sizes(images)
    weights = _weights(xp, tuple(sizes))  # (ranks, 1)
    of_all = ranks.all_gather(_stacked(mean, var)).astype("f8")  # (ranks, 2, channels)
    means, variances = of_all[:, 0], of_all[:, 1]
    whole = (weights * means).sum(axis=0)
    spread = (weights * (variances + (means - whole) ** 2)).sum(axis=0)
    return whole.astype(mean.dtype), spread.astype(var.dtype), m * sum(sizes) // sizes[ranks.rank]


@cache
def _weights(xp, sizes):
    return xp.asarray(np.array(sizes)[:, None] / sum(sizes))


def _stacked(a, b):
    """np.stack of two, in less time: there is one at every normalisation."""
    both = get_xp(a).empty((2, *a.shape), a.dtype)
    both[0], both[1] = a, b
    return both


def batchnorm_backward(m):
    """ops.batchnorm_backward where a whole batch has m values a channel; dgamma and dbeta are those of this share."""
    if not synchronised():
        return ops.batchnorm_backward

    def backward(dy, x, gamma, mean, rstd):
        dgamma, dbeta = ops.batchnorm_sums(dy, x, mean, rstd)
        return ops.batchnorm_dx(dy, x, gamma, mean, rstd, *totals(dgamma, dbeta), m), dgamma, dbeta

    return backward


def totals(a, b):
    """The sums over all ranks, of two arrays of one shape."""
    return current().all_reduce(_stacked(a, b))


def draw(rng, shape: tuple[int, ...]) -> np.ndarray:
    """rng.random for this rank's images, the first axis of `shape`, as it would be drawn for those of all ranks."""
    ranks = current()
    if ranks.size == 1:
        return rng.random(shape)
    sizes = share_sizes(shape[0])
    start = sum(sizes[: ranks.rank])
    return rng.random((sum(sizes), *shape[1:]))[start : start + shape[0]]
