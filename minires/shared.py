"""Memory that several processes see: one region, mapped by each of them; and messages left in it.

The region is a file without a name that lives in memory (Linux's memfd). It is sparse: only pages that somebody wrote
exist, so it may be far larger than the machine and every user has room of its own. Arrays that lie in it are told to
another process by their place, all others by their bytes.
"""

import io
import mmap
import os
import pickle
import struct
import weakref
from math import prod

import numpy as np

SIZE = 2**40
HEAP = SIZE // 2  # from here on lie the arrays of `empty`; below, what the processes agree on
LINE = 64  # bytes of a cache line, at which arrays start


class Region:
    """The region, new or (fd) that of another process."""

    def __init__(self, fd: int | None = None):
        self.fd = os.memfd_create("minires") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, SIZE)
        self.map = mmap.mmap(self.fd, SIZE)
        self.bytes = memoryview(self.map)
        self.start = _address(self.bytes[:1])
        self.next, self.freed = HEAP, {}  # length -> places

    def view(self, place: int, shape, dtype) -> np.ndarray:
        """The array that lies at `place`."""
        return np.ndarray(shape, dtype, self.map, place)

    def place(self, array) -> int | None:
        """Where the memory of an array, or of a memoryview, starts in the region; None: not in it."""
        place = _address(array) - self.start
        return place if 0 <= place < SIZE else None

    def empty(self, shape, dtype) -> np.ndarray:
        """A new array in the region; its memory goes back to the system when its last view is gone."""
        shape, dtype = (shape,) if isinstance(shape, int) else shape, np.dtype(dtype)
        length = -(-max(1, prod(shape) * dtype.itemsize) // mmap.PAGESIZE) * mmap.PAGESIZE
        place = self.freed[length].pop() if self.freed.get(length) else self.next
        if place == self.next:
            self.next += length
            if self.next > SIZE:
                raise MemoryError(f"{length} bytes that processes share: {SIZE - HEAP} are taken")
        block = _Block(self.start + place, shape, dtype)
        weakref.finalize(block, self._free, place, length).atexit = False
        return np.asarray(block)

    def _free(self, place, length):
        self.map.madvise(mmap.MADV_REMOVE, place, length)
        self.freed.setdefault(length, []).append(place)

    def write(self, place: int, value):
        """Leave `value` there; arrays of this region go by their place, all others by their bytes."""
        file = io.BytesIO()
        _Pickler(file, self).dump(value)
        data = file.getbuffer()
        struct.pack_into("q", self.bytes, place, len(data))
        self.bytes[place + 8 : place + 8 + len(data)] = data

    def read(self, place: int):
        """What was left there; arrays that are not of this region are copies."""
        (length,) = struct.unpack_from("q", self.bytes, place)
        return _Unpickler(io.BytesIO(self.bytes[place + 8 : place + 8 + length]), self).load()


class _Block:
    """What the views of one array keep alive."""

    def __init__(self, address, shape, dtype):
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": dtype.str}


def _address(buffer) -> int:
    array = buffer if isinstance(buffer, np.ndarray) else np.frombuffer(buffer, np.uint8)
    return array.__array_interface__["data"][0]


class _Pickler(pickle.Pickler):
    def __init__(self, file, region):
        super().__init__(file, 5)
        self.region = region

    def persistent_id(self, value):
        if type(value) is not np.ndarray or (place := self.region.place(value)) is None:
            return None
        return place, value.shape, value.strides, value.dtype.str


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, region):
        super().__init__(file)
        self.region = region

    def persistent_load(self, told):
        place, shape, strides, dtype = told
        return np.ndarray(shape, dtype, self.region.map, place, strides)


class Outbox:
    """Where one process leaves values for the others, in two halves that take turns.

    A value may be read until the one after the next is left: its arrays are views of this memory.
    """

    HEAD = 2**16  # bytes for the places of a message's parts

    def __init__(self, region: Region, place: int, half: int):
        self.region, self.place, self.half = region, place, half
        self.turn(0)

    def turn(self, number: int):
        """The half for message `number` is free again."""
        self.base = self.start(number)
        self.free = self.base + self.HEAD

    def start(self, number: int) -> int:
        """Where message `number` starts."""
        return self.place + number % 2 * self.half

    def empty(self, shape, dtype) -> np.ndarray:
        """An array in the coming message, which then need not be copied into it."""
        dtype = np.dtype(dtype)
        return self.region.view(self._take(prod(shape) * dtype.itemsize), shape, dtype)

    def _take(self, length):
        place = self.free
        self.free += -(-length // LINE) * LINE
        if self.free > self.base + self.half:
            raise MemoryError(f"a message of more than {self.half} bytes between two processes")
        return place

    def leave(self, value):
        """Write the message."""
        buffers = []
        data = pickle.dumps(value, 5, buffer_callback=buffers.append)
        parts = []
        for raw in (memoryview(data), *(buffer.raw() for buffer in buffers)):
            place = self.region.place(raw) if raw.nbytes else 0
            if place is None:
                place = self._take(raw.nbytes)
                self.region.bytes[place : place + raw.nbytes] = raw
            parts += place, place + raw.nbytes
        struct.pack_into(f"{len(parts) + 1}q", self.region.bytes, self.base, len(parts), *parts)

    def read(self, number: int):
        """What was left as message `number`."""
        start = self.start(number)
        (count,) = struct.unpack_from("q", self.region.bytes, start)
        parts = struct.unpack_from(f"{count}q", self.region.bytes, start + 8)
        data, *buffers = (self.region.bytes[slice(*part)] for part in zip(parts[::2], parts[1::2], strict=True))
        return pickle.loads(data, buffers=buffers)
