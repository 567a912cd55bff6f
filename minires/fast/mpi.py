"""A communicator over MPI, through mpi4py: ranks are processes, on one host or on many.

Every call is a non-blocking one of MPI that is waited for here: briefly by asking again and again, then asleep, so that
ranks that share a core do not take it from one another; and never for ever. A thread of each rank tells the others once
in a while that it lives, how far it has come and what it does. Who waits too long names those that are missing, and
ends the run where they do not move any more.
"""

import os
import socket
import sys
import threading
import time
import traceback
import warnings
import weakref
from contextlib import contextmanager, suppress
from functools import cache, partial

import numpy as np

from minires.backend import blas_threads, device_of, get_xp
from minires.errors import ConfigError, MiniresError, RankError
from minires.fast import cores, host_memory
from minires.fast.communicator import ALONE, Communicator, shares
from minires.fast.cpu.engine import use_given_cores
from minires.fast.launched import HEARD, launched, place_of

SPINS = 300  # times that a waiting rank asks before it lets others have the core
PATIENCE = 0.005  # seconds after which it sleeps between two looks
NAP = 0.0002
BEAT = 0.5  # seconds between two signs of life; more where there are many ranks
TEXT = 160  # bytes of what a rank says that it does
GRACE = 0.7  # seconds by which each rank lets those before it speak first


@cache
def _import():
    """mpi4py's MPI, started."""
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # we say ourselves why
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # `Mpi.leave` does, where all ranks come to their end
        with warnings.catch_warnings():  # of a launcher of another MPI, which `_world` has words for
            warnings.simplefilter("ignore")
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"started by a launcher of MPI, and mpi4py cannot be used ({said}): pip install 'minires[mpi]', or install "
            "mpi4py against the MPI of that launcher"
        ) from None
    return MPI


def world() -> Communicator:
    """All processes that the launcher started together with this one; `ALONE` without one, and in a second thread."""
    if launched() is None or threading.current_thread() is not threading.main_thread():
        return ALONE
    return _world()


@cache
def _world():
    MPI, (_, count) = _import(), launched()
    size = MPI.COMM_WORLD.Get_size()
    if count > 1 and size == 1:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise ConfigError(
            f"the launcher started {count} processes, but each one's MPI ({library}) sees itself alone: use the "
            "mpiexec that came with that MPI (beside python), or install mpi4py against the launcher's"
        )
    return Mpi(MPI, MPI.COMM_WORLD) if size > 1 else ALONE


