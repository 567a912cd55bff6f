"""Images and labels as arrays, whoever stored them: in memory, or in NumPy's `.npy` and `.npz`.

Images are (N, H, W, 3), (N, H, W), (N, H, W, 1), or have their channels first; uint8, or numbers in 0..1 or 0..255.
Grey becomes three equal channels: the augmentation and the networks' usual input are RGB. Labels are class numbers,
names or one-hot rows. Nothing is unpickled.
"""

import math
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from minires.data.dataset import Dataset, check_images, check_labels, chunks
from minires.data.names import listed, natural_key, part_of
from minires.data.rows import Rows, as_pixels, check_claim, pieces, pixel_scale, spill, understood
from minires.errors import DataError

_ROLES = {
    "images": ("x", "image", "images", "img", "imgs", "data", "pixels", "inputs", "features", "arr_0"),
    "labels": ("y", "label", "labels", "target", "targets", "class", "arr_1"),
    "classes": ("classes", "names", "class names", "label names"),
}
_ROLE = {word: role for role, said in _ROLES.items() for word in said}
_KEYS = "expected images and labels by names such as x_train and y_train, or images and labels"


class StoredImages(Dataset):
    """Images of an array, or of `Rows`, with their labels (N,), class numbers; brought to uint8 RGB when read.

    DataError, naming `source`, for other shapes and types, and for pixels that are not finite or outside both ranges.
    """

    def __init__(self, pixels, labels, classes, source: str, *, flip_ok: bool = False):
        self.pixels, self.source, self.flip_ok, self.classes = pixels, source, flip_ok, tuple(map(str, classes))
        shape = tuple(pixels.shape)
        grey = len(shape) == 3 or (len(shape) == 4 and 3 not in (shape[3], shape[1]) and 1 in (shape[3], shape[1]))
        self.channels_first = len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3)
        if self.channels_first:
            shape = (shape[0], *shape[2:], shape[1])
        kind = np.dtype(np.uint8 if pixels.dtype.kind in "uib" else pixels.dtype)
        self.shape = check_images((*shape[:3], 3) if grey else shape, kind, source)
        self.labels = check_labels(labels, len(pixels), self.classes, source)
        slabs = (pixels[index] for index in chunks(len(pixels)))
        self.scale = None if pixels.dtype == np.uint8 else pixel_scale(slabs, source)
        if grey:
            self.source += " (grey, read as three equal channels)"

    def images(self, index):
        pixels = self.pixels[np.asarray(index, dtype=np.intp)]
        if self.scale is not None:
            pixels = as_pixels(pixels, self.scale)
        if self.channels_first:
            pixels = pixels.transpose(0, 2, 3, 1)
        pixels = pixels.reshape(len(pixels), *self.shape[:2], -1)
        return np.ascontiguousarray(np.broadcast_to(pixels, (len(pixels), *self.shape)))


def as_dataset(data, classes: Iterable[str] | None = None):
    """That of a NumPy pair (images, labels); what is no pair is taken for a data set. classes: where they are known."""
    if not isinstance(data, tuple | list):
        return data
    if len(data) != 2:
        raise DataError(f"expected a data set, or a pair of arrays (images, labels), got {len(data)}: give a pair")
    return assemble({None: {"images": np.asarray(data[0]), "labels": np.asarray(data[1])}}, "the pair", classes)[None]


def number_labels(by_part: dict, where: object, classes: Iterable[str] | None = None) -> tuple[dict, tuple[str, ...]]:
    """({part: class numbers (N,)}, the names of the classes) of labels as people store them.

    by_part: {part: names, numbers or one-hot rows}. classes: names to number by; None: all labels that there are. A
    number that is not a class's name counts the classes from 0.
    """
    values = {part: _values(np.asarray(labels), f"{where}, {part or 'labels'}") for part, labels in by_part.items()}
    found = {str(value) for labels in values.values() for value in np.unique(labels)}
    if classes is None:
        classes = sorted(found, key=natural_key)
    classes = tuple(classes)
    unknown = sorted(found - set(classes), key=natural_key)
    numbers = all(labels.dtype.kind in "iu" for labels in values.values())
    if unknown and numbers and all(0 <= int(value) < len(classes) for value in found):
        return {part: labels.astype(np.int64) for part, labels in values.items()}, classes
    if unknown:
        raise DataError(
            f"{where}: expected labels among the classes {listed(classes)}, got also {listed(unknown)}: "
            "use the same classes in every part"
        )
    position = {name: i for i, name in enumerate(classes)}
    numbered = {}
    for part, labels in values.items():
        names, inverse = np.unique(labels, return_inverse=True)
        numbered[part] = np.array([position[str(name)] for name in names], np.int64)[inverse.reshape(-1)]
    return numbered, classes


