"""The deep-learning course's SIGNS layout in HDF5: read lazily, written atomically and sealed.

A pair `train_signs.h5`, `test_signs.h5` (or one file with all keys):

    train_set_x  uint8 (N, H, W, 3)     train_set_y  int64 (N,)     list_classes  (C,) integers or bytes
    test_set_x   uint8 (M, H, W, 3)     test_set_y   int64 (M,)
"""

import math
import os
import shutil
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np

from minires.data.dataset import Dataset, check_images, check_labels, chunks
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.data.probe import MAX_CHUNK
from minires.errors import DataError

_WHAT = "a SIGNS data file"
_SUFFIXES = (".h5", ".hdf5")
_NAMES = {"train": "train_signs.h5", "test": "test_signs.h5"}


class SignsDataset(Dataset):
    """One part ("train" or "test") of a SIGNS file; images are read from the file when asked for.

    Images that lie in the file as uint8, one after the other, are read where they are. All others (compressed, in
    chunks, floats) are unpacked once, on first use, to a temporary file without a name: a chunk holds parts of hundreds
    of images, and decoding all of it for each of them would take most of the time. `source` says so. Several threads
    may read. Floats in the file are brought to uint8: times 255 when none is above 1, else rounded as 0..255.

    Raises DataError for missing keys, wrong shapes or types, labels out of range, and pixels that are NaN,
    infinite or outside both ranges.
    """

    def __init__(self, path: str | os.PathLike, part: str):
        self.path, self._key = Path(path), f"{part}_set_x"
        self.source = str(self.path)
        with open_hdf5(self.path, _WHAT) as file:
            images, labels = (_dataset(file, key, self.path) for key in (self._key, f"{part}_set_y"))
            where = f"{self.path}: {self._key}"
            self.shape = check_images(images.shape, images.dtype, where)
            self.classes = _class_names(_dataset(file, "list_classes", self.path)[()], self.path)
            self.labels = check_labels(labels[()], len(images), self.classes, f"{self.path}: {part}_set_y")
            self.flip_ok = bool(file.attrs.get("flip_ok", True))  # the course's hands: the other hand
            self._scale = None if images.dtype == np.uint8 else _float_scale(images, where)
            # where the images begin in the file; None where they do not lie there as they are
            self._start = images.id.get_offset() if images.chunks is None and self._scale is None else None
            if self._start is None:
                self.source += " (unpacked to a temporary file)"
        self._unpacked, self._lock = None, threading.Lock()

    def images(self, index):
        positions = np.asarray(index, dtype=np.intp)
        out = np.empty((len(positions), *self.shape), np.uint8)
        size, together = math.prod(self.shape), (np.diff(positions) == 1).all()
        with self._opened() as (raw, start):
            for row, position in [(out, positions[0])] if together and len(out) else zip(out, positions, strict=True):
                raw.seek(start + int(position) * size)
                if not 0 <= position < len(self) or raw.readinto(row) != row.nbytes:
                    raise DataError(f"{self.source}: no image at position {position}, the file may have been changed")
        return out

    @contextmanager
    def _opened(self):
        """A file in which the images lie one after the other, and where they begin."""
        if self._start is not None:
            with self.path.open("rb", buffering=0) as raw:
                yield raw, self._start
            return
        with self._lock:
            if self._unpacked is None:
                self._unpacked = self._unpack()
            yield self._unpacked, 0

    def _unpack(self):
        with open_hdf5(self.path, _WHAT) as file:
            stored, folder = file[self._key], tempfile.gettempdir()
            needed, free = len(stored) * math.prod(self.shape), shutil.disk_usage(folder).free
            if needed > free:
                raise DataError(
                    f"{self.path}: its images take {needed:,} bytes unpacked, and {folder} has {free:,} left: "
                    "set TMPDIR to a larger disk, or store them uncompressed"
                )
            raw = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the data set
            for pixels in _slabs(stored):
                pixels = pixels if self._scale is None else np.rint(pixels * self._scale).astype(np.uint8)
                try:
                    raw.write(pixels)
                    raw.flush()
                except OSError as error:
                    raise DataError(f"{self.path}: cannot be unpacked to {folder} ({error.strerror})") from None
        return raw


def load_signs(path: str | os.PathLike) -> tuple[SignsDataset | None, SignsDataset | None]:
    """Training and test part of a SIGNS file; what it does not hold is read from the file beside it.

    The other file has the same name with "train" for "test" or the reverse. A part found nowhere is None.
    Raises DataError as `SignsDataset` does, and where the two parts differ in classes or image shape.
    """
    path = Path(path)
    other = _other_name(path)
    parts = {}
    for candidate in (path, other):
        if candidate is None or len(parts) == 2 or not candidate.is_file():
            continue
        with open_hdf5(candidate, _WHAT) as file:
            keys = sorted(file)
        held = [part for part in _NAMES if f"{part}_set_x" in keys]
        if not held:
            raise DataError(
                f"{candidate}: expected the keys train_set_x or test_set_x, got {keys}: "
                "give a file in the SIGNS layout, or a folder of images"
            )
        for part in held:
            parts.setdefault(part, SignsDataset(candidate, part))
    train, test = parts.get("train"), parts.get("test")
    if train and test:
        for name, ours, theirs in (
            ("classes", train.classes, test.classes),
            ("image shape", train.shape, test.shape),
        ):
            if ours != theirs:
                raise DataError(
                    f"{test.source}: expected the same {name} as {train.source}, {ours}, got {theirs}: "
                    "use two files of one data set"
                )
    return train, test


