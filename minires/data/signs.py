"""The deep-learning course's SIGNS layout in HDF5: read lazily, written atomically and sealed.

A pair `train_signs.h5`, `test_signs.h5` (or one file with all keys):

    train_set_x  uint8 (N, H, W, 3)     train_set_y  int64 (N,)     list_classes  (C,) integers or bytes
    test_set_x   uint8 (M, H, W, 3)     test_set_y   int64 (M,)

One file may hold validation_set_x and _y too.
"""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import h5py
import numpy as np

from minires.data.dataset import Dataset, check_images, check_labels, chunks
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.data.kinds import of_hdf5
from minires.data.names import PARTS
from minires.data.packed import Packed
from minires.data.probe import MAX_CHUNK
from minires.data.rows import Joined, Rows, as_pixels, pixel_scale, understood
from minires.errors import DataError

_WHAT = "a SIGNS data file"
_SUFFIXES = (".h5", ".hdf5")
_NAMES = {part: f"{part}_signs.h5" for part in PARTS}
COMPRESSIONS = {"none": {}, "gzip": {"compression": "gzip", "compression_opts": 1}, "lzf": {"compression": "lzf"}}
PIECE = 2**19  # bytes of a chunk at most, unpacked: 32 images of 64x64


class SignsDataset(Dataset):
    """One part ("train" or "test") of a SIGNS file, or of several that follow one another; read when asked for.

    Images that lie in the file one after the other are read where they are. All others (compressed, in chunks) are
    decoded by the piece (data/packed.py), and `layout` says in which order that takes least. Several threads may read.
    Floats in the file are brought to uint8: times 255 when none is above 1, else rounded as 0..255.

    Raises DataError for missing keys, wrong shapes or types, labels out of range, files that differ in classes or
    image shape, and pixels that are NaN, infinite or outside both ranges.
    """

    def __init__(self, path: str | os.PathLike | Sequence[Path], part: str, source: str = ""):
        paths = [Path(path)] if isinstance(path, str | os.PathLike) else list(path)
        self.path, self.source, self.flip_ok = paths[0], source or str(paths[0]), True
        self._stored, labels = [], []
        for each in paths:
            stored, classes, theirs, flip_ok = _open(each, part)
            if self._stored:
                _check_alike("classes", self.path, self.classes, each, classes)
                _check_alike("image shape", self.path, self.shape, each, stored.shape[1:])
            self._stored.append(stored)
            self.classes, self.shape, self.flip_ok = classes, stored.shape[1:], self.flip_ok and flip_ok
            labels.append(theirs)
        self.labels = np.concatenate(labels)
        self._rows = self._in_place() if all(stored.start is not None for stored in self._stored) else self._packed()
        if isinstance(self._rows, Packed):
            self.layout = self._rows.layout()

    def images(self, index):
        return self._rows[index]

    def read_from(self):
        return [stored.path for stored in self._stored]

    def _in_place(self):
        arrays = [stored.in_place() for stored in self._stored]
        return arrays[0] if len(arrays) == 1 else Joined(arrays)

    def _packed(self) -> Packed:
        ends = np.cumsum([stored.shape[0] for stored in self._stored])
        starts = [
            np.arange(end - stored.shape[0], end, stored.piece) for stored, end in zip(self._stored, ends, strict=True)
        ]
        starts = np.concatenate(starts)

        def read(numbers):
            """The images of the pieces `numbers`, each file opened once."""
            which = np.searchsorted(ends, starts[numbers], side="right")
            for i, group in groupby(zip(numbers, which, strict=True), key=itemgetter(1)):
                stored = self._stored[i]
                first = ends[i] - stored.shape[0]
                yield from stored.pieces([starts[number] - first for number, _ in group])

        return Packed(starts, (len(self), *self.shape), read, self.source)