def _values(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels as integers or texts (N,)."""
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)
    if labels.ndim == 2 and labels.dtype.kind in "uifb":
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise DataError(f"{where}: expected one class an image, got rows of {labels.shape[1]} numbers: choose one")
        labels = labels.argmax(axis=1)
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (np.abs(labels) < 2**53).all():
        labels = labels.astype(np.int64) if (labels == np.rint(labels)).all() else labels
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.ndim != 1 or labels.dtype.kind not in "iubU":
        raise DataError(
            f"{where}: expected labels (N,), class numbers or names, got {labels.dtype} {labels.shape}: convert them"
        )
    return labels.astype(np.int64) if labels.dtype.kind == "b" else labels


def assemble(by_part: dict, where: object, classes=None, *, flip_ok: bool = False) -> dict[str | None, Dataset]:
    """{part: data set} of {part: {"images": array, "labels": array, maybe "classes": names}}; None: not split."""
    for part, arrays in by_part.items():
        if missing := {"images", "labels"} - set(arrays):
            raise DataError(f"{where}: {part or 'it'} has no {missing.pop()}: {_KEYS}")
    named = next((a["classes"] for a in by_part.values() if "classes" in a), None)
    if classes is None and named is not None:
        classes = _values(_whole(named), f"{where}, class names").tolist()
    labels, classes = number_labels({part: _whole(a["labels"]) for part, a in by_part.items()}, where, classes)
    return {
        part: StoredImages(
            arrays["images"], labels[part], classes, f"{where}, {part}" if part else f"{where}", flip_ok=flip_ok
        )
        for part, arrays in by_part.items()
    }


def by_names(arrays: dict, where: object) -> dict:
    """{part: {role: array}} of {name: array}, by what the names say; DataError where that is nothing or not clear."""
    found = defaultdict(dict)
    for name, array in arrays.items():
        part, rest = part_of(name)
        said = [word for word in rest if word not in ("set", "list")]
        role = (
            _ROLE.get(name.lower()) or _ROLE.get(" ".join(said)) or next((_ROLE[w] for w in said if w in _ROLE), None)
        )
        if role is None:
            continue
        if role in found[part]:
            raise DataError(f"{where}: two arrays for the {part or ''} {role}: keep one".replace("  ", " "))
        found[part][role] = array
    names = found.pop(None, {}) if set(found.get(None, ())) == {"classes"} and len(found) > 1 else {}
    found = {part: arrays for part, arrays in found.items() if arrays}
    if not found and any("." in name for name in arrays):
        remedy = f"`minires weights import {where} --out MODEL.h5` takes weights"
        raise DataError(f"{where}: {_KEYS}, got the weights {listed(arrays, 3)}: {remedy}")
    if not found:
        raise DataError(f"{where}: {_KEYS}, got {listed(arrays)}: rename them")
    if None in found and len(found) > 1:
        raise DataError(f"{where}: arrays of parts ({listed(p for p in found if p)}) and others: name all or none")
    next(iter(found.values())).update(names)
    return found


def by_files(files: Iterable[Path], read: Callable, where: object) -> dict:
    """{part: {role: array}} of files that hold named arrays; one that names no parts is the part of its own name."""
    found = {}
    for path in files:
        held = by_names(read(path), path)
        if set(held) == {None}:
            held = {part_of(path.stem)[0]: held[None]}
        if twice := set(held) & set(found):
            raise DataError(f"{where}: two files hold the {twice.pop() or 'images'}, one is {path.name}: give one")
        found |= held
    if None in found and len(found) > 1:
        raise DataError(f"{where}: files of parts and others: give the one that is meant")
    return found


def _whole(array) -> np.ndarray:
    return array[np.arange(len(array))] if isinstance(array, Rows) else np.asarray(array)


def read_npy(path: Path):
    """The array of a `.npy` file, left there: `Rows`, or one in memory where its order is Fortran's."""
    with understood(path, "a NumPy array"), path.open("rb") as raw:
        return _stored(raw, path, path.stat().st_size, path)


def read_npz(path: Path) -> dict:
    """{name: array} of a `.npz` file: left there, or unpacked to a temporary file; the checksums are compared."""
    arrays = {}
    with understood(path, "NumPy arrays (.npz)"), zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        check_claim(sum(member.file_size for member in archive.infolist()), path.stat().st_size, path)
        for member in archive.infolist():
            with archive.open(member) as packed:
                if member.compress_type == zipfile.ZIP_STORED:
                    for _ in pieces(packed):  # to its end, where the checksum is compared
                        pass
                    raw.seek(member.header_offset + 26)
                    raw.seek(sum(np.frombuffer(raw.read(4), "<u2").tolist()), 1)  # the name, and what comes after it
                    opened, source = raw, path
                else:
                    opened = source = spill(pieces(packed), member.file_size, path)
                    source.seek(0)
                name = member.filename.removesuffix(".npy")
                arrays[name] = _stored(opened, source, opened.tell() + member.file_size, path)
    return arrays


def is_npz(path: Path) -> bool:
    """Whether a zip holds nothing but arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises almost anything on damaged archives
        return path.suffix.lower() == ".npz"
    return bool(names) and all(name.endswith(".npy") for name in names)


def load_npz(files: Iterable[Path], where: Path, classes=None) -> dict[str | None, Dataset]:
    """The parts that `.npz` files hold, by the names of their arrays, or of the files."""
    return assemble(by_files(files, read_npz, where), where, classes)


def load_npy(files: Iterable[Path], where: Path, classes=None) -> dict[str | None, Dataset]:
    """The parts that the `.npy` files of a folder hold, by their names: x_train.npy, y_train.npy, or X.npy, Y.npy."""
    return assemble(by_names({path.stem: read_npy(path) for path in files}, where), where, classes)


def _stored(raw, source, end: int, path: Path):
    """The array whose `.npy` begins where the open file `raw` stands and ends by `end`."""
    version = np.lib.format.read_magic(raw)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read(raw)
    if dtype.hasobject or dtype.itemsize == 0 or dtype.names:
        raise DataError(
            f"{path}: expected an array of numbers or texts, got {dtype}: nothing is unpickled; store numbers"
        )
    needed, there = math.prod(shape) * dtype.itemsize, end - raw.tell()
    if shape == () and needed <= there:
        return np.frombuffer(raw.read(needed), dtype).reshape(())
    if not shape or min(shape) < 0 or needed > there:
        raise DataError(
            f"{path}: an array {shape} of {dtype} takes {needed:,} bytes, {there:,} are there: write it again"
        )
    if fortran and len(shape) > 1:
        return np.frombuffer(raw.read(needed), dtype).reshape(shape, order="F")
    return Rows(source, raw.tell(), shape, dtype, name=str(path))
