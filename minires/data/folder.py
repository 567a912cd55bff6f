"""Folders of images: found, split and decoded on demand.

Two layouts: one folder a class (`cat/1.jpg`), or flat with the class before the last underscore (`cat_1.jpg`). Either
may lie in folders of parts (`train/cat/1.jpg`).
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minires.data.dataset import Dataset, Subset, as_size, check_labels
from minires.data.images import EXTENSIONS, is_image, read_image
from minires.data.names import PARTS, listed, natural_key, part_of, split_names
from minires.errors import DataError
from minires.files import atomic_path, refused
from minires.ranges import check

_HIDDEN = (".", "__MACOSX")


class Pictures(Dataset):
    """Images that are decoded when they are read, one by one, by `decoded`.

    They stay in memory up to `cache_bytes`, so that a small set is decoded once.
    """

    def __init__(self, cache_bytes: int = 256 * 2**20):
        self._cache: dict[int, np.ndarray] = {}
        self._cache_limit = cache_bytes // int(np.prod(self.shape))

    def decoded(self, position: int) -> np.ndarray:
        """The image (H, W, 3) at a position; a damaged one is named."""
        raise NotImplementedError

    def images(self, index):
        out = np.empty((len(index), *self.shape), np.uint8)
        for row, position in zip(out, map(int, index), strict=True):
            pixels = self._cache.get(position)
            if pixels is None:
                pixels = self.decoded(position)
                # an epoch reads every image once, so keeping the first ones serves as well as the latest
                if len(self._cache) < self._cache_limit:
                    self._cache[position] = pixels
            row[:] = pixels
        return out


class ImageFiles(Pictures):
    """Image files below `root`, resized to `size` (side or (H, W)) when read; `files`: (path relative to it, class).

    DataError for a class that is not among `classes`.
    """

    def __init__(self, root: Path, files, size=64, *, classes, name="", flip_ok=False, cache_bytes: int = 256 * 2**20):
        self.root, self.source, self.flip_ok = Path(root), name or str(root), flip_ok
        self.shape, self.classes = (*as_size(size), 3), tuple(classes)
        position = {label: i for i, label in enumerate(self.classes)}
        unknown = sorted({label for _, label in files} - set(position), key=natural_key)
        if unknown:
            raise DataError(
                f"{self.source}: expected the classes {listed(self.classes)}, got also "
                f"{listed(map(repr, unknown))}: use the same class names in every part"
            )
        self.files = tuple(file for file, _ in files)
        self.labels = check_labels([position[label] for _, label in files], len(files), self.classes, self.source)
        super().__init__(cache_bytes)

    def paths(self):
        return list(self.read_from())

    def read_from(self):
        return (self.root / file for file in self.files)

    def decoded(self, position):
        return read_image(self.root / self.files[position], self.shape[:2])


class ImageFolder(ImageFiles):
    """The images under `root`, by class: one folder each, or, flat, before the last underscore of the name.

    Hidden files and files that are no images are left out and counted by their kind in `skipped`, which `source` tells.
    Images are ordered by class (natural order: 2 before 10), then by path, the same on every platform;
    `files` are their paths relative to `root`, with forward slashes. Other `classes` than those found may be given, as
    a test folder needs the training folder's.

    Raises DataError for a folder without images, for names without a class and for a class without images (where
    `classes` are given, `source` tells of it).
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
        root = Path(root)
        by_class, empty, self.skipped = _scan(root)
        found = sorted(by_class, key=natural_key)
        if empty and classes is None:
            raise DataError(
                f"{root / empty[0]}: expected images of a class ({', '.join(sorted(EXTENSIONS))}), got none: "
                f"put some in, remove the folder, or leave it out by the name .{empty[0]}"
            )
        files = [(file, name) for name in found for file in by_class[name]]
        options = {"flip_ok": flip_ok, "cache_bytes": cache_bytes}
        super().__init__(root, files, size, classes=found if classes is None else classes, **options)
        missing = [name for name in self.classes if name not in by_class]
        notes = [f"left out: {counted(self.skipped)}"] if self.skipped else []
        notes += [f"none of {', '.join(missing)}"] if missing else []
        if notes:
            self.source += f" ({'; '.join(notes)})"


def load_folder(
    root: str | os.PathLike, *, size: int | tuple[int, int] = 64, classes: Iterable[str] | None = None
) -> tuple[dict[str | None, Dataset], list[str]]:
    """({part: data set}, lines on what was taken for what) of an image folder; the part None where it is not split.

    Parts are folders of their own (train/cat/1.jpg, by any usual name) or lie in each class's (cat/train/1.jpg).
    DataError where two readings are as likely.
    """
    root = Path(root)
    below = [folder.name for folder in _folders(root) if has_images(folder)]
    named = split_names(below)
    others = [name for name in below if name not in named]
    by_part = {part: [name for name in named if named[name] == part] for part in named.values()}
    if others and not ("train" in by_part and all(_has_classes(root / name, 2) for name in by_part["train"])):
        lines = [f"{root / name} is taken for a class, like {listed(others, 3)} beside it" for name in named]
        by_part = {}
    else:
        lines = [f"{root / name} is left out: beside {listed(named)} it is no part of the data" for name in others]
    for part, names in by_part.items():
        if len(names) > 1:
            raise DataError(f"{root}: several folders for the {part} part ({', '.join(names)}): keep or name one")
    if not by_part:
        return _by_classes(root, size, classes), lines
    found: dict[str | None, Dataset] = {}
    for part in (part for part in PARTS if part in by_part):
        folder = root / by_part[part][0]
        if part != "train" and not _has_classes(folder):
            lines.append(f"{folder} is left out: its images have no classes, so nothing can be measured on them")
            continue
        found[part] = ImageFolder(_inner(folder), size, classes=classes)
        classes = found[part].classes
    if not found:
        raise DataError(
            f"{root}: expected a folder a class in {listed(named)}, got none: put the images of each in one"
        )
    if set(found) == {"train"}:  # nothing is held out yet
        found = {None: found["train"]}
    return found, lines