@dataclass(frozen=True)
class _Stored:
    """Images as they lie in a file; scale: what brings floats to 0..255, None for bytes.

    start   where the first one begins in the file; None where they do not lie there one after the other
    piece   how many are decoded at once
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int | None
    piece: int
    scale: float | None

    def in_place(self):
        rows = Rows(self.path, self.start, self.shape, self.dtype)
        return rows if self.scale is None else _Scaled(rows, self.scale)

    def pieces(self, starts):
        """The pieces that begin at the positions `starts`."""
        with understood(self.path, _WHAT), h5py.File(self.path, "r") as file:
            images = file[self.key]
            if images.shape != self.shape or images.dtype != self.dtype:
                raise DataError(f"{self.path}: {self.key} has been changed since it was opened: start again")
            for start in starts:
                pixels = images[start : start + self.piece]
                yield pixels if self.scale is None else as_pixels(pixels, self.scale)


class _Scaled:
    """Rows of floats, brought to bytes when they are read."""

    def __init__(self, rows: Rows, scale: float):
        self.rows, self.scale, self.shape, self.dtype = rows, scale, rows.shape, np.dtype(np.uint8)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return as_pixels(self.rows[index], self.scale)


def _open(path: Path, part: str) -> tuple[_Stored, tuple[str, ...], np.ndarray, bool]:
    """(images, class names, labels, whether a mirrored image keeps its class) of one part of a file."""
    key = f"{part}_set_x"
    with open_hdf5(path, _WHAT) as file:
        images, labels = (_dataset(file, each, path) for each in (key, f"{part}_set_y"))
        shape = (len(images), *check_images(images.shape, images.dtype, f"{path}: {key}"))
        classes = _class_names(_dataset(file, "list_classes", path)[()], path)
        numbers = check_labels(labels[()], len(images), classes, f"{path}: {part}_set_y")
        flip_ok = bool(file.attrs.get("flip_ok", True))  # the course's hands: the other hand
        one = math.prod(shape[1:]) * images.dtype.itemsize
        piece = images.chunks[0] if images.chunks else max(1, min(len(images), 256, MAX_CHUNK // 8 // one))
        if piece * one > MAX_CHUNK:
            raise DataError(
                f"{path}: {images.name} has chunks of {piece:,} images, {piece * one:,} bytes, more than "
                f"{MAX_CHUNK:,}: store it anew with chunks of 32 images"
            )
        scale = None if images.dtype == np.uint8 else pixel_scale(_slabs(images, piece, one), f"{path}: {key}")
        start = images.id.get_offset() if images.chunks is None else None
        return _Stored(path, key, shape, images.dtype, start, piece, scale), classes, numbers, flip_ok


def _check_alike(name, path, ours, other, theirs) -> None:
    if ours != theirs:
        raise DataError(
            f"{other}: expected the same {name} as {path}, {ours}, got {theirs}: use two files of one data set"
        )


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
        for part in _held(candidate):
            parts.setdefault(part, SignsDataset(candidate, part))
    return _alike(parts)


def _held(path: Path) -> list[str]:
    """The parts that a SIGNS file holds."""
    with open_hdf5(path, _WHAT) as file:
        keys, (what, remedy) = sorted(file), of_hdf5(file)
    held = [part for part in _NAMES if f"{part}_set_x" in keys]
    if not held:
        if what.startswith("HDF5") or what == "a data set":
            what, remedy = keys, "give a file in the SIGNS layout, or a folder of images"
        raise DataError(f"{path}: expected the keys train_set_x or test_set_x, got {what}: {remedy}")
    return held


def _alike(parts: dict[str, SignsDataset]) -> dict[str, SignsDataset]:
    """The parts in their order; DataError where they differ in classes or image shape."""
    first, *others = parts.values()
    for other in others:
        _check_alike("classes", first.source, first.classes, other.source, other.classes)
        _check_alike("image shape", first.source, first.shape, other.source, other.shape)
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


def read_shards(paths: list[Path], source: str) -> dict[str, SignsDataset]:
    """{part: data} of several SIGNS files that follow one another, each with a piece of some parts; source: their name.

    Raises DataError as `read_signs` does.
    """
    holders = {part: [] for part in PARTS}
    for path in paths:
        for part in _held(path):
            holders[part].append(path)
    return _alike({part: SignsDataset(each, part, source) for part, each in holders.items() if each})


def write_signs(
    target: str | os.PathLike,
    train: Dataset | None,
    test: Dataset | None = None,
    validation: Dataset | None = None,
    *,
    compression: str = "none",
    made_from: str = "",
) -> tuple[Path, ...]:
    """Write the parts in the SIGNS layout, images streamed in chunks, and return the files written.

    compression: a name of COMPRESSIONS. With one, a chunk holds whole images, about PIECE bytes of them; without,
    images lie one after the other. made_from: kept in the file, for whoever asks what it was made from.

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
            _write_part(files[paths[name]], name, part, COMPRESSIONS[compression])
            if made_from:
                files[paths[name]].attrs["made_from"] = made_from
    return tuple(files)


def _write_part(file: h5py.File, name: str, part: Dataset, packing: dict) -> None:
    shape, step = (len(part), *part.shape), 256
    if packing:
        rows = min(len(part), 1 << (max(1, PIECE // math.prod(part.shape)).bit_length() - 1))
        packing, step = packing | {"chunks": (rows, *part.shape)}, rows * max(1, step // rows)
    images = file.create_dataset(f"{name}_set_x", shape, np.uint8, **packing)
    for index in chunks(len(part), step):
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


def _slabs(images: h5py.Dataset, piece: int, one: int):
    """All images in order, a few pieces of `piece` images at a time; one: the bytes of an image."""
    rows = piece * max(1, min(256, MAX_CHUNK // 8 // one) // piece)
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
