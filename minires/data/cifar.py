"""CIFAR-10 and CIFAR-100 as they are distributed, in Python's pickles or in plain bytes; as images (N, 3, 32, 32).

https://www.cs.toronto.edu/~kriz/cifar.html: `data_batch_1` to `_5`, `test_batch`, `batches.meta`, or `train`, `test`,
`meta`; in bytes `data_batch_1.bin` ..., a record one label (CIFAR-100: coarse, fine) and 3,072 pixels. Of CIFAR-100 the
fine labels count.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minires.data.arrays import StoredImages, number_labels
from minires.data.dataset import Dataset
from minires.data.names import natural_key, part_of
from minires.data.pickled import read_pickle
from minires.data.rows import Joined, Rows
from minires.errors import DataError

_WHAT = "a batch of CIFAR"
_PIXELS = 3 * 32 * 32
_CLASSES = {1: 10, 2: 100}  # by the labels that an image has


def is_batch(path: Path) -> bool:
    """Whether a file begins and ends as a pickle of a dictionary does, or is made of such records."""
    with path.open("rb") as raw:
        head = raw.read(2)
        end = raw.seek(-1, 2) and raw.read(1) if len(head) == 2 else b""
    return (head in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5", b"(d") and end == b".") or label_bytes(path) > 0


def label_bytes(path: Path) -> int:
    """How many labels stand before each image in a file of such records; 0 for any other file."""
    size = path.stat().st_size
    for labels, classes in _CLASSES.items():
        if path.suffix.lower() == ".bin" and size and size % (labels + _PIXELS) == 0:
            first = Rows(path, 0, (min(64, size // (labels + _PIXELS)), labels), stride=labels + _PIXELS)
            found = first[np.arange(len(first))]
            if found[:, -1].max() < classes and (labels == 1 or found[:, 0].max() < 20):
                return labels
    return 0


def load_cifar(files: Iterable[Path], where: Path, classes=None) -> dict[str | None, Dataset]:
    """The parts of a folder's files: batches joined in their order; `test` or `test_batch` is the test part."""
    parts, names = defaultdict(list), None
    for path in sorted(files, key=lambda path: natural_key(path.name)):
        if path.suffix.lower() == ".bin":
            parts[part_of(path.stem)[0] or "train"].append(_read_bytes(path))
            continue
        batch = read_pickle(path, _WHAT)
        if "data" in batch:
            parts[part_of(path.name)[0] or "train"].append(_batch(batch, path))
        else:
            said = batch.get("fine_label_names", batch.get("label_names"))
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in said] if isinstance(said, list) else names
    if not parts:
        raise DataError(f"{where}: {_WHAT} has 'data' and 'labels', but only a description is there: get the batches")
    names = names or _names_beside(where if where.is_dir() else where.parent)
    labels, known = number_labels(
        {part: np.concatenate([labels for _, labels in batches]) for part, batches in parts.items()}, where
    )
    if names and known[-1].isdecimal() and int(known[-1]) < len(names):
        labels = {part: np.array([int(known[i]) for i in numbers]) for part, numbers in labels.items()}
        known = tuple(names)
    if classes is not None:
        labels, known = number_labels(
            {part: np.array(known)[numbers] for part, numbers in labels.items()}, where, classes
        )
    return {
        part: StoredImages(
            Joined(pixels for pixels, _ in batches), labels[part], known, f"{where}, {part}", flip_ok=True
        )
        for part, batches in parts.items()
    }


def _batch(batch: dict, path: Path):
    data, labels = batch["data"], batch.get("fine_labels", batch.get("labels"))
    fits = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (_PIXELS,)
    if not fits or not isinstance(labels, list | np.ndarray) or len(labels) != len(data):
        raise DataError(
            f"{path}: expected {_WHAT}, 'data' (N, 3072) of uint8 and as many 'labels', got {', '.join(batch)[:80]}: "
            "give another file"
        )
    if not all(isinstance(label, int) and 0 <= label < 1000 for label in labels):
        raise DataError(f"{path}: expected {_WHAT} with class numbers as labels: download it again")
    return data.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def _read_bytes(path: Path):
    labels = label_bytes(path)
    if not labels:
        raise DataError(f"{path}: expected {_WHAT}, records of 3,073 or 3,074 bytes, got others: download it again")
    count, record = path.stat().st_size // (labels + _PIXELS), labels + _PIXELS
    found = Rows(path, labels - 1, (count, 1), stride=record)[np.arange(count)][:, 0]
    return Rows(path, labels, (count, 3, 32, 32), stride=record), found.astype(np.int64)


def _names_beside(folder: Path) -> list[str] | None:
    """The class names that lie beside batches of bytes."""
    for path in (folder / "fine_label_names.txt", folder / "batches.meta.txt"):
        if path.is_file() and path.stat().st_size < 10_000:
            return path.read_text(errors="replace").split()
    return None
