"""A team of processes that share the work of one batch: as the threads of team.py do, but each with its interpreter.

Threads take turns at Python's interpreter and wake each other hundreds of times a step; on a virtual machine that may
cost a third of it. Processes wait for each other by looking at a number in shared memory (shared.py), as OpenMP's
threads do. They need Linux, and a processor whose cores see each other's writes in order (x86): `possible` tells.
"""

import atexit
import os
import platform
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path

from minires import backend
from minires.errors import ConfigError, WorkerError
from minires.shared import HEAP, Outbox, Region
from minires.team import Member, Stopped, Team, deal_cores, pinned

MOST = 32  # members
USUAL_MOST = 16  # where nobody says how many; more were not measured (benchmarks/results/h100-host.jsonl)
ROOM = HEAP // (MOST + 1) // 4096 * 4096  # of each member in the region, after that of the flags
HALF = ROOM // 4  # of its outbox; the rest is its mail

# Each member's flags: the last message it left, and the last command that it was given, has done and has failed in.
POSTED, GIVEN, DONE, FAILED = range(4)
BROKEN = 4  # of the first member alone: the last command that was broken off
WIDTH = 8

LOOKS = 2_000  # at a flag, before others may run between two looks
PATIENCE = 2e-3  # seconds of that, before naps
NAPS = 5e-5, 1e-3  # seconds, the first and the longest


class Process(Member):
    """One process's place in a team."""

    def __init__(self, region: Region, rank: int, check):
        super().__init__(rank, 1)
        self.region, self.check, self.command = region, check, 0
        self.flags = region.bytes[: MOST * WIDTH * 8].cast("q")
        self.outboxes = [Outbox(region, (other + 1) * ROOM, HALF) for other in range(MOST)]

    def mail(self, rank: int) -> int:
        """Where member `rank` finds its commands and leaves its errors."""
        return (rank + 1) * ROOM + 2 * HALF

    def begin(self, command: int, size: int):
        """Take up a command for so many members; its messages have numbers of their own."""
        self.command, self.size, self.number = command, size, command << 24
        self.outboxes[self.rank].turn(self.number + 1)

    def gather(self, value) -> list:
        """As `Member.gather`; arrays of the others may be read until the next but one meeting."""
        if self.size == 1:
            return [value]
        number = self.number = self.number + 1
        self.outboxes[self.rank].leave(value)
        self.set(self.rank, POSTED, number)
        values = [value if rank == self.rank else self._take(rank, number) for rank in range(self.size)]
        self.outboxes[self.rank].turn(number + 1)
        return values

    def _take(self, rank, number):
        self.wait(rank, POSTED, number)
        return self.outboxes[rank].read(number)

    def meet(self, array, left=()):
        """As `Member.meet`, for as long as with `gather`; all members have asked for the same scratch, in one order."""
        if self.size == 1:
            return [array], [left]
        number = self.number = self.number + 1
        box = self.outboxes[self.rank]
        mine = box.empty(array.shape, array.dtype)
        mine[...] = array
        self.set(self.rank, POSTED, number)
        own = [mine, *left]
        places = [self.region.place(a) - box.base for a in own]
        told = []
        for rank, other in enumerate(self.outboxes[: self.size]):
            if rank != self.rank:
                self.wait(rank, POSTED, number)
            start = other.start(number)
            told.append([self.region.view(start + p, a.shape, a.dtype) for p, a in zip(places, own, strict=True)])
        box.turn(number + 1)
        return [array for array, *_ in told], [left for _, *left in told]

    def scratch(self, shape, dtype):
        return self.outboxes[self.rank].empty(shape, dtype)

    def give_up(self):
        self.set(0, BROKEN, self.command)

    def set(self, rank, flag, value):
        self.flags[rank * WIDTH + flag] = value

    def get(self, rank, flag) -> int:
        return self.flags[rank * WIDTH + flag]

    def wait(self, rank, flag, value, within=True):
        """Until the flag has reached `value`. Raises Stopped where the command that this is within is broken off."""
        flags, place = self.flags, rank * WIDTH + flag
        for _ in range(LOOKS):
            if flags[place] >= value:
                return
        end, (nap, longest) = time.perf_counter() + PATIENCE, NAPS
        while flags[place] < value:
            if within and self.get(0, BROKEN) == self.command:
                raise Stopped
            if time.perf_counter() < end:
                os.sched_yield()
            else:
                self.check()
                time.sleep(nap)
                nap = min(longest, 1.2 * nap)


