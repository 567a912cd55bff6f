"""Images that lie packed in pieces of several: decoded by the piece, in an order that needs each piece once an epoch.

A piece is what is unpacked at once: a chunk of an HDF5 file, or all chunks that share its images. To draw images at
random from all of a large file would decode a piece of many for each one. So an epoch walks through the pieces in a
random order, and mixes the images of those that are in memory together: `Layout.order`.
"""

import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from minires.errors import DataError

CACHE = 256 * 2**20  # bytes of decoded pieces that a data set keeps
_LEAST = 2  # pieces that it keeps at least: one begins while another ends
_GOLDEN = 0.6180339887498949  # the multiples of it are spread evenly over 0..1, modulo 1


@dataclass(frozen=True)
class Layout:
    """How images lie that are read by the piece.

    piece   (N,) the number of each image's piece, from 0
    window  how many pieces an epoch mixes together
    """

    piece: np.ndarray
    window: int

    @property
    def matters(self) -> bool:
        """Whether the images are so many that one order is read faster than another."""
        return len(self.piece) > 0 and int(self.piece.max()) >= self.window

    def __str__(self) -> str:
        """What decides an epoch's order."""
        return f"pieces {zlib.crc32(self.piece.astype('<i4').tobytes()):08x}, {self.window} together"

    def of(self, index: np.ndarray) -> "Layout":
        """That of the images at the positions `index`."""
        return Layout(np.unique(self.piece[index], return_inverse=True)[1].astype(np.int32), self.window)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Positions (N,) of all images: the pieces shuffled, and each image moved back by up to `window` pieces.

        Image i comes at rank[piece[i]] + window u_i, u uniform in [0, 1). So what is read at any time comes from
        the latest `window` pieces, and a piece begins while another ends: reading never comes in bursts.
        """
        rank = rng.permutation(int(self.piece.max()) + 1).astype(np.float32)
        at = rng.random(len(self.piece), np.float32)
        at *= self.window
        at += rank[self.piece]
        return np.argsort(at, kind="stable")  # the same where two are equal, on any machine

    def together(self, index: np.ndarray) -> np.ndarray:
        """The positions of a batch with each piece's images side by side, and pieces always in the same order.

        Of several ranks, each of which takes a stretch of the batch, few then decode the same piece.
        """
        return index[np.argsort(self.piece[index] * _GOLDEN % 1, kind="stable")]


class Packed:
    """An array (N, ...) uint8 that lies in pieces: `rows[index]` gives the rows at the positions `index` (n,).

    starts  (P,) the first row of each piece, ascending from 0
    read    read(numbers) gives the rows of each of these pieces, in that order

    Decoded pieces stay in memory up to `limit` bytes; the one that has been there for longest goes first. A pass in
    order keeps but the last one, where not all have room. Several threads may read.
    DataError, naming `name`, for a position that there is not.
    """

    def __init__(self, starts: np.ndarray, shape: tuple[int, ...], read: Callable, name: str, limit: int | None = None):
        self.starts, self.shape, self.dtype, self.name = np.asarray(starts), tuple(shape), np.dtype(np.uint8), name
        self._read, self._lock = read, threading.Lock()
        rows = np.diff(self.starts, append=self.shape[0])
        largest = int(rows.max()) * int(np.prod(self.shape[1:]))
        self.keep = max(_LEAST, (CACHE if limit is None else limit) // largest)
        self.alone = int(rows.max()) == 1
        self.decoded = 0  # pieces so far
        self._pieces: dict[int, np.ndarray] = {}
        self._latest: tuple[int, np.ndarray | None] = (-1, None)

    def __len__(self):
        return self.shape[0]

    def layout(self) -> Layout | None:
        """None where each row is a piece of its own: any order is as good then."""
        if self.alone:
            return None
        piece = np.repeat(np.arange(len(self.starts), dtype=np.int32), np.diff(self.starts, append=len(self)))
        return Layout(piece, max(1, self.keep * 4 // 5))  # the others may still be needed, or already

    def __getitem__(self, index) -> np.ndarray:
        index = np.asarray(index, dtype=np.intp)
        out = np.empty((len(index), *self.shape[1:]), np.uint8)
        if not len(index):
            return out
        if index.min() < 0 or index.max() >= len(self):
            raise DataError(f"{self.name}: no image at position {index.max()}, there are {len(self):,}")
        which = np.searchsorted(self.starts, index, side="right") - 1
        by_piece = np.argsort(which, kind="stable")
        numbers, first = np.unique(which[by_piece], return_index=True)
        places = dict(zip(numbers.tolist(), np.split(by_piece, first[1:]), strict=True))
        passing = len(self.starts) > self.keep and len(index) > 1 and bool((np.diff(index) == 1).all())
        with self._lock:
            for number, rows in self._decoded(list(places), passing):
                here = places[number]
                out[here] = rows[index[here] - self.starts[number]]
        return out

    def _decoded(self, numbers: list[int], passing: bool) -> Iterable[tuple[int, np.ndarray]]:
        held = dict([self._latest]) | self._pieces
        yield from ((number, held[number]) for number in numbers if number in held)
        missing = [number for number in numbers if number not in held]
        del held
        for number, rows in zip(missing, self._read(missing) if missing else (), strict=True):
            self.decoded += 1
            if passing:
                self._latest = (number, rows)
            else:
                while len(self._pieces) >= self.keep:
                    del self._pieces[next(iter(self._pieces))]
                self._pieces[number] = rows
            yield number, rows
