"""A stand-in for cupy.cuda.nccl between threads of one process, on the pretended GPU (strict.py).

What a rank asks for is done when a stream waits for it, no sooner, so that a wait that is missing shows in the numbers.
Refused is what NCCL refuses, and what it would leave undefined: another rank's call of another kind, count or type; an
address that is not the device's, or whose memory is freed or written before the end; two streams at once; a call before
the stream waits for what was computed. The names and numbers are CuPy 14's.
"""

import ctypes
import os
import threading
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import strict
from threads import Threads

from minires.fast import communicator
from minires.fast.mpi import Mpi

NCCL_SUM = 0
TYPES = {4: np.int64, 6: np.float16, 7: np.float32, 8: np.float64}
NCCL_INT64, NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64 = TYPES
PATIENCE = 60  # seconds that a rank waits for another
available = True
_worlds = {}


class NcclError(RuntimeError):
    """As CuPy's."""


def get_unique_id():
    return os.urandom(128)


class NcclCommunicator:
    def __init__(self, ndev, commId, rank):
        if type(commId) is not bytes or len(commId) != 128:
            raise TypeError("commId: the bytes of get_unique_id")
        self.world = _worlds.setdefault(commId, SimpleNamespace(meeting=threading.Barrier(ndev), told=[None] * ndev))
        self.rank, self.size, self.stream = rank, ndev, None
        self.world.meeting.wait(PATIENCE)

    def abort(self):
        self.world.meeting.abort()

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):
        if op != NCCL_SUM:
            raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: only sums here")
        self._issue(stream, ("allReduce", count, datatype, op), sendbuf, recvbuf, count, sum)

    def allGather(self, sendbuf, recvbuf, count, datatype, stream):
        self._issue(stream, ("allGather", count, datatype), sendbuf, recvbuf, count * self.size, np.concatenate)

    def bcast(self, buff, count, datatype, root, stream):
        self._issue(stream, ("bcast", count, datatype, root), buff, buff, count, lambda all_sent: all_sent[root])

    def _issue(self, stream, call, send, receive, received, combine):
        count, dtype, stream = call[1], TYPES[call[2]], strict.streams.get(stream)
        if stream is None:
            raise NcclError("NCCL_ERROR_UNHANDLED_CUDA_ERROR: no such stream")
        if self.stream not in (None, stream) and self.stream.pending:
            raise NcclError("NCCL_ERROR_INVALID_USAGE: used from two streams at once")
        if stream is not strict.current_stream() and getattr(stream, "used", 0) == stream.length:
            raise NcclError("the stream did not wait for what was computed")
        sent = _memory(send, count, dtype)
        _memory(receive, received, dtype)
        self.stream, stream.length = stream, stream.length + 1
        stream.used = stream.length
        stream.pending.append(_Once(partial(self._perform, call, send, sent.copy(), receive, received, combine)))

    def _perform(self, call, send, sent, receive, received, combine):
        dtype = TYPES[call[2]]
        if not np.array_equal(_memory(send, call[1], dtype), sent, equal_nan=True):
            raise NcclError("what was sent was written before the end")
        told, meeting = self.world.told, self.world.meeting
        told[self.rank] = call, sent
        meeting.wait(PATIENCE)
        calls, arrays = zip(*told, strict=True)
        different = set(calls)
        result = None if len(different) > 1 else combine(arrays)
        meeting.wait(PATIENCE)  # nobody tells anew before all have read
        if len(different) > 1:
            raise NcclError(f"ranks call one another by different names: {sorted(different)}")
        _memory(receive, received, dtype)[...] = result


class _Once:
    def __init__(self, work):
        self.work = work

    def __call__(self):
        if work := self.work:
            self.work = None
            work()


def _memory(address, count, dtype):
    """What lies there, where so much of that type does."""
    owner = strict.memory.get(address)
    if owner is None:
        raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: no memory of the device is there")
    if owner.dtype != dtype:
        raise NcclError(f"memory of {owner.dtype} for {np.dtype(dtype)}")
    size = count * np.dtype(dtype).itemsize
    if address + size > owner.ctypes.data + owner.nbytes:
        raise NcclError(f"{count} numbers reach beyond the array")
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)


class Gpus(Threads):
    """A rank that is a thread and has a pretended GPU; for arrays on that its verbs are those of `Mpi`."""

    nccl, host = None, ""
    _between_gpus = Mpi._between_gpus
    comm = property(lambda self: SimpleNamespace(bcast=self._tell))

    def _tell(self, what, root=0):
        self.arrays[self.rank] = what
        self.meeting.wait()
        told = self.arrays[root]
        self.meeting.wait()
        return told

    def abort(self, error):
        super().abort(error)
        if self.nccl:
            self.nccl.comm.abort()


def _on_gpu(name):
    def verb(self, array, *args, **options):
        here = isinstance(array, strict.ndarray)
        return getattr(Mpi if here else Threads, name)(self, array, *args, **options)

    return verb


for _name in ("all_reduce", "start_all_reduce", "all_gather", "broadcast"):
    setattr(Gpus, _name, _on_gpu(_name))


class Graph:
    """What was captured, as `work` that is done again at each launch."""

    launches = 0

    def launch(self):
        self.launches += 1
        self.work()


def pretend_graphs(monkeypatch):
    """Give the pretended GPU graphs; those of a step must be made with `capturing(step)`."""
    monkeypatch.setattr(strict.cuda, "Graph", Graph, raising=False)
    pool = SimpleNamespace(malloc=None, free_all_blocks=lambda: None)
    monkeypatch.setattr(strict.cuda, "MemoryPool", lambda: pool, raising=False)
    monkeypatch.setattr(strict.cuda, "using_allocator", lambda allocator: nullcontext(), raising=False)


def capturing(step):
    """`step`, in whose captures nothing happens, and whose graphs do again what was captured, with its numbers.

    A capture runs here, for CUDA's rules to be checked; what it changed is put back.
    """
    replay, capture = step.replay, step.replay._capture

    def pretended(held):
        arrays = [*(v.data for v in step.states), *step.optimizer.state.values()]
        before, batch = [a.copy() for a in arrays], getattr(communicator._here, "batch", None)
        reason = capture(held)
        for array, value in zip(arrays, before, strict=True):
            array[...] = value

        def again():
            with communicator.on_batch(batch) if batch else nullcontext():
                replay.work(*held.arguments)

        if held.graph:
            held.graph.work = again
        return reason

    replay._capture = pretended
    return step
