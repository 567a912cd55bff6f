"""The verbs of a communicator between GPUs, by NCCL through CuPy.

Everything goes to one stream beside that of the computation, in the order in which it is asked for, since a
communicator of NCCL must not be used from two at once; events tie the two together, so that nothing waits for the
device and a CUDA graph can hold it all. NVIDIA, "NCCL Developer Guide", "Using NCCL with CUDA Graphs".
"""

import numpy as np


class Nccl:
    """One rank of `size`, each with a GPU of its own. share: gives every rank the list of numbers of the first one."""

    def __init__(self, xp, rank: int, size: int, share):
        self.xp, self.size, nccl = xp, size, xp.cuda.nccl
        names = {"e": "FLOAT16", "f": "FLOAT32", "d": "FLOAT64", "l": "INT64"}
        self.types = {np.dtype(char): getattr(nccl, f"NCCL_{name}") for char, name in names.items()}
        self.sum = nccl.NCCL_SUM
        self.comm = nccl.NcclCommunicator(size, tuple(share(nccl.get_unique_id() if rank == 0 else None)), rank)
        self.side = xp.cuda.Stream(non_blocking=True)

    def _begin(self, call, *arguments):
        """Issue `call` behind what was computed so far; what is returned makes what is computed next wait for it."""
        outside = self.xp.cuda.get_current_stream()
        self.side.wait_event(outside.record())
        call(*arguments, self.side.ptr)
        return lambda: outside.wait_event(self.side.record())

    def start_all_reduce(self, array):
        whole = self.xp.ascontiguousarray(array)
        place = whole.data.ptr
        wait = self._begin(self.comm.allReduce, place, place, whole.size, self.types[whole.dtype], self.sum)

        def wait_and_copy():
            wait()
            if whole is not array:
                array[...] = whole

        return wait_and_copy

    def all_gather(self, array):
        whole = self.xp.ascontiguousarray(array)
        gathered = self.xp.empty((self.size, *whole.shape), whole.dtype)
        places = whole.data.ptr, gathered.data.ptr
        self._begin(self.comm.allGather, *places, whole.size, self.types[whole.dtype])()
        return gathered

    def broadcast(self, array, root):
        whole = self.xp.ascontiguousarray(array)
        self._begin(self.comm.bcast, whole.data.ptr, whole.size, self.types[whole.dtype], root)()
        if whole is not array:
            array[...] = whole
        return array
