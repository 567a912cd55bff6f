"""A team of threads that share the work of one process: each takes a part of a batch, and they meet where they must.

NumPy lets go of the interpreter inside an array operation, so Python threads do run side by side. Two things
decide whether they are faster than one: the matrix products must stay on one thread each (a pool under a pool
is slow), and each thread needs cores of its own, since a thread that wakes is often put on the core of the
one that woke it and waits there for milliseconds. `Team` sees to both, and puts everything back afterwards.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from queue import SimpleQueue

import numpy as np

from minires.backend import blas_threads, thread_count

# Members of a team that was not told its size. They take turns at Python's interpreter, and each handles every weight:
# sixteen on sixteen cores took 1.9 s for a step that two on two cores do in 0.5 s.
MOST = 4


def usual_size() -> int:
    """How many threads share a batch where nobody says it."""
    return min(thread_count(), MOST)


class Stopped(Exception):
    """Another member failed; its own error is the one to report."""


class Member:
    """One thread's place in a team: its `rank` in 0..size-1, and the meeting with the others."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self.post: list[list[SimpleQueue]] = []  # post[sender][receiver]

    def gather(self, value) -> list:
        """Every member's value, in the order of ranks; each waits here for the others."""
        for other in range(self.size):
            if other != self.rank:
                self.post[self.rank][other].put((value,))
        return [value if sender == self.rank else self._take(sender) for sender in range(self.size)]

    def meet(self, array, left=()) -> tuple[list, list]:
        """Every member's `array`, all of one shape, and every member's `left`: arrays of `scratch`, if it gives any."""
        arrays, lefts = zip(*self.gather((array, left)), strict=True)
        return list(arrays), list(lefts)

    def scratch(self, shape, dtype):
        """An array to leave at the next meeting, for teams that have a place for it, else None."""
        return None

    def _take(self, sender):
        message = self.post[sender][self.rank].get()
        if message is None:
            raise Stopped
        return message[0]

    def give_up(self):
        """Wake the others, which would wait for ever."""
        for inbox in self.post[self.rank]:
            inbox.put(None)


class Team:
    """A team of `size` threads, the caller's among them; they live while the context is entered, which may be again.

    size: default, as many as the matrix products use now (all cores, or what OMP_NUM_THREADS says), but MOST at most.
    """

    unit = "threads"
    desks = 1

    def __init__(self, size: int | None = None):
        self.size = size = size or usual_size()
        self.members = [Member(rank, size) for rank in range(size)]
        self._open = ExitStack()
        self._pool = None
        self._cores = deal_cores(size)

    def __enter__(self):
        self._open.enter_context(blas_threads(1))
        if self.size > 1:
            ranks = SimpleQueue()
            for rank in range(1, self.size):
                ranks.put(rank)
            pool = ThreadPoolExecutor(self.size - 1, "minires-team", lambda: _pin(self._cores, ranks.get()))
            self._pool = self._open.enter_context(pool)
        return self

    def __exit__(self, *error):
        self._open.close()

    def run(self, work, size: int | None = None) -> list:
        """[work(member) for every member], side by side; `size` lets only the first so many work.

        Raises what the first failing member raised, once all have come to rest.
        """
        members = self.members[:size]
        post = [[SimpleQueue() for _ in members] for _ in members]
        for member in members:
            member.size, member.post = len(members), post
        if len(members) == 1:
            return [work(members[0])]
        futures = [self._pool.submit(_guarded, work, member) for member in members[1:]]
        with pinned(self._cores):
            outcomes = [_guarded(work, members[0]), *(future.result() for future in futures)]
        errors = [error for _, error in outcomes if error is not None]
        if errors:
            raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])
        return [result for result, _ in outcomes]

    def empty(self, shape, dtype):
        """A new array that all members see."""
        return np.empty(shape, dtype)

    def host(self, optimizer):
        """See to it that all members see the optimiser's buffers, its parameters among them."""

    def adopt(self, params):
        """See to it that all members see these parameters, and each other's changes."""

    def assemble(self, make, *args) -> "Crew":
        """make(member, *args) for every member."""
        return Crew(self, [make(member, *args) for member in self.members])


class Crew:
    """One object for each member of a team."""

    def __init__(self, team: Team, parts: list):
        self.team, self.parts = team, parts

    @property
    def mine(self):
        return self.parts[0]

    def call(self, name: str, shares: list[tuple]):
        """The method `name` of each member's object, with each one's share of the arguments; the first one's result.

        Where there are fewer shares than members, the rest are idle.
        """
        return self.team.run(lambda m: getattr(self.parts[m.rank], name)(*shares[m.rank]), len(shares))[0]


def spans(length: int, size: int) -> list[slice]:
    """`length` items in `size` runs of nearly equal length, or in as many as there are items."""
    size = min(size, length)
    ends = [length * rank // size for rank in range(size + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _guarded(work, member):
    try:
        return work(member), None
    except BaseException as error:  # Ctrl-C too: the others must not be left waiting
        member.give_up()
        return None, error


def deal_cores(size: int) -> list[set] | None:
    """The cores this process may use, dealt out; None where the system does not tell or there are too few."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[rank::size]) for rank in range(size)] if size <= len(cores) else None


def _pin(cores, rank):
    if cores:
        os.sched_setaffinity(0, cores[rank])  # 0: the calling thread


@contextmanager
def pinned(cores):
    _pin(cores, 0)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, set().union(*cores))
