"""Tar files of images and their classes, as WebDataset has them; read where they lie, nothing is extracted.

000123.jpg  an image        000123.cls  its class, a number or a name        000123.json  or a field `label` in it

What has the same name, up to the first dot behind the last slash, belongs together. The names of numbered classes may
stand beside the tars: classes.txt, a line a class, or classes.json. T. Breuel, "WebDataset", 2020.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from minires.data.arrays import number_labels
from minires.data.dataset import Dataset, as_size, check_labels
from minires.data.folder import Pictures, counted
from minires.data.images import EXTENSIONS, MAX_BYTES, decode_image
from minires.data.kinds import described
from minires.data.names import PARTS, listed, part_of
from minires.data.rows import pieces, understood
from minires.errors import DataError

_WHAT = "a tar of images and their classes"
_FIELDS = ("label", "cls", "class", "target")  # of a .json, the first that is there
_MOST = 2**20  # bytes of a label
_SAID = "write NAME.jpg, and NAME.cls with its class or NAME.json with its label"


class TarImages(Pictures):
    """Images inside tar files, resized to `size` when read: that at a position lies in paths[tar] at `start`.

    tar, start, length  (N,) of each image: which file, its first byte in it, its bytes; labels (N,) class numbers
    """

    def __init__(self, paths: Sequence[Path], tar, start, length, labels, size=64, *, classes, name: str):
        self._paths, self._tar, self._start, self._length = tuple(paths), tar, start, length
        self.source, self.classes, self.flip_ok = name, tuple(classes), False
        self.shape = (*as_size(size), 3)
        self.labels = check_labels(labels, len(start), self.classes, name)
        super().__init__()

    def read_from(self):
        return list(self._paths)

    def decoded(self, position):
        path, start, length = self._paths[self._tar[position]], int(self._start[position]), int(self._length[position])
        with path.open("rb", buffering=0) as raw:
            raw.seek(start - tarfile.BLOCKSIZE)
            head, content = raw.read(tarfile.BLOCKSIZE), raw.read(length)
        name = head[:100].partition(b"\0")[0].decode(errors="replace")  # of a long one, what tar keeps of it there
        if len(content) != length:
            raise DataError(f"{path}: {name!r}: expected {length:,} bytes, got {len(content):,}: has the file changed?")
        return decode_image(content, f"{path}: {name!r}", self.shape[:2])


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, by its content; by its name where it is an old one, or none."""
    with path.open("rb") as raw:
        return raw.read(262)[257:] == b"ustar" or path.suffix.lower() == ".tar"


def load_tars(files: list[Path], where: object, size=64, classes: Iterable[str] | None = None) -> dict:
    """{part: data set} of tar files, by the files' names (train-000.tar, val-000.tar); None where they say nothing.

    classes: names to number by; None: those beside the tars, else all that there are. Members that are no images and
    no labels are left out, which `source` tells.

    Raises DataError, naming file and member, for an image without a class or of two, two members of one name, links,
    names that lead out of the archive, a file that is truncated or damaged, and images that have no readable class.
    """
    said = {path: part_of(path.stem)[0] for path in files}
    if len({part is None for part in said.values()}) > 1:
        none = next(path for path in files if said[path] is None)
        raise DataError(f"{where}: the names of some files say a part, as train, but {none.name} does not: name all")
    by_part, skipped = {}, {}
    for path in files:
        found, left_out = _index(path)
        if found:
            by_part.setdefault(said[path], []).append((path, *_columns(found)))
            skipped.setdefault(said[path], Counter()).update(left_out)
    if not by_part:
        raise DataError(f"{where}: expected {_WHAT}, got no image in {len(files)} files: {_SAID}")
    labels = {part: np.concatenate([_alike(each[3], found) for each in found]) for part, found in by_part.items()}
    labels, classes = number_labels(labels, where, _names_beside(files[0].parent) if classes is None else classes)
    sets: dict[str | None, Dataset] = {}
    for part in (part for part in (None, *PARTS) if part in by_part):
        paths, starts, lengths, _ = zip(*by_part[part], strict=True)
        name = f"{where}, {part}" if part and len(by_part) > 1 else str(where)
        name += f" (left out: {counted(skipped[part])})" if skipped[part] else ""
        tar = np.repeat(np.arange(len(paths), dtype=np.int32), [len(each) for each in starts])
        places = np.concatenate(starts), np.concatenate(lengths)
        sets[part] = TarImages(paths, tar, *places, labels[part], size or 64, classes=classes, name=name)
    return {None: sets["train"]} if set(sets) == {"train"} else sets  # nothing is held out yet