class _Pool:
    """This process and those that it has started, which wait for its commands until it ends."""

    def __init__(self):
        self.owner, self.region = os.getpid(), Region()
        self.member = Process(self.region, 0, self.check)
        self.workers: list[subprocess.Popen] = []
        self.dropped: list[list[int]] = []  # for each worker
        self.lock, self.keys, self.ended = threading.RLock(), count(), ""
        atexit.register(self.close)

    def grow(self, size: int):
        one = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        paths = [str(Path(__file__).parents[1]), *sys.path]
        while len(self.workers) < size - 1:
            arguments = len(self.workers) + 1, self.region.fd, self.owner
            code = f"import sys; sys.path[:] = {paths!r}; from minires.processes import serve; serve{arguments}"
            worker = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | one,
                pass_fds=[self.region.fd],
                start_new_session=True,  # Ctrl-C is for the one that trains
            )
            self.workers.append(worker)
            self.dropped.append([])

    def check(self):
        """WorkerError where a process has ended."""
        codes = [code for worker in self.workers if (code := worker.poll()) is not None]
        if codes and not self.ended:
            self.ended = f"by signal {-codes[0]}" if codes[0] < 0 else f"with exit status {codes[0]}"
            self.close()
            _pool_of.cache_clear()  # the next team gets new ones
        if self.ended:
            raise WorkerError(
                f"a process that shares the work ended {self.ended}: the machine may be short of memory; "
                "try smaller batches, or OMP_NUM_THREADS=1"
            )

    def give(self, key: int, do, shares: list):
        """A command for the members 1, 2, ...: `do` with each one's share."""
        self.check()
        self.rest()
        member, number, size = self.member, self.member.command + 1, len(shares) + 1
        for rank, share in enumerate(shares, 1):
            dropped, self.dropped[rank - 1] = self.dropped[rank - 1], []
            self.region.write(member.mail(rank), (key, do, share, size, dropped, backend.workspace_limit()))
            member.set(rank, GIVEN, number)
        member.begin(number, size)

    def rest(self) -> list[Exception]:
        """Wait until every member has done its last command; the errors of those that failed in it."""
        member = self.member
        for rank in range(1, member.size):
            member.wait(rank, DONE, member.command, within=False)
        failed = [rank for rank in range(1, member.size) if member.get(rank, FAILED) == member.command]
        return [self.region.read(member.mail(rank)) for rank in failed]

    def close(self):
        if os.getpid() == self.owner:
            for worker in self.workers:
                worker.kill()
                worker.wait()
            self.workers = []


@cache
def _pool_of(pid: int) -> _Pool:
    return _Pool()


def _pool() -> _Pool:
    """That of this process: a copy of it, made by fork, has none yet."""
    return _pool_of(os.getpid())


