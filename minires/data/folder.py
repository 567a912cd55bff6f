"""Folders of images: found, split, decoded on demand, and converted to one HDF5 file.

Two layouts: one folder a class (`cat/1.jpg`), or flat with the class before the last underscore
(`cat_1.jpg`).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minires.data.dataset import Dataset, Subset, as_size, check_labels
from minires.data.images import EXTENSIONS, read_image
from minires.data.signs import write_signs
from minires.errors import DataError
from minires.files import atomic_path, refused
from minires.ranges import check

_HELD_OUT_NAMES = ("test", "val", "valid", "validation")


class ImageFolder(Dataset):
    """The images under `root`, resized to `size` (side or (H, W)) when read.

    Hidden files and files that are no images by their extension are left out and counted in `skipped`.
    Images are ordered by class (natural order: 2 before 10), then by path, the same on every platform;
    `files` are their paths relative to `root`, with forward slashes. Decoded images stay in memory up to
    `cache_bytes`, so that a small set is decoded once. Other `classes` than those found may be given, as a
    test folder needs the training folder's.

    Raises DataError for a folder without images, for names without a class and for a class without images (where
    `classes` are given, `source` tells of it); a damaged image is named when it is read.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        size: int | tuple[int, int] = 64,
        *,
        classes: Iterable[str] | None = None,
        flip_ok: bool = False,
        cache_bytes: int = 256 * 2**20,
    ):
        self.root = Path(root)
        self.shape = (*as_size(size), 3)
        self.flip_ok = flip_ok
        by_class, empty, self.skipped = _scan(self.root)
        found = sorted(by_class, key=natural_key)
        if empty and classes is None:
            raise DataError(
                f"{self.root / empty[0]}: expected images of a class ({', '.join(sorted(EXTENSIONS))}), got none: "
                f"put some in, remove the folder, or leave it out by the name .{empty[0]}"
            )
        self.classes = tuple(found if classes is None else classes)
        unknown = [name for name in found if name not in self.classes]
        if unknown:
            raise DataError(
                f"{self.root}: expected the classes {', '.join(self.classes)}, got also '{unknown[0]}': "
                "use the same class names in every part"
            )
        self.files = tuple(file for name in found for file in by_class[name])
        labels = [self.classes.index(name) for name in found for _ in by_class[name]]
        self.labels = check_labels(labels, len(self.files), self.classes, str(self.root))
        notes = [f"{self.skipped} other file{'s' * (self.skipped > 1)} skipped"] if self.skipped else []
        notes += [f"none of {', '.join(empty)}"] if empty else []
        self.source = f"{self.root} ({', '.join(notes)})" if notes else f"{self.root}"
        self._cache: dict[int, np.ndarray] = {}
        self._cache_limit = cache_bytes // int(np.prod(self.shape))

    def images(self, index):
        out = np.empty((len(index), *self.shape), np.uint8)
        for row, position in zip(out, map(int, index), strict=True):
            pixels = self._cache.get(position)
            if pixels is None:
                pixels = read_image(self.root / self.files[position], self.shape[:2])
                # an epoch reads every image once, so keeping the first ones serves as well as the latest
                if len(self._cache) < self._cache_limit:
                    self._cache[position] = pixels
            row[:] = pixels
        return out