def find_in(folder: Path) -> Path | None:
    """The HDF5 file of a SIGNS pair in `folder`, the training file if it is there; None if there is none."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES]
    for part, usual in _NAMES.items():
        named = [path for path in files if path.name == usual] or [p for p in files if part in p.stem.lower()]
        if len(named) > 1:
            raise DataError(f"{folder}: several files for '{part}' ({', '.join(p.name for p in named)}): give one")
        if named:
            return named[0]
    return None


def write_signs(target: str | os.PathLike, train: Dataset | None, test: Dataset | None = None) -> tuple[Path, ...]:
    """Write the parts in the SIGNS layout, images streamed in chunks, and return the files written.

    A `target` that ends in .h5 or .hdf5 is one file for both parts; any other is a folder, created if
    needed, for `train_signs.h5` and `test_signs.h5`. Files are replaced only when all is written. Raises
    DataError where the parts' classes or shapes differ, or the disk refuses (full, no permission).
    """
    target = Path(target)
    parts = {name: part for name, part in (("train", train), ("test", test)) if part is not None}
    if not parts:
        raise DataError(f"{target}: expected a training or a test part to write, got neither")
    if len({(part.classes, part.shape) for part in parts.values()}) > 1:
        raise DataError(
            f"{target}: expected both parts with the same classes and image shape, got "
            f"{train.classes} {train.shape} and {test.classes} {test.shape}"
        )
    one_file = target.suffix.lower() in _SUFFIXES
    if not one_file:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{target}: the folder cannot be created ({error.strerror})") from None
    paths = {name: target if one_file else target / _NAMES[name] for name in parts}
    with ExitStack() as stack:  # both files are complete before either takes its name
        files = {path: stack.enter_context(atomic_hdf5(path)) for path in dict.fromkeys(paths.values())}
        for name, part in parts.items():
            _write_part(files[paths[name]], name, part)
    return tuple(files)


def _write_part(file: h5py.File, name: str, part: Dataset) -> None:
    images = file.create_dataset(f"{name}_set_x", (len(part), *part.shape), np.uint8)
    for index in chunks(len(part)):
        images[index[0] : index[-1] + 1] = part.images(index)
    file[f"{name}_set_y"] = part.labels
    if "list_classes" not in file:
        numbered = all(name.isdecimal() and str(int(name)) == name for name in part.classes)
        names = np.array([int(name) if numbered else name.encode() for name in part.classes])
        file["list_classes"] = names
        file.attrs["flip_ok"] = part.flip_ok


def _dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: expected the key {key}, got {sorted(file)}: give a file in the SIGNS layout")
    return found


def _class_names(stored: np.ndarray, path: Path) -> tuple[str, ...]:
    names = np.ravel(stored)
    if names.dtype.kind not in "iuSO" or names.size == 0:
        raise DataError(f"{path}: expected list_classes as integers or byte strings, got {names.dtype} {names.shape}")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _slabs(images: h5py.Dataset):
    """All images in order, as many at a time as decode each chunk once."""
    rows, one = images.chunks[0] if images.chunks else 1, math.prod(images.shape[1:]) * images.dtype.itemsize
    rows *= max(1, min(256, MAX_CHUNK // 8 // one) // rows)
    size = rows * one
    if size > MAX_CHUNK:
        raise DataError(
            f"{images.file.filename}: {images.name} has chunks of {rows:,} images, {size:,} bytes, more than "
            f"{MAX_CHUNK:,}: store it anew with chunks of 32 images"
        )
    for start in range(0, len(images), rows):
        yield images[start : start + rows]


def _float_scale(images: h5py.Dataset, where: str) -> float:
    """The factor that brings float pixels to 0..255: 255 when none is above 1, else 1."""
    low, high, seen = np.inf, -np.inf, 0
    for pixels in _slabs(images):
        finite = np.isfinite(pixels).all(axis=(1, 2, 3))
        if not finite.all():
            bad = seen + np.argmin(finite)
            raise DataError(f"{where}: expected finite pixels, got NaN or infinity first in image {bad}: repair it")
        low, high, seen = min(low, pixels.min()), max(high, pixels.max()), seen + len(pixels)
    if low < 0 or high > 255:
        raise DataError(
            f"{where}: expected float pixels in 0..1 or 0..255, got {low:g}..{high:g}: undo the normalisation"
        )
    return 255.0 if high <= 1 else 1.0


def _other_name(path: Path) -> Path | None:
    """The other file of a pair: the last "train" in the name turned into "test", or the reverse."""
    for ours, theirs in (("train", "test"), ("test", "train")):
        for style in (str.lower, str.capitalize, str.upper):
            before, found, after = path.name.rpartition(style(ours))
            if found:
                return path.with_name(before + style(theirs) + after)
    return None
