"""The verbs of a communicator between GPUs, by NCCL through CuPy.

Everything goes to one stream beside that of the computation, in the order in which it is asked for; events tie the two
together, so that nothing waits for the device. Where the computation is captured into a CUDA graph the events bring
the side stream into the capture and back out of it, and the graph holds it all. NVIDIA, "NCCL User Guide", "CUDA Stream
Semantics" and "Using NCCL with CUDA Graphs".
"""

import numpy as np

from minires.errors import ConfigError, RankError


class Nccl:
    """One rank of `size`, each with a GPU of its own. share: gives every rank what the first one has."""

    def __init__(self, xp, rank: int, size: int, share):
        from cupy.cuda import nccl  # CuPy does not load it by itself

        if not nccl.available:
            raise ConfigError(
                "ranks on GPUs speak through NCCL, which CuPy cannot load: pip install nvidia-nccl-cu12 (or -cu13, as "
                "CuPy's), or train on the CPU (--device cpu)"
            )
        names = {"e": "FLOAT16", "f": "FLOAT32", "d": "FLOAT64", "l": "INT64"}
        self.types = {np.dtype(char): getattr(nccl, f"NCCL_{name}") for char, name in names.items()}
        self.xp, self.size, self.sum = xp, size, nccl.NCCL_SUM
        try:
            self.comm = nccl.NcclCommunicator(size, share(nccl.get_unique_id() if rank == 0 else None), rank)
        except nccl.NcclError as error:
            raise RankError(
                f"NCCL cannot bring the GPUs of {size} ranks together ({error}): give each rank a GPU of its own; with "
                "NCCL_DEBUG=WARN it says more"
            ) from None
        self.side = xp.cuda.Stream(non_blocking=True)

    def _begin(self, call, *arguments):
        """Issue `call` behind what was computed so far; what is returned makes what is computed next wait for it."""
        outside = self.xp.cuda.get_current_stream()
        self.side.wait_event(outside.record())
        call(*arguments, self.side.ptr)
        done = self.side.record()
        return lambda: outside.wait_event(done)

    def _whole(self, array):
        """The array itself, or a copy where it does not lie in one piece."""
        return array if array.flags.c_contiguous else self.xp.ascontiguousarray(array)

    def start_all_reduce(self, array):
        whole = self._whole(array)
        place = whole.data.ptr
        wait = self._begin(self.comm.allReduce, place, place, whole.size, self.types[whole.dtype], self.sum)

        def wait_and_copy():
            wait()
            if whole is not array:
                array[...] = whole

        return wait_and_copy

    def all_gather(self, array):
        whole = self._whole(array)
        gathered = self.xp.empty((self.size, *whole.shape), whole.dtype)
        places = whole.data.ptr, gathered.data.ptr
        self._begin(self.comm.allGather, *places, whole.size, self.types[whole.dtype])()
        return gathered

    def broadcast(self, array, root):
        whole = self._whole(array)
        self._begin(self.comm.bcast, whole.data.ptr, whole.size, self.types[whole.dtype], root)()
        if whole is not array:
            array[...] = whole
        return array
