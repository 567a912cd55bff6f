"""Work on a GPU, captured once into a CUDA graph and replayed.

A small network's step is some hundred launches of a few microseconds each, and what takes the time is to issue them
one by one. A graph is issued at once. It reads and writes where it did when it was captured, so what changes from
call to call is copied into buffers of its own.
"""

from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class _Held:
    """For one shape of arguments: the buffers they are copied into, the graph that reads these, and its result."""

    arguments: list
    graph: object = None
    result: object = None


class Replay:
    """`work(*arrays)`, issued at the first call of a shape, captured at the second and replayed from then on.

    The first call makes CuPy and cuBLAS ready and finds the memory, which belongs to the graphs alone. `work` must
    not wait for the device, and all else that it reads or writes must stay where it is: `forget` after a move.
    Each result is good until the next call. reason: why nothing is captured, "" where it is; also told by work
    that could not be captured, which is issued from then on.
    """

    def __init__(self, xp, work, reason=""):
        self.cuda, self.work = xp.cuda, work
        self.agreed = str  # from this rank's reason to that of all ranks which capture together
        self.reason = reason or ("" if hasattr(self.cuda, "Graph") else "there are none on this device")
        self.held: dict[tuple, _Held] = {}
        if not self.reason:
            self.pool, self.stream = self.cuda.MemoryPool(), self.cuda.Stream(non_blocking=True)

    def forget(self) -> None:
        """Capture anew, since arrays lie elsewhere now."""
        self.held.clear()

    def __call__(self, *arrays, key=()):
        """key: what else `work` depends on."""
        if self.reason:
            return self.work(*arrays)
        key = (*key, *((a.shape, a.dtype.char) for a in arrays))
        held = self.held.get(key)
        if held is None:
            with self._apart():
                self.held[key] = _Held([a.copy() for a in arrays])
                return self.work(*arrays)
        if held.graph is None:
            self.reason = self.agreed(self._capture(held))
            if self.reason:
                self.held.clear()
                self.pool.free_all_blocks()
                return self.work(*arrays)
        for buffer, array in zip(held.arguments, arrays, strict=True):
            buffer[...] = array
        held.graph.launch()
        return held.result

    def _capture(self, held):
        """Why that cannot be, "" where it is done."""
        try:
            with self._apart():
                self.stream.begin_capture()
                try:
                    held.result = self.work(*held.arguments)
                finally:
                    held.graph = self.stream.end_capture()
        except Exception as error:  # CuPy raises a different type for each thing that cannot be captured
            return (str(error).strip() or type(error).__name__).splitlines()[0]
        return ""

    @contextmanager
    def _apart(self):
        """Inside, work goes to a stream of its own, in order with what is before and after, and memory comes from
        a pool of its own: what a graph uses between its kernels must be nobody else's."""
        outside = self.cuda.get_current_stream()
        self.stream.wait_event(outside.record())
        try:
            with self.cuda.using_allocator(self.pool.malloc), self.stream:
                yield
        finally:
            outside.wait_event(self.stream.record())
