"""MNIST's format, idx, packed by gzip or not: http://yann.lecun.com/exdb/mnist, "the IDX file format".

0 0 8 D   D big-endian sizes of four bytes   bytes, the last index fastest        images D = 3 or 4, labels D = 1
"""

import gzip
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minires.data.arrays import assemble
from minires.data.dataset import Dataset
from minires.data.names import listed, part_of
from minires.data.rows import Rows, check_claim, pieces, spill, understood
from minires.errors import DataError

_WHAT = "an idx file (MNIST's format)"
_GZIP = b"\x1f\x8b"
_USUAL = {"image", "images", "label", "labels", "idx", "ubyte", "gz"}


def is_idx(path: Path) -> bool:
    """Whether it begins as images or labels of bytes do."""
    with path.open("rb") as raw:
        head = raw.read(4)
    if head.startswith(_GZIP):
        try:
            with gzip.open(path) as packed:
                head = packed.read(4)
        except Exception:  # gzip raises almost anything on damaged files
            return path.suffix.lower() == ".gz" and "idx" in path.name.lower()
    return head in (b"\0\0\x08\x01", b"\0\0\x08\x03", b"\0\0\x08\x04")


def read_idx(path: Path) -> Rows:
    """The array of a file, left there, or unpacked to a temporary file; its header is held against what is there."""
    with understood(path, _WHAT), path.open("rb") as raw:
        packed = raw.peek(2).startswith(_GZIP)
        with gzip.open(raw) if packed else raw as opened:
            head = opened.read(4)
            sizes = opened.read(4 * head[3])
            shape = tuple(np.frombuffer(sizes, ">u4").tolist())
            needed, size, start = math.prod(shape), path.stat().st_size, 4 + len(sizes)
            if len(shape) != head[3] or not shape:
                raise EOFError("it ends within its header")
            if packed:
                check_claim(needed, size, path)
                return Rows(spill(pieces(opened), needed, path), 0, shape, name=str(path))
    if needed != size - start:
        raise DataError(f"{path}: expected {needed:,} bytes for {shape}, got {size - start:,}: download it again")
    return Rows(path, start, shape)


def load_idx(files: Iterable[Path], where: Path, classes=None, like: Path | None = None) -> dict[str | None, Dataset]:
    """The parts of a set of files: images and labels are paired by their names. like: one of the set that is meant."""
    sets = defaultdict(lambda: defaultdict(dict))
    for path in files:
        part, rest = part_of(path.name)
        family = tuple(word for word in rest if word not in _USUAL)
        if like is None or family == tuple(word for word in part_of(like.name)[1] if word not in _USUAL):
            array = read_idx(path)
            role = "labels" if len(array.shape) == 1 else "images"
            if role in sets[family][part]:
                raise DataError(f"{where}: two files hold the {part or ''} {role}, one is {path.name}: keep one")
            sets[family][part][role] = array
    if len(sets) > 1:
        raise DataError(f"{where}: several sets ({listed(map(' '.join, sets))}): give a file of the one that is meant")
    return assemble(sets.popitem()[1], where, classes)
