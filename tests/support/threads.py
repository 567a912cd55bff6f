"""Ranks that are threads of one process: what a communicator must do, in thirty lines."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from minires.fast.communicator import Communicator, speaking_through


class Threads(Communicator):
    """One rank of several threads that meet at a barrier."""

    def __init__(self, rank, barrier, arrays, local_bn):
        self.rank, self.size, self.arrays, self.meeting = rank, len(arrays), arrays, barrier
        self.local_bn = local_bn

    def all_gather(self, array):
        self.arrays[self.rank] = array
        self.meeting.wait()
        gathered = np.stack(self.arrays)
        self.meeting.wait()  # nobody writes before all have read
        return gathered

    def all_reduce(self, array):
        array[...] = sum(self.all_gather(array))
        return array

    def broadcast(self, array, root=0):
        array[...] = self.all_gather(array)[root]
        return array

    def barrier(self):
        self.meeting.wait()

    def abort(self, error):
        self.meeting.abort()


def run(size, work, *, local_bn=False, kind=Threads):
    """[work(rank) for each rank], each in a thread of its own; the first error that is not an echo of another."""
    barrier, arrays = threading.Barrier(size), [None] * size

    def one(rank):
        with speaking_through(kind(rank, barrier, arrays, local_bn)):
            return work(rank)

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [f.exception() for f in futures if f.exception()]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    return [f.result() for f in futures]