class Mpi(Communicator):
    """A rank of an MPI communicator."""

    def __init__(self, MPI, comm):
        self.MPI, self.comm, self.beats = MPI, comm.Dup(), comm.Dup()
        self.rank, self.size, self.host = comm.Get_rank(), comm.Get_size(), socket.gethostname()
        self.hosts = comm.allgather(self.host)
        self.nccl, self.calls, self.alone, now = None, 0, False, time.monotonic()
        self.period = BEAT * max(1, self.size / 32)  # seconds between two signs of life
        self.seen = {rank: _Sign(now, self.period) for rank in range(self.size) if rank != self.rank}
        self._take_cores(comm.Split_type(MPI.COMM_TYPE_SHARED))
        self.ended = threading.Event()
        self.heart = threading.Thread(target=self._beat, name="minires-heart", daemon=True)
        self.mover = threading.Thread(target=self._move, name="minires-mover", daemon=True)
        self.open, self.moving = 0, threading.Event()
        self.near = len(set(self.hosts)) == 1  # it is our own cores that move the data, whoever asks
        self.memories = {}  # id of an array -> the HostMemory that it is of, as long as it lives
        self.heart.start()
        self.mover.start()

    def _take_cores(self, here):
        """Of the cores of this host a share of our own, unless the launcher has bound us to some."""
        cores.share_host(here.Get_size())
        if hasattr(os, "sched_setaffinity"):
            mask = sorted(os.sched_getaffinity(0))
            masks, local, count = here.allgather(mask), here.Get_rank(), here.Get_size()
            if count > 1 and all(m == mask for m in masks):
                n = len(mask)
                mask = mask[n * local // count : n * (local + 1) // count] or [mask[local % n]]
                for task in os.listdir("/proc/self/task"):
                    with suppress(OSError):
                        os.sched_setaffinity(int(task), mask)
        use_given_cores()
        self._take_gpu(here)
        blas_threads(cores.usable_cores()).__enter__()  # for good

    def _take_gpu(self, here):
        """A GPU of our own on this host, unless the launcher has given us some; CuPy is not loaded yet."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        if here.Get_size() > 1 and all(other == given for other in here.allgather(given)):
            devices, local = (given or "").split(","), here.Get_rank()
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[local % len(devices)] if given else str(local)

    # --- the verbs --------------------------------------------------------------------------------------------------

    def all_reduce(self, array):
        if nccl := self._between_gpus(array):
            nccl.start_all_reduce(array)()
            return array
        whole = np.ascontiguousarray(array)
        self._begin(self.comm.Iallreduce, self.MPI.IN_PLACE, whole)()
        if whole is not array:
            array[...] = whole
        return array

    def _between_gpus(self, array):
        """NCCL for an array on a GPU, made at the first one; None on the CPU."""
        if device_of(array) == "cpu":
            return None
        if self.nccl is None:
            from minires.fast.gpu.nccl import Nccl

            self.nccl = Nccl(get_xp(array), self.rank, self.size, self.comm.bcast)
        return self.nccl

    def memory(self, size, dtype):
        made = host_memory.made(self, size, dtype) if self.near else None
        if made is None:
            return None
        own = made.own()
        self.memories[id(own)] = made
        weakref.finalize(own, self.memories.pop, id(own))
        return own

    def _on_host(self, array):
        """(the HostMemory that an array or a view is of, its first element there); (None, 0) for any other."""
        whole = array.base if isinstance(array.base, np.ndarray) else array
        found = self.memories.get(id(whole))
        return found, (array.ctypes.data - whole.ctypes.data) // array.itemsize if found else 0

    def start_all_reduce(self, array):
        if nccl := self._between_gpus(array):
            return nccl.start_all_reduce(array)
        memory, start = self._on_host(array)
        if memory:
            return partial(memory.all_reduce, start, shares(array.size))
        if not array.flags.c_contiguous:
            return super().start_all_reduce(array)
        return self._aside(self._begin(self.comm.Iallreduce, self.MPI.IN_PLACE, array))

    def start_reduce(self, array, root):
        if self._between_gpus(array) or not array.flags.c_contiguous:
            return super().start_reduce(array, root)
        buffers = (self.MPI.IN_PLACE, array) if self.rank == root else (array, None)
        return self._aside(self._begin(lambda: self.comm.Ireduce(*buffers, root=root)))

    def start_reduce_scatter(self, array, parts):
        memory, start = self._on_host(array)
        return partial(memory.reduce_scatter, start, parts) if memory else super().start_reduce_scatter(array, parts)

    def _aside(self, wait):
        """What is waited for later moves on meanwhile."""
        self.open += 1
        if not self.near:
            self.moving.set()

        def wait_for_all():
            wait()
            self.open -= 1
            if not self.open:
                self.moving.clear()

        return wait_for_all

    def all_gather(self, array):
        if nccl := self._between_gpus(array):
            return nccl.all_gather(array)
        array = np.ascontiguousarray(array)
        gathered = np.empty((self.size, *array.shape), array.dtype)
        self._begin(self.comm.Iallgather, array, gathered)()
        return gathered

    def all_gather_into(self, array, parts):
        if self._between_gpus(array):
            return super().all_gather_into(array, parts)  # NCCL's has parts of one size
        memory, start = self._on_host(array)
        if memory:
            memory.all_gather(start, parts)
            return array
        inner = array[0].size if array.ndim > 1 else 1
        counts = [(part.stop - part.start) * inner for part in parts]
        starts = [part.start * inner for part in parts]
        kind = self.MPI._typedict[array.dtype.char]
        self._begin(self.comm.Iallgatherv, self.MPI.IN_PLACE, [array, counts, starts, kind])()
        return array

    def broadcast(self, array, root=0):
        if nccl := self._between_gpus(array):
            return nccl.broadcast(array, root)
        whole = np.ascontiguousarray(array)
        self._begin(self.comm.Ibcast, whole, root)()
        if whole is not array:
            array[...] = whole
        return array

    def barrier(self):
        self._begin(self.comm.Ibarrier)()

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _begin(self, verb, *arguments):
        with self.spending():
            request = verb(*arguments)
        self.calls += 1
        call = self.calls
        return lambda: self._wait(request, call)

    def _wait(self, request, call):
        with self.spending():
            self._come(request, call)

    def _come(self, request, call):
        for _ in range(SPINS):
            if request.Test():
                return
        self.waiting, began = True, time.monotonic()
        look_at, say_at = self.limit + BEAT, self.limit + 4 * BEAT  # a guardian speaks first; who ends the run, once
        try:
            while not request.Test():
                waited = time.monotonic() - began
                if waited < PATIENCE:
                    os.sched_yield()
                    continue
                time.sleep(NAP)
                if waited > look_at:
                    look_at += BEAT
                    self._late(call, waited, speak=waited > say_at)
                    say_at *= 1 + (waited > say_at)
        finally:
            self.waiting = False

    def _late(self, call, waited, speak):
        """RankError where one that is missing does not move any more; speak: else say who is missing."""
        now = time.monotonic()
        missing = {rank: sign for rank, sign in self.seen.items() if sign.calls < call}
        lost = {rank: sign for rank, sign in missing.items() if sign.silent(now)}  # for them the others wait as well
        missing = lost or missing
        told = ", ".join(f"{self.named(rank)} ({sign.words(now)})" for rank, sign in missing.items())
        line = f"no progress for {waited:.0f} s: waiting for {told or 'the network, as all ranks have arrived'}"
        if not missing or any(now - sign.moved > self.limit for sign in missing.values()):
            raise RankError(f"{line}: all end, the last save stands: go on with --resume and the ranks that are left")
        patient = all(sign.alone for sign in missing.values())  # with what takes long, and was said to
        if speak and not patient and self.rank == min(rank for rank in range(self.size) if rank not in missing):
            _say(f"{self.named(self.rank)}: {line}")

    def named(self, rank) -> str:
        """A rank in words."""
        return place_of(rank, self.size, self.hosts[rank])

    def _beat(self):
        """Tell the others of this rank, and note what they tell."""
        sent, inbox = {}, np.empty(24 + TEXT, np.uint8)
        while not self.ended.wait(self.period):
            told = np.zeros(24 + TEXT, np.uint8)
            text = self.doing.encode()[:TEXT]
            told[:24] = np.array([self.calls, self.moves, self.alone], "i8").view(np.uint8)
            told[24 : 24 + len(text)] = np.frombuffer(text, np.uint8)
            for other in self.seen:
                if other not in sent or sent[other][0].Test():  # one that does not listen is told no more
                    sent[other] = self.beats.Isend(told, other), told
            status = self.MPI.Status()
            while self.beats.Iprobe(status=status):
                self.beats.Recv(inbox, status.Get_source())
                calls, moves, alone = inbox[:24].view("i8").tolist()
                text = bytes(inbox[24:]).rstrip(b"\0").decode(errors="replace")
                self.seen[status.Get_source()].note(time.monotonic(), calls, moves, bool(alone), text)
            if self.nccl:  # then the host waits for the device, which says nothing of who is missing
                self._mourn()

    def _mourn(self):
        """End all ranks where one has not been heard of for too long."""
        now = time.monotonic()
        lost = [rank for rank, sign in self.seen.items() if now - sign.heard > self.limit]
        if lost:
            told = ", ".join(f"{self.named(rank)} ({self.seen[rank].words(now)})" for rank in lost)
            self.abort(RankError(f"no sign of {told}: all end, the last save stands: go on with --resume"))

    def _move(self):
        """Call MPI once in a while as long as sums go on beside other work: it moves data when it is called."""
        never = self.beats.Irecv(np.empty(1), self.rank, tag=1)
        while True:
            self.moving.wait()
            if self.ended.is_set():
                break
            never.Test()
            time.sleep(NAP)
        never.Cancel()
        never.Wait()

    @property
    def doing(self):
        """What this rank does, in words."""
        return self._doing

    @doing.setter
    def doing(self, words):
        self._doing, self.moves = words, self.moves + 1

    _doing, moves = "starting", 0

    @contextmanager
    def busy(self, what):
        before, was = self.doing, self.alone
        self.doing, self.alone = what, True
        try:
            yield
        finally:
            self.doing, self.alone = before, was

    # --- the end ----------------------------------------------------------------------------------------------------

    def abort(self, error):
        """End all ranks, and say why, unless one before this one does: what fails on all is to be said once."""
        if isinstance(error, KeyboardInterrupt | GeneratorExit | SystemExit):
            return  # asked for: of all ranks
        time.sleep(min(GRACE * self.rank, 3))
        if not isinstance(error, MiniresError | MemoryError | OSError):
            traceback.print_exception(error)
        _say(f"{self.named(self.rank)}: {error if str(error) else type(error).__name__}")
        self._end_all(getattr(error, "status", 1))

    def _end_all(self, status):
        time.sleep(HEARD)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI's own words would follow
        self.MPI.COMM_WORLD.Abort(status)

    def leave(self, status: int = 0) -> None:
        """At the end of the process: wait for all, however long one of them is busy."""
        self.doing = "done"
        self.barrier()
        sys.stdout.flush()
        if status:  # the launcher would take any but 0 for a fault that it has to tell of
            self._end_all(status)
        self.ended.set()
        self.moving.set()
        self.heart.join()
        self.mover.join()
        self.MPI.Finalize()


class _Sign:
    """What was last heard of a rank."""

    def __init__(self, now, period):
        self.period = period
        self.calls, self.moves, self.alone, self.text = 0, 0, False, "starting"
        self.heard = self.moved = now

    def note(self, now, calls, moves, alone, text):
        if (calls, moves) != (self.calls, self.moves) or alone:
            self.moved = now
        self.calls, self.moves, self.alone, self.text, self.heard = calls, moves, alone, text, now

    def silent(self, now) -> bool:
        return now - self.heard > 4 * self.period

    def words(self, now) -> str:
        if self.silent(now):
            return f"not heard of for {now - self.heard:.0f} s: stopped, killed or cut off; last {self.text}"
        return f"{self.text}, for {now - self.moved:.0f} s"


def _say(line):
    with suppress(OSError, ValueError):
        sys.stderr.write(f"minires: {line}\n".replace("\n", "␊", line.count("\n")))
        sys.stderr.flush()
