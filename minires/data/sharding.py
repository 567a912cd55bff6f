"""A data set in several files: which they are, by a pattern or by their names, and HDF5 written so.

signs-000-of-010.h5 ... signs-009-of-010.h5    a part of each part in every file, as `convert` writes them
train-{000..099}.tar, shards/*.h5               what braces and wildcards stand for
"""

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minires.data import signs
from minires.data.dataset import Dataset, Subset
from minires.data.hdf5 import open_hdf5
from minires.data.in_use import writer_of
from minires.data.names import listed, natural_key
from minires.errors import DataError

MOST = 100_000  # files of one data set
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.h5|\.hdf5)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(spec: str | os.PathLike) -> bool:
    """Whether a name stands for several files: it holds braces or wildcards, and there is no file of that name."""
    return any(sign in str(spec) for sign in "{*?[") and not os.path.lexists(os.path.expanduser(spec))


def matching(spec: str | os.PathLike) -> list[Path]:
    """The files that a pattern stands for: {000..099}, {train,val}, *, ?, [abc]; in natural order, each once.

    Raises DataError for braces that do not fit, more than MOST files, one of a range that is not there, and none.
    """
    found = []
    for name in _spread(os.path.expanduser(spec), spec):
        if any(sign in name for sign in "*?["):
            found += sorted(glob.glob(name), key=natural_key)
        elif not os.path.exists(name):
            raise DataError(f"{spec}: expected the file {name}, but it is not there: restore it, or correct the braces")
        else:
            found.append(name)
    if not found:
        raise DataError(f"{spec}: no such file: correct the pattern")
    return [Path(name) for name in dict.fromkeys(found)]


def _spread(name: str, spec) -> list[str]:
    """The names that braces stand for, as a shell would have it."""
    pieces, counts = _BRACES.split(name), 1
    if "{" in "".join(pieces[::2]) or "}" in "".join(pieces[::2]):
        raise DataError(f"{spec}: expected braces in pairs, as in {{000..099}}: close each one")
    choices = []
    for i, piece in enumerate(pieces):
        choices.append(_choices(piece, spec) if i % 2 else [piece])
        counts *= len(choices[-1])
        if counts > MOST:
            raise DataError(f"{spec}: stands for more than {MOST:,} files: name fewer")
    return ["".join(each) for each in itertools.product(*choices)]


def _choices(inside: str, spec) -> list[str]:
    if found := _RANGE.fullmatch(inside):
        first, last = int(found[1]), int(found[2])
        if not 0 <= last - first < MOST:
            raise DataError(f"{spec}: expected a range of at most {MOST:,} numbers, as 000..099, got {inside}")
        return [f"{number:0{len(found[1])}}" for number in range(first, last + 1)]
    if "," not in inside:
        raise DataError(f"{spec}: expected a range such as 000..099 or names such as train,val in braces: {inside!r}")
    return inside.split(",")


def family(path: Path) -> list[Path]:
    """All files of the data set of which `path` is one, by their names, in order; [] for a file that stands alone.

    path: NAME-000-of-010.h5, or NAME.h5 where only such files are there. DataError where one of them is missing.
    """
    found = _SHARD.fullmatch(path.name)
    if found is None:  # as it was typed for `convert`
        if path.exists() or path.suffix.lower() not in (".h5", ".hdf5") or not path.parent.is_dir():
            return []
        return one_of(families(path.parent, path.stem), path)
    stem, width, count, ending = found[1], len(found[2]), int(found[3]), found[4]
    if not 0 < count <= MOST:
        return []
    files = [path.with_name(f"{stem}-{number:0{width}}-of-{found[3]}{ending}") for number in range(count)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{path.parent}: expected {count} files {stem}-...-of-{found[3]}{ending}, but {listed(missing, 3)} "
            f"{'is' if len(missing) == 1 else 'are'} not there: restore or convert again"
        )
    return files


def families(folder: Path, stem: str = "") -> list[list[Path]]:
    """The files of each data set in `folder` that is in several, by their names; stem: of those called so."""
    shards = [found for path in folder.iterdir() if (found := _SHARD.fullmatch(path.name))]
    kinds = {(found[1], found[3], found[4]): folder / found[0] for found in shards if stem in ("", found[1])}
    return [family(kinds[kind]) for kind in sorted(kinds)]


def one_of(found: list[list[Path]], where: Path) -> list[Path]:
    """The only one of `families`; [] of none, DataError of several."""
    if len(found) > 1:
        named = listed(files[0].name for files in found)
        raise DataError(f"{where}: several data sets, each in several files ({named} ...): give one of their files")
    return found[0] if found else []


def names(out: Path, count: int) -> list[Path]:
    """The files that a data set is written to: `out` alone where count is 0, else out-000-of-010.h5 ..."""
    if not count:
        return [out]
    width = max(3, len(str(count)))
    return [out.with_name(f"{out.stem}-{i:0{width}}-of-{count:0{width}}{out.suffix}") for i in range(count)]


def write(
    out: Path, parts: dict[str, Dataset], count: int, compression: str, made_from: str, tell: Callable[[str], None]
) -> None:
    """Write the parts in so many files, an equal share of each part in every one; those that are there are kept.

    A file is kept that is whole (its seal fits) and was made from the same, `made_from`; so a conversion that was ended
    anyhow goes on where it was.
    """
    files, kept = names(out, count), 0
    for number, file in enumerate(files):
        _remove_unfinished(file)
        share = {}
        for name, part in parts.items():
            here = np.arange(len(part) * number // len(files), len(part) * (number + 1) // len(files))
            share[name] = part if len(files) == 1 else Subset(part, here) if len(here) else None
        stamp = f"{made_from}, {number} of {len(files)}, {compression}"
        if count and _made_from(file) == stamp:
            kept += 1
            continue
        signs.write_signs(file, **{"train": None} | share, compression=compression, made_from=stamp)
    if kept:
        tell(f"{kept} of {count} files were there already, whole and made from the same data: kept")


def _made_from(file: Path) -> str | None:
    """What a whole file was made from; None for one that is not whole, or not there."""
    if not file.is_file():
        return None
    try:
        with open_hdf5(file, "data") as opened:
            return str(opened.attrs.get("made_from"))
    except DataError:
        return None


def _remove_unfinished(file: Path) -> None:
    """What a killed program left of this file, unless somebody is writing it."""
    for remains in file.parent.glob(f".{glob.escape(file.name)}.{'[0-9a-f]' * 8}.tmp"):
        if writer_of(remains) is None:
            remains.unlink(missing_ok=True)


def stamp(parts: dict[str, Dataset]) -> str:
    """SHA-256 (hex) of what is converted, by the sizes and times of its files where they are known, else by its pixels.

    Labels, classes and shapes are in it, and so how the data are split.
    """
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(repr((name, part.classes, part.shape, part.flip_ok)).encode())
        digest.update(part.labels.astype("<i8").tobytes())
        source = part.read_from()
        if source is None:
            digest.update(part.fingerprint().encode())
            continue
        for path in source:
            known = path.stat()
            digest.update(repr((str(path), known.st_size, known.st_mtime_ns)).encode())
    return digest.hexdigest()