def wrapped(root: Path, classes=None) -> Path | None:
    """The one folder in `root` that holds all the data, as in archive/photos/cat; None where it holds them itself."""
    folders = _folders(root)
    below = [path for path in folders if has_images(path)] or folders
    if len(below) != 1 or split_names([below[0].name]) or below[0].name in (classes or ()):
        return None
    if any(path.is_file() and is_image(path) for path in root.iterdir()):
        return None
    inner = [path.name for path in _folders(below[0]) if has_images(path)]
    holds = len(inner) > 1 or split_names(inner) or not has_images(root) or wrapped(below[0], classes)
    return below[0] if holds else None


def _by_classes(root: Path, size, classes) -> dict[str | None, Dataset]:
    """A folder of classes, split where each of them holds folders of parts."""
    whole = ImageFolder(root, size, classes=classes)
    inner = [file.split("/")[1] if file.count("/") > 1 else "" for file in whole.files]
    named = split_names(inner)
    if set(inner) != set(named):
        return {None: whole}
    parts = np.array([named[name] for name in inner])
    return {part: Subset(whole, np.flatnonzero(parts == part), f"{root}/*/{part}") for part in PARTS if part in parts}


def _folders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, in natural order."""
    found = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(_HIDDEN)]
    return sorted(found, key=lambda path: natural_key(path.name))


def has_images(root: Path) -> bool:
    """Whether an image lies anywhere below."""
    return any(_found(root))


def _found(root: Path):
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        yield from (Path(place) / name for name in names if not name.startswith(".") and is_image(Path(place) / name))


def _inner(folder: Path) -> Path:
    """`folder`, or the one in it that holds all, as in seg_train/seg_train."""
    below = [path for path in _folders(folder) if has_images(path)]
    twin = len(below) == 1 and part_of(below[0].name) == part_of(folder.name) and part_of(folder.name)[0]
    return below[0] if twin else folder


def _has_classes(folder: Path, least: int = 1) -> bool:
    """Whether images lie in so many folders there, or all are named with one of so many classes."""
    folder = _inner(folder)
    flat = {class_in(path.name) for path in _found(folder)}
    return sum(map(has_images, _folders(folder))) >= least or ("" not in flat and len(flat) >= least)


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


def class_in(name: str) -> str:
    """The class that a file's name says: before its last underscore, else before a number; "" for none.

    cat_1.jpg, cat_a.jpg, cat.1.jpg, cat-1.jpg and 'cat (1).jpg' are all 'cat'.
    """
    stem = Path(name).stem
    said = stem.rpartition("_")[0] or (re.fullmatch(r"(.*?\w)(?:[ .-]+\d+| ?\(\d+\))", stem) or [""] * 2)[1]
    return said.strip()


def counted(kinds: Counter) -> str:
    """'3 .heic, 1 .txt': the commonest first."""
    return ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items(), key=lambda each: (-each[1], each[0])))


def _scan(root: Path) -> tuple[dict[str, list[str]], list[str], Counter]:
    """Relative paths of the images of each class, sorted; classes without one; how many of each kind were left out."""
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, but there is no such folder: check the path")
    images, skipped, classes = [], Counter(), []

    def closed(error):
        raise refused(error.errno, error.filename, "read")

    for place, folders, names in os.walk(root, followlinks=True, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith(_HIDDEN)]
        classes = classes or [*folders]
        for name in names:
            if name.startswith("."):
                skipped["hidden"] += 1
            elif is_image(Path(place) / name):
                images.append((Path(place) / name).relative_to(root).as_posix())
            else:
                skipped[Path(name).suffix or "without an ending"] += 1
    if not images:
        found = f" ({counted(skipped)})" if skipped else ""
        raise DataError(
            f"{root}: expected images ({', '.join(sorted(EXTENSIONS))}), got none among {skipped.total()} files"
            f"{found}: put one folder a class here"
        )
    nested = [file for file in images if "/" in file]
    by_class: dict[str, list[str]] = {}
    for file in sorted(nested or images):
        name = file.partition("/")[0] if nested else class_in(file)
        if not name:
            raise DataError(
                f"{root / file}: expected a class before the last underscore, as in cat_1.jpg: "
                "rename it, or put one folder a class"
            )
        by_class.setdefault(name, []).append(file)
    if nested and len(nested) < len(images):
        skipped["beside the classes' folders"] = len(images) - len(nested)
    empty = sorted(set(classes) - set(by_class), key=natural_key) if nested else []
    return by_class, empty, skipped