class Processes:
    """A team of `size` processes, the caller's among them, for what `assemble` makes; entered around its calls.

    The others are started once and serve every team. size: default, as many as the matrix products use threads now, but
    USUAL_MOST at most.
    """

    unit = "processes"
    desks = 2  # for each member's gradients: the halves of its outbox

    def __init__(self, size: int | None = None):
        self.size = size or min(backend.thread_count(), USUAL_MOST)
        if self.size > MOST:
            raise ConfigError(f"a team of {self.size} processes: at most {MOST} are possible")
        self.pool = _pool()
        self.pool.grow(self.size)
        self.cores = deal_cores(self.size)
        for worker, cores in zip(self.pool.workers, (self.cores or [])[1:], strict=False):
            try:
                os.sched_setaffinity(worker.pid, cores)
            except ProcessLookupError:
                self.pool.check()
        self._open = ExitStack()

    def __enter__(self):
        self._open.enter_context(backend.blas_threads(1))
        return self

    def __exit__(self, *error):
        self._open.close()

    def empty(self, shape, dtype):
        """A new array that all members see."""
        return self.pool.region.empty(shape, dtype)

    def host(self, optimizer):
        """See to it that all members see the optimiser's buffers, its parameters among them."""
        optimizer.move(self.empty)

    def adopt(self, params):
        """See to it that all members see these parameters and their gradients."""
        place = self.pool.region.place
        for p in params:
            if place(p.data) is None:
                data, p.data = p.data, self.empty(p.data.shape, p.data.dtype)
                p.data[...] = data
            if p.grad is None or place(p.grad) is None:
                p.grad = self.empty(p.data.shape, p.data.dtype)

    def assemble(self, make, *args) -> "Crew":
        """make(member, *args) for every member, where it lives; `make` is a class that can be imported."""
        return Crew(self, make, args)


class Crew:
    """One object for each member of a team of processes."""

    def __init__(self, team: Processes, make, args):
        self.team, self.pool = team, team.pool
        self.key = next(self.pool.keys)
        self.mine = make(self.pool.member, *args)
        with self.pool.lock:
            self._carry_out(make, [args] * team.size, lambda: None)
        weakref.finalize(self, _drop, self.pool, self.key).atexit = False

    def call(self, name: str, shares: list[tuple]):
        """The method `name` of each member's object, with each one's share of the arguments; the first one's result.

        Where there are fewer shares than members, the rest are idle. Raises what a member raised, once all have come
        to rest.
        """
        with self.pool.lock, pinned(self.team.cores):
            return self._carry_out(name, shares, lambda: getattr(self.mine, name)(*shares[0]))

    def _carry_out(self, do, shares, mine):
        self.pool.give(self.key, do, shares[1:])
        error = result = None
        try:
            result = mine()
        except BaseException as caught:  # Ctrl-C too: the others must not be left waiting
            self.pool.member.give_up()
            error = caught
        others = self.pool.rest()
        if others and (error is None or isinstance(error, Stopped)):
            error = others[0]
        if error is not None:
            raise error
        return result


def _drop(pool, key):
    for dropped in pool.dropped:
        dropped.append(key)


def serve(rank: int, fd: int, parent: int):
    """What a process does that was started for a team: command after command, until its parent is gone."""

    def check():
        if os.getppid() != parent:
            os._exit(0)

    region, crew = Region(fd), {}
    member = Process(region, rank, check)
    while True:
        member.wait(rank, GIVEN, member.command + 1, within=False)
        number = member.get(rank, GIVEN)
        try:
            key, do, share, size, dropped, most = region.read(member.mail(rank))
            member.begin(number, size)
            for old in dropped:
                crew.pop(old, None)
            with backend.max_workspace(most):
                if isinstance(do, str):
                    getattr(crew[key], do)(*share)
                else:
                    crew[key] = do(member, *share)
        except Stopped:
            pass
        except BaseException as error:
            region.write(member.mail(rank), error)
            member.set(rank, FAILED, number)
            member.give_up()
        member.command = number
        member.set(rank, DONE, number)


@cache
def possible() -> bool:
    """Whether this system can have a team of processes."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not sys.executable:
        return False
    try:
        _pool()
    except OSError:  # no memory without a name, or no room for so much of it
        return False
    return True


def best_team(size: int | None = None) -> Processes | Team:
    """Processes where they are possible and there is more than one to be had, else threads."""
    wanted = size or backend.thread_count()
    return Processes(size) if wanted > 1 and possible() else Team(size)
