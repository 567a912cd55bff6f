"""The deep-learning course's SIGNS layout in HDF5: read lazily, written atomically and sealed.

A pair `train_signs.h5`, `test_signs.h5` (or one file with all keys):

    train_set_x  uint8 (N, H, W, 3)     train_set_y  int64 (N,)     list_classes  (C,) integers or bytes
    test_set_x   uint8 (M, H, W, 3)     test_set_y   int64 (M,)

One file may hold validation_set_x and _y too.
"""

import math
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from minires.data.dataset import Dataset, check_images, check_labels, chunks
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.data.kinds import of_hdf5
from minires.data.names import PARTS
from minires.data.probe import MAX_CHUNK
from minires.data.rows import Rows, as_pixels, pixel_scale, spill
from minires.errors import DataError

_WHAT = "a SIGNS data file"
_SUFFIXES = (".h5", ".hdf5")
_NAMES = {part: f"{part}_signs.h5" for part in PARTS}


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
            self._scale = None if images.dtype == np.uint8 else pixel_scale(_slabs(images), where)
            # where the images begin in the file; None where they do not lie there as they are
            self._start = images.id.get_offset() if images.chunks is None and self._scale is None else None
            if self._start is None:
                self.source += " (unpacked to a temporary file)"
        self._pixels, self._lock = None, threading.Lock()

    def images(self, index):
        return self._rows()[index]

    def _rows(self) -> Rows:
        """The images as they lie in the file, or unpacked."""
        with self._lock:
            if self._pixels is None:
                source, start = (self._unpack(), 0) if self._start is None else (self.path, self._start)
                self._pixels = Rows(source, start, (len(self), *self.shape), name=self.source)
            return self._pixels

    def _unpack(self):
        with open_hdf5(self.path, _WHAT) as file:
            stored = file[self._key]
            return spill(map(self._as_bytes, _slabs(stored)), len(stored) * math.prod(self.shape), self.path)

    def _as_bytes(self, pixels):
        return pixels if self._scale is None else as_pixels(pixels, self._scale)


def load_signs(path: str | os.PathLike) -> tuple[SignsDataset | None, SignsDataset | None]:
    """Training and test part of a SIGNS file, None for one that is nowhere; as `read_signs`."""
    parts = read_signs(path)
    return parts.get("train"), parts.get("test")


def read_signs(path: str | os.PathLike) -> dict[str, SignsDataset]:
    """{part: data} of a SIGNS file; of training and test part what it does not hold is read from the file beside it.

    The other file has the same name with "train" for "test" or the reverse.
    Raises DataError as `SignsDataset` does, and where the parts differ in classes or image shape.
    """
    path = Path(path)
    other = _other_name(path)
    parts = {}
    for candidate in (path, other):
        if candidate is None or {"train", "test"} <= set(parts) or not candidate.is_file():
            continue
        with open_hdf5(candidate, _WHAT) as file:
            keys, (what, remedy) = sorted(file), of_hdf5(file)
        held = [part for part in _NAMES if f"{part}_set_x" in keys]
        if not held:
            if what.startswith("HDF5") or what == "a data set":
                what, remedy = keys, "give a file in the SIGNS layout, or a folder of images"
            raise DataError(f"{candidate}: expected the keys train_set_x or test_set_x, got {what}: {remedy}")
        for part in held:
            parts.setdefault(part, SignsDataset(candidate, part))
    first, *others = parts.values()
    for other in others:
        for name, ours, theirs in (
            ("classes", first.classes, other.classes),
            ("image shape", first.shape, other.shape),
        ):
            if ours != theirs:
                raise DataError(
                    f"{other.source}: expected the same {name} as {first.source}, {ours}, got {theirs}: "
                    "use two files of one data set"
                )
    return {part: parts[part] for part in PARTS if part in parts}


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


def write_signs(
    target: str | os.PathLike, train: Dataset | None, test: Dataset | None = None, validation: Dataset | None = None
) -> tuple[Path, ...]:
    """Write the parts in the SIGNS layout, images streamed in chunks, and return the files written.

    A `target` that ends in .h5 or .hdf5 is one file for all parts; any other is a folder, created if
    needed, for `train_signs.h5` and `test_signs.h5`. Files are replaced only when all is written. Raises
    DataError where the parts' classes or shapes differ, or the disk refuses (full, no permission).
    """
    target = Path(target)
    given = {"train": train, "validation": validation, "test": test}
    parts = {name: part for name, part in given.items() if part is not None}
    if not parts:
        raise DataError(f"{target}: expected a training or a test part to write, got neither")
    if len({(part.classes, part.shape) for part in parts.values()}) > 1:
        raise DataError(
            f"{target}: expected all parts with the same classes and image shape, got "
            f"{' and '.join(f'{part.classes} {part.shape}' for part in parts.values())}"
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


def _other_name(path: Path) -> Path | None:
    """The other file of a pair: the last "train" in the name turned into "test", or the reverse."""
    for ours, theirs in (("train", "test"), ("test", "train")):
        for style in (str.lower, str.capitalize, str.upper):
            before, found, after = path.name.rpartition(style(ours))
            if found:
                return path.with_name(before + style(theirs) + after)
    return None
