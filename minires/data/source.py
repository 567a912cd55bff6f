"""From a name to a data set: what lies there, by its content, and which of it trains, chooses the epoch, and tests.

load_parts("photos/")       training, validation and test part, and lines that say what was taken for what
load("photos/")             training and test part
"""

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minires.data import arrays, cifar, folder, idx, mat, sharding, signs, synthetic, table, tars
from minires.data.dataset import Dataset, Renumbered, Resized, Subset, as_size
from minires.data.names import listed, natural_key, reordered
from minires.errors import ConfigError, DataError
from minires.ranges import check

_SETS = ("npy", "idx", "cifar")  # of several files each
_DEPTH = 4  # folders in one another that hold nothing else
_ROLES = {"train": "", "validation": ", which choose the epoch", "test": ", reported at the end"}


@dataclass(frozen=True)
class Parts:
    """The parts of a data set; None for one that there is not.

    validation  chooses the epoch (the best one, early stopping), so that the test part is looked at once, at the end;
                without it the test part does both
    notes       lines on what was taken for what
    """

    train: Dataset | None
    test: Dataset | None = None
    validation: Dataset | None = None
    notes: tuple[str, ...] = ()

    def named(self) -> dict[str, Dataset]:
        """{name: part} of those that there are, in the order of their use."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in found.items() if part is not None}


def load(spec: str | os.PathLike, **options) -> tuple[Dataset | None, Dataset | None]:
    """Training and test part of the data that `spec` names; options and errors as in `load_parts`."""
    parts = load_parts(spec, **options)
    return parts.train, parts.test


def load_parts(
    spec: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    test_fraction: float = 0.15,
    flip_ok: bool | None = None,
    whole: bool = False,
    classes: Iterable[str] | None = None,
) -> Parts:
    """The parts of the data that `spec` names, each in its own order, with lines on what was taken for what.

    spec   "builtin": drawn hand signs, always the same 1,080 + 120
           a folder of images: one folder a class, or CLASS_anything.jpg, maybe in folders train, validation, test
           a table of `file,label` (.csv), or a folder that holds one
           HDF5 in the SIGNS layout, one file or a train/test pair; CIFAR-10 and -100; MNIST's idx; .npz, .npy, .mat;
           of those in several files the folder, or any of the files
           tar files of images and labels, as WebDataset has them: "train-{000..099}.tar", a folder of them, or one
           HDF5 in several files: signs-000-of-010.h5 ..., the folder, any of them, or "signs-{000..009}.h5", "*.h5"
    size   side or (height, width) in pixels; None keeps what is stored (image files: 64)
    seed, test_fraction  how data without parts are split: that share of each class for the test; whole: not at all,
           all is the test part
    flip_ok  overrides whether a mirrored image keeps its class (builtin, SIGNS, CIFAR: yes; others: no)
    classes  those of a network that the data are for; None: what is there

    A validation part without a test part plays the test part's role. Raises DataError for a path or data that cannot be
    used.
    """
    size = None if size is None else as_size(size)
    classes = None if classes is None else tuple(classes)
    found, notes = _found(spec, size, classes)
    if None in found:
        everything = found.pop(None)
        if whole:
            found["test"] = everything
            notes.append(f"{everything.source}: not split, all {len(everything):,} images are the test part")
        else:
            index = dict(
                zip(("train", "test"), folder.stratified_split(everything.labels, test_fraction, seed), strict=True)
            )
            found |= {part: Subset(everything, at) for part, at in index.items() if at.size}
            notes.append(
                f"{everything.source}: not split, so {test_fraction:.0%} of each class is the test part (seed {seed})"
            )
    elif "validation" in found and "test" not in found:
        found["test"] = found.pop("validation")
        notes.append(f"{found['test'].source}: there is no test part, so this validation part plays its role")
    order = tuple(classes or ())
    if said := next(filter(None, (reordered(data.classes, order) for data in found.values() if order)), ""):
        notes.append(f"the network's classes come in another order ({said}): they were renumbered by their names")
        found = {part: Renumbered(data, order) if data.classes != order else data for part, data in found.items()}
    found = {part: _finish(data, size, flip_ok, part) for part, data in found.items()}
    parts = Parts(**{"train": None} | found, notes=())
    return Parts(**{"train": None} | found, notes=(*notes, *_said(parts.named())))


def _said(parts: dict[str, Dataset]) -> list[str]:
    """What each part is, and the classes that not all of them have."""
    alone = "validation" not in parts
    roles = _ROLES | ({"test": ""} if alone else {})
    kinds = {"train": "training"}
    each = (f"{len(part):,} {kinds.get(name, name)} images{roles[name]}: {part.source}" for name, part in parts.items())
    lines = ["; ".join(each)]
    have = {name: set(np.unique(part.labels).tolist()) for name, part in parts.items()}
    for name, part in parts.items():
        missing = sorted(set().union(*have.values()) - have[name])
        if missing:
            lines.append(f"no {kinds.get(name, name)} images of {listed(part.classes[i] for i in missing)}")
    return lines


def _found(spec, size, classes) -> tuple[dict[str | None, Dataset], list[str]]:
    """({part: data}, lines); the part None is of data that are not split."""
    if str(spec) == "builtin":
        return dict(zip(("train", "test"), synthetic.make_signs(), strict=True)), []
    if sharding.is_pattern(spec):
        return _several(sharding.matching(spec), spec, size, classes)
    path = Path(spec).expanduser()
    if files := sharding.family(path):
        return _several(files, path, size, classes)
    if not path.exists():
        raise DataError(f"{spec}: no such file or folder: give 'builtin', a file of data (.h5, .npz ...) or a folder")
    if path.is_dir():
        if (path / "model.h5").is_file() and (path / "manifest.json").is_file():
            raise DataError(f"{spec}: expected data, but it is a run's folder: name it where a command asks for RUN")
        return _in_folder(path, size, classes)
    if not path.is_file():
        raise DataError(f"{spec}: expected a file or a folder, got a device or a pipe: give the data themselves")
    kind = _kind(path)
    if kind in ("npz", "mat", "tar"):
        return _of_kind(kind, [path], path, size, classes), []
    if kind in _SETS:  # the labels, or the other parts, lie beside it
        beside = [file for file in _files(path.parent) if _kind(file) == kind]
        return _of_kind(kind, beside, path.parent, size, classes, like=path), []
    if path.suffix.lower() in table.SUFFIXES:
        return table.load_tables([path], size or 64, classes), []
    return signs.read_signs(path), []


def _several(files: list[Path], spec, size, classes) -> tuple[dict[str | None, Dataset], list[str]]:
    """The data of files that are named together."""
    for path in files:
        if not path.is_file():
            raise DataError(f"{spec}: expected files, but {path} is none: correct the pattern")
    kinds = {_kind(path) for path in files}
    if kinds == {"tar"}:
        return tars.load_tars(files, spec, size, classes), []
    if kinds <= {"hdf5", None}:  # what minires wrote begins with its seal
        return signs.read_shards(files, str(spec)), [f"{files[0]} and {len(files) - 1} more are what is read of {spec}"]
    raise DataError(
        f"{spec}: expected tar files or HDF5 in the SIGNS layout, all of one kind, got "
        f"{listed(sorted(kind or 'others' for kind in kinds))}: name files of one kind"
    )


def is_there(spec: str) -> bool:
    """Whether there is something of this name to load."""
    path = Path(spec)
    return spec == "builtin" or path.exists() or sharding.is_pattern(spec) or bool(sharding.family(path))


def _in_folder(path: Path, size, classes, depth: int = 0) -> tuple[dict[str | None, Dataset], list[str]]:
    if files := sharding.one_of(sharding.families(path), path):
        return _several(files, path, size, classes)
    if (pair := signs.find_in(path)) is not None:
        return signs.read_signs(pair), []
    if tables := table.tables_in(path):
        return table.load_tables(tables, size or 64, classes), [f"{listed(tables)} says which image is what"]
    pictures = folder.has_images(path)
    kinds = {}
    for file in [] if pictures else _files(path):
        if (kind := _kind(file)) not in (None, "hdf5"):
            kinds.setdefault(kind, []).append(file)
    if len(kinds) > 1:
        raise DataError(
            f"{path}: expected data of one kind, got files of {' and '.join(kinds)}: give the file that is meant"
        )
    for kind, files in kinds.items():
        return _of_kind(kind, files, path, size, classes), []
    inner = folder.wrapped(path, classes)
    if inner is None or depth == _DEPTH:
        return folder.load_folder(path, size=size or 64, classes=classes)
    found, lines = _in_folder(inner, size, classes, depth + 1)
    return found, [f"{inner} is what is read of {path}", *lines]


def _files(path: Path) -> list[Path]:
    return [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]


def _kind(path: Path) -> str | None:
    """What a file is by its first bytes: hdf5, idx, npy, npz, mat, cifar or tar; None for all else."""
    with path.open("rb") as raw:
        head = raw.read(10)
    if head.startswith(b"PK\x03\x04"):
        return "npz" if arrays.is_npz(path) else None
    if head.startswith(b"\x89HDF"):
        return "hdf5"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    tests = {"tar": tars.is_tar, "idx": idx.is_idx, "mat": mat.is_mat, "cifar": cifar.is_batch}
    return next((kind for kind, test in tests.items() if test(path)), None)


def _of_kind(
    kind: str, files: list[Path], where: Path, size, classes, like: Path | None = None
) -> dict[str | None, Dataset]:
    if kind == "tar":
        return tars.load_tars(sorted(files, key=lambda path: natural_key(path.name)), where, size, classes)
    if kind == "idx":
        return idx.load_idx(files, where, classes, like)
    if kind == "cifar":
        return cifar.load_cifar(files, where, classes)
    if kind == "mat":
        return mat.load_mat(files, where, classes)
    if kind == "npy":
        return arrays.load_npy(files, where, classes)
    return arrays.load_npz(files, where, classes)


def _finish(part: Dataset, size: tuple[int, int] | None, flip_ok: bool | None, name: str) -> Dataset:
    present = np.unique(part.labels)
    if name == "train" and len(present) < 2:
        raise DataError(
            f"{part.source}: expected images of at least two classes to train on, got only "
            f"'{part.classes[present[0]]}': add images of another class"
        )
    if size not in (None, part.shape[:2]):
        part = Resized(part, size)
    if flip_ok is not None:
        part = copy.copy(part)
        part.flip_ok = flip_ok
    return part


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    test_fraction: float = 0.15,
    flip_ok: bool | None = None,
    compression: str = "gzip",
    shards: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Convert whatever `load_parts` reads to HDF5 in the SIGNS layout; returns `out`, by which it is loaded again.

    Images are read and written in chunks, so they may be larger than memory; a file appears only when it is complete.
    compression: "gzip" or "lzf", in chunks of whole images; "none": one image after the other.
    shards: in so many files, out-000-of-010.h5 ..., an equal share of each part in every one; those that are there,
    whole and made from the same data, are kept: what was ended in the middle goes on there.
    tell: called with each line on what was taken for what. Raises DataError as `load_parts` and `write_signs` do,
    ConfigError for another compression, and for more files than images.
    """
    out = Path(out)
    if out.suffix.lower() not in (".h5", ".hdf5"):
        raise DataError(f"{out}: expected a file name that ends in .h5 or .hdf5: add the ending")
    if compression not in signs.COMPRESSIONS:
        raise ConfigError(f"compression: expected {', '.join(signs.COMPRESSIONS)}, got {compression!r}")
    if shards:
        check(shards=shards)
    parts = load_parts(source, size=size, seed=seed, test_fraction=test_fraction, flip_ok=flip_ok)
    for line in parts.notes:
        tell(line)
    named = parts.named()
    if (most := max(map(len, named.values()))) < shards:
        raise ConfigError(f"shards: expected at most as many files as images, {most:,}, got {shards:,}")
    sharding.write(out, named, shards, compression, sharding.stamp(named) if shards else "", tell)
    return out