def load_folder(
    root: str | os.PathLike, *, size: int | tuple[int, int] = 64, seed: int = 0, test_fraction: float = 0.15
) -> tuple[Dataset, Dataset | None]:
    """Training and test part of an image folder: its own train/ and test/ (or val/), else a stratified split.

    The test part is None when `test_fraction` is 0.
    """
    root = Path(root)
    held_out = [root / name for name in _HELD_OUT_NAMES if (root / name).is_dir()]
    if (root / "train").is_dir() and held_out:
        train = ImageFolder(root / "train", size)
        return train, ImageFolder(held_out[0], size, classes=train.classes)
    whole = ImageFolder(root, size)
    train_index, test_index = stratified_split(whole.labels, test_fraction, seed)
    return Subset(whole, train_index), Subset(whole, test_index) if test_index.size else None


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (train, test), each increasing, with `fraction` of every class in the test part.

    The choice within a class depends on `seed`, the class and its size only. A class of at least two images
    has one or more in both parts, unless `fraction` is 0. Raises ConfigError unless 0 <= fraction < 1.
    """
    check(test_fraction=fraction, split_seed=seed)
    labels = np.asarray(labels)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng([seed, int(label)]).permutation(len(members))
        count = min(max(round(fraction * len(members)), 1), len(members) - 1) if fraction else 0
        chosen[members[order[:count]]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def write_split(
    path: str | os.PathLike,
    folder: ImageFolder,
    train_index: np.ndarray,
    test_index: np.ndarray,
    *,
    seed: int,
    fraction: float,
) -> None:
    """Write a split down as JSON: file names of each part, seed, fraction and the files' content hash."""
    table = {
        "format": "minires-split-1",
        "seed": seed,
        "fraction": fraction,
        "content_sha256": content_hash(folder.root, folder.files),
        "train": [folder.files[i] for i in train_index],
        "test": [folder.files[i] for i in test_index],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_split(path: str | os.PathLike, folder: ImageFolder) -> tuple[np.ndarray, np.ndarray]:
    """Positions (train, test) in `folder` of a split that `write_split` wrote.

    Raises DataError where the file is no split, names a file that `folder` lacks, or the images' content
    has changed since.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        names, expected = (table["train"], table["test"]), table["content_sha256"]
    except OSError as error:
        raise DataError(f"{path}: expected a split, but it cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: expected a split written by minires (JSON), got something else") from None
    position = {file: i for i, file in enumerate(folder.files)}
    missing = [name for part in names for name in part if name not in position]
    if missing:
        raise DataError(
            f"{path}: expected the file {missing[0]} in {folder.root}, but it is not there "
            f"({len(missing)} missing): restore it or split anew"
        )
    if content_hash(folder.root, folder.files) != expected:
        raise DataError(f"{path}: the images in {folder.root} are not those that were split: split anew")
    return tuple(np.array([position[name] for name in part], dtype=np.int64) for part in names)


def content_hash(root: str | os.PathLike, files: Iterable[str]) -> str:
    """SHA-256 (hex) of one line `<SHA-256 of the file>  <relative path>` a file, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        with (Path(root) / file).open("rb") as opened:
            digest.update(f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {file}\n".encode())
    return digest.hexdigest()


def convert(
    directory: str | os.PathLike,
    out: str | os.PathLike,
    *,
    size: int | tuple[int, int] = 64,
    seed: int = 0,
    test_fraction: float = 0.15,
    flip_ok: bool = False,
) -> Path:
    """Convert an image folder to one HDF5 file in the SIGNS layout; returns its path.

    Images are decoded and written in chunks, so the folder may be larger than memory; `out` appears only
    when it is complete. Raises DataError as `load_folder` and `write_signs` do.
    """
    out = Path(out)
    if out.suffix.lower() not in (".h5", ".hdf5"):
        raise DataError(f"{out}: expected a file name that ends in .h5 or .hdf5: add the ending")
    whole = ImageFolder(directory, size, flip_ok=flip_ok, cache_bytes=0)
    train_index, test_index = stratified_split(whole.labels, test_fraction, seed)
    write_signs(out, Subset(whole, train_index), Subset(whole, test_index) if test_index.size else None)
    return out


def natural_key(name: str) -> tuple:
    """Sorting key that puts "2" before "10"; equal numbers ("1", "01") by spelling."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if i % 2 else (0, part.casefold()) for i, part in enumerate(parts)], name


def _scan(root: Path) -> tuple[dict[str, list[str]], list[str], int]:
    """Relative paths of the images of each class, sorted; classes without one; how many other files were left out."""
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, but there is no such folder: check the path")
    images, skipped, classes = [], 0, []

    def closed(error):
        raise refused(error.errno, error.filename, "read")

    for place, folders, names in os.walk(root, followlinks=True, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        classes = classes or [*folders]
        for name in names:
            if name.startswith(".") or Path(name).suffix.lower() not in EXTENSIONS:
                skipped += 1
            else:
                images.append((Path(place) / name).relative_to(root).as_posix())
    if not images:
        raise DataError(
            f"{root}: expected images ({', '.join(sorted(EXTENSIONS))}), got none among {skipped} files: "
            "put one folder a class here"
        )
    nested = [file for file in images if "/" in file]
    by_class: dict[str, list[str]] = {}
    for file in sorted(nested or images):
        name, separator, _ = file.partition("/") if nested else Path(file).stem.rpartition("_")
        if not separator or not name:
            raise DataError(
                f"{root / file}: expected a class before the last underscore, as in cat_1.jpg: "
                "rename it, or put one folder a class"
            )
        by_class.setdefault(name, []).append(file)
    empty = sorted(set(classes) - set(by_class), key=natural_key) if nested else []
    return by_class, empty, skipped + len(images) - sum(map(len, by_class.values()))