def _columns(found: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(starts, lengths, labels) of the images of one file; labels as numbers where all are."""
    starts, lengths, labels = zip(*found.values(), strict=True)
    numbers = all(label.isascii() and label.isdecimal() and len(label) < 10 for label in labels)
    return np.array(starts, np.int64), np.array(lengths, np.int32), np.array(labels, np.int64 if numbers else str)


def _alike(labels: np.ndarray, found: list) -> np.ndarray:
    """As texts, where those of any file are."""
    return labels if all(each[3].dtype.kind == "i" for each in found) else labels.astype(str)


def _index(path: Path) -> tuple[dict[str, tuple[int, int, str]], Counter]:
    """({name: (start, length, label)} of the images of a tar in their order, how many other members of each kind)."""
    images, labels, skipped = {}, {}, Counter()
    with path.open("rb") as raw:
        try:
            tarfile.TarInfo.frombuf(raw.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:
            pass  # there is nothing in it
        except tarfile.HeaderError:
            what, remedy = described(path)
            raise DataError(f"{path}: expected {_WHAT}, but it is {what}: {remedy}") from None
        raw.seek(0)
        with understood(path, _WHAT), tarfile.open(fileobj=raw, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # else all that was seen stays in memory
                _take(member, raw, path, images, labels, skipped)
            _check_end(raw, tar.offset, path)
    for name, (member, _, _) in images.items():
        if name not in labels:
            raise DataError(f"{path}: {member!r}: expected its class beside it, in a .cls or .json, got none: {_SAID}")
    if alone := len(labels.keys() - images.keys()):
        skipped["labels without an image"] += alone
    return {name: (start, length, labels[name][1]) for name, (_, start, length) in images.items()}, skipped


def _take(member: tarfile.TarInfo, raw, path: Path, images: dict, labels: dict, skipped: Counter) -> None:
    """Write a member of a tar down as an image, as a label, or as something else."""
    where, inside = f"{path}: {member.name[:200]!r}", PurePosixPath(member.name)
    if member.isdir():
        return
    if inside.is_absolute() or ".." in inside.parts:
        raise DataError(f"{where}: leads out of the archive: write it again with plain names")
    if not member.isreg() or member.issparse():
        raise DataError(f"{where}: expected plain files, got a link, a device or holes: write it again without")
    first, _, ending = inside.name.partition(".")
    name, ending = str(inside.with_name(first)) if first else "", ending.lower()
    if not name or inside.parts[0] == "__MACOSX":
        skipped["hidden"] += 1
    elif f".{ending}" in EXTENSIONS:
        if name in images:
            raise DataError(f"{where}: the second image named {name}, after {images[name][0]!r}: name each once")
        if not 0 < member.size <= MAX_BYTES:
            raise DataError(f"{where}: expected an image of at most {MAX_BYTES:,} bytes, got {member.size:,}: mend it")
        images[name] = member.name, member.offset_data, member.size
    elif ending in ("cls", "json"):
        if member.size > _MOST:
            raise DataError(f"{where}: expected a class, got {member.size:,} bytes: write its number or name")
        raw.seek(member.offset_data)
        label = _label(raw.read(member.size), ending, where)
        if label is None:
            skipped[".json without a label"] += 1
        elif name in labels and labels[name][0] == ending:
            raise DataError(f"{where}: the second .{ending} of {name}: name each once")
        elif name not in labels or ending == "cls":  # which is what WebDataset itself reads as the class
            labels[name] = ending, label
    else:
        skipped[f".{ending}" if ending else "without an ending"] += 1


def _label(content: bytes, ending: str, where: str) -> str | None:
    """The class that a label's file says; None for a .json that says none."""
    try:
        said = content.decode("utf-8-sig").strip()
        if ending == "json":
            fields = json.loads(said)
            found = [fields[name] for name in _FIELDS if name in fields] if isinstance(fields, dict) else [fields]
            if not found:
                return None
            if isinstance(found[0], bool) or not isinstance(found[0], int | str):
                raise ValueError("its label is no number and no name")
            said = str(found[0]).strip()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a class, got {content[:40]!r} ({str(error)[:80]}): correct it") from None
    if not said or "\n" in said or len(said) > 200:
        raise DataError(f"{where}: expected a class's number or name, got {said[:40]!r}: correct it")
    return said


def _check_end(raw, offset: int, path: Path) -> None:
    """DataError unless what is left behind the last member is what ends a tar: zeros, a block of them at least."""
    raw.seek(offset)
    count = 0
    for piece in pieces(raw):
        if piece.count(0) != len(piece):
            raise DataError(f"{path}: what begins at byte {offset:,} is no member of a tar: download or write it again")
        count += len(piece)
    if count < tarfile.BLOCKSIZE:
        raise DataError(f"{path}: truncated, the mark of its end is missing: download or write it again")


def _names_beside(folder: Path) -> tuple[str, ...] | None:
    """The names of the classes that classes.txt or classes.json in a folder tells; None where there is none."""
    for path in (folder / "classes.txt", folder / "classes.json"):
        if not path.is_file():
            continue
        with understood(path, "the names of classes"):
            text = path.read_text("utf-8-sig")
            if path.suffix == ".txt":
                names = [line.strip() for line in text.splitlines() if line.strip()]
            else:
                found = json.loads(text)
                names = [found[str(i)] for i in range(len(found))] if isinstance(found, dict) else found
            if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
                raise DataError(
                    f"{path}: expected a name for each class, got {listed(map(repr, names), 4)}: correct it"
                )
            return tuple(names)
    return None
