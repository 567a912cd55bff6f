"""Rows of numbers that lie in a file, read when asked for, and the temporary file that packed ones are unpacked to.

Files of others: what they claim is held against what they hold before memory is asked for, and whatever a library
raises on a damaged one becomes one line.
"""

import errno
import math
import shutil
import tempfile
import threading
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minires.data.probe import ALLOWANCE, UNPACKED
from minires.errors import DataError

OVERSHOOT = 0.15  # of the range of floats: a bicubic or Lanczos resize goes beyond it beside an edge


class Rows:
    """An array (N, ...) that stays in its file: `rows[index]` reads the rows at the positions `index` (n,).

    source  a path, opened for each reading, or an open binary file, which is kept
    start   where the first row begins, in bytes; each further one begins `stride` bytes later (None: they touch)

    Several threads may read. DataError, naming `source` or `name`, where the file has become shorter.
    """

    def __init__(self, source, start: int, shape, dtype=np.uint8, *, stride: int | None = None, name: str = ""):
        self.source, self.start, self.name = source, start, name or str(source)
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.stride, self.together = stride or size, stride in (None, size)
        self._lock = threading.Lock()

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        index = np.asarray(index, dtype=np.intp)
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        if not out.size:
            return out
        rows, at = out.reshape(len(out), -1).view(np.uint8), index
        if self.together and (np.diff(index) == 1).all():
            rows, at = rows[None], index[:1]
        with self._opened() as raw:
            for row, position in zip(rows, map(int, at), strict=True):
                raw.seek(self.start + position * self.stride)
                if not 0 <= position < len(self) or raw.readinto(row.reshape(-1)) != row.nbytes:
                    raise DataError(f"{self.name}: no image at position {position}, the file may have been changed")
        return out

    @contextmanager
    def _opened(self):
        if isinstance(self.source, Path):
            with self.source.open("rb", buffering=0) as raw:
                yield raw
        else:
            with self._lock:
                yield self.source


class Joined:
    """Several arrays of equal rows as one, end to end."""

    def __init__(self, arrays):
        self.arrays = list(arrays)
        self.ends = np.cumsum([len(array) for array in self.arrays])
        self.shape, self.dtype = (int(self.ends[-1]), *self.arrays[0].shape[1:]), self.arrays[0].dtype

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        index = np.asarray(index, dtype=np.intp)
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise DataError(f"no image at position {index.max()}, there are {len(self):,}")
        which = np.searchsorted(self.ends, index, side="right")
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        for i in np.unique(which):
            array, here = self.arrays[i], which == i
            out[here] = array[index[here] - (self.ends[i] - len(array))]
        return out


@contextmanager
def understood(path: Path, what: str):
    """Whatever a library raises inside, on a damaged or hostile file, is told as a DataError of one line.

    what: what the file should be. What the system refuses (permission, too many files) passes through.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # EINVAL: a place in the file that is none
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        problem = (
            "it takes more memory than there is" if isinstance(error, MemoryError) else f"it is damaged ({problem})"
        )
        raise DataError(f"{path}: expected {what}, but {problem}: download or write it again") from None


def check_claim(claimed: int, size: int, where: object) -> None:
    """DataError where packed data of `size` bytes claim to be far more than any images pack to."""
    if claimed > UNPACKED * size + ALLOWANCE:
        raise DataError(f"{where}: {size:,} bytes that would unpack to {claimed:,}: write it again uncompressed")


def spill(pieces: Iterable, needed: int, where: object):
    """Write `pieces` (bytes-like), `needed` bytes in all, to a temporary file without a name; returns it, open."""
    folder = tempfile.gettempdir()
    if needed > (free := shutil.disk_usage(folder).free):
        raise DataError(
            f"{where}: its images take {needed:,} bytes unpacked, and {folder} has {free:,} left: "
            "set TMPDIR to a larger disk, or store them uncompressed"
        )
    raw, written = tempfile.TemporaryFile(), 0  # noqa: SIM115 - it lives as long as the data set
    for piece in pieces:
        written += memoryview(piece).nbytes
        if written > needed:
            break
        try:
            raw.write(piece)
            raw.flush()
        except OSError as error:
            raise DataError(f"{where}: cannot be unpacked to {folder} ({error.strerror})") from None
    if written != needed:
        held = "more" if written > needed else f"{written:,}"
        raise DataError(f"{where}: expected {needed:,} bytes, as its header says, got {held}: download it again")
    return raw


def pieces(source, size: int = 2**20):
    """What is left in an open file, a piece at a time."""
    while piece := source.read(size):
        yield piece


def pixel_scale(slabs: Iterable[np.ndarray], where: str) -> float:
    """The factor that brings the pixels of all slabs (n, ...) to 0..255, but for what a resize overshot.

    255 for floats in 0..1, 1 for what is in 0..255. Floats may lie OVERSHOOT of their range outside it, for `as_pixels`
    to clip; floats up to some small number other than 1 are neither, and refused.
    """
    low, high, seen, whole = np.inf, -np.inf, 0, True
    for pixels in slabs:
        finite = np.isfinite(pixels).reshape(len(pixels), -1).all(axis=1)
        if not finite.all():
            bad = seen + np.argmin(finite)
            raise DataError(f"{where}: expected finite pixels, got NaN or infinity first in image {bad}: repair it")
        low, high, seen = min(low, pixels.min()), max(high, pixels.max()), seen + len(pixels)
        whole = whole and bool((pixels == np.rint(pixels)).all())
    beyond = 0 if whole else OVERSHOOT
    top = 1 if high <= 1 + beyond else 255
    if low < -beyond * top or high > (1 + beyond) * top or (not whole and 1 + beyond < high < 8):
        raise DataError(f"{where}: expected pixels in 0..1 or 0..255, got {low:g}..{high:g}: undo the normalisation")
    return 255.0 / top


def as_pixels(values: np.ndarray, scale: float) -> np.ndarray:
    """uint8 of numbers that `pixel_scale` looked at."""
    return np.rint(np.clip(values * scale, 0, 255)).astype(np.uint8)
