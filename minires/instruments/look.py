"""A first look at a data set: how many images of what, which odd ones, and which test images training sees too.

Two images count as the same where the differences between neighbouring pixels of their grey thumbnails point the same
way: cosine >= ALIKE over the 480 differences of 16x16 pixels, a difference hash (N. Krawetz, "Kind of Like That", 2013)
whose bits keep their size. tests/instruments/test_look.py measures it on the built-in signs and on the Sign Language
Digits at 64x64, which are all different: no pair counts as the same, and copies as JPEG of quality 50, darker by a
fifth, or scaled to 60 % and back are found. Copies that are cropped, turned or mirrored are not.
"""

import hashlib
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from PIL import Image

from minires.data import Dataset, Parts
from minires.data.dataset import chunks
from minires.errors import DataError

ALIKE = 0.96  # from this cosine on
SIDE = 16  # pixels of a thumbnail
_FLAT = 2  # grey levels between the darkest and the lightest pixel of an image of one colour
_USUAL = 0.9  # the share of files that has to have a size, or a mode, for the others to be odd


@dataclass
class Seen:
    """What reading a part showed of each image; digests are b"" where one cannot be read."""

    data: Dataset
    names: list[str]
    digests: list[bytes]
    low: np.ndarray  # (N,) the darkest and the lightest number of each image
    high: np.ndarray
    flat: np.ndarray  # (N,) whether it is of one colour
    bad: list[tuple[int, str]] = field(default_factory=list)  # (position, what reading it raised)


@dataclass
class Look:
    """What `look` found. alike: (part, image, other part, image, cosine); odd: {what: names of images}."""

    parts: Parts
    alike: list[tuple[str, str, str, str, float]] = field(default_factory=list)
    odd: dict[str, list[str]] = field(default_factory=dict)
    bad: dict[str, set[int]] = field(default_factory=dict)  # positions of images that cannot be read, by part
    seen: dict[str, Seen] = field(default_factory=dict)  # by part

    def counts(self) -> dict[str, dict[str, int]]:
        """{part: {class: images}}."""
        return {
            name: dict(zip(part.classes, np.bincount(part.labels, minlength=len(part.classes)).tolist(), strict=True))
            for name, part in self.parts.named().items()
        }

    def as_dict(self) -> dict:
        parts = {
            name: {"source": part.source, "images": len(part), "shape": part.shape, "classes": counts}
            for (name, part), counts in zip(self.parts.named().items(), self.counts().values(), strict=True)
        }
        keys = ("part", "image", "other part", "other image", "cosine")
        return {
            "read as": self.parts.notes,
            "parts": parts,
            "alike": [dict(zip(keys, pair, strict=True)) for pair in self.alike],
            "odd": self.odd,
        }


def look(parts: Parts) -> Look:
    """Read every image of all parts once: see `Look`."""
    found, thumbs = Look(parts), {}
    for name, part in parts.named().items():
        names = _names(part, name)
        thumbs[name] = _read(part, names, name, found)
        for what, odd in _odd_files(part.paths() or []).items():
            found.odd.setdefault(what, []).extend(map(str, odd))
    for one, other in combinations(thumbs, 2):
        names = _names(parts.named()[one], one), _names(parts.named()[other], other)
        for i, j, cosine in _alike(thumbs[one], thumbs[other]):
            found.alike.append((other, names[1][j], one, names[0][i], cosine))
    return found


def _names(part: Dataset, name: str) -> list[str]:
    paths = part.paths()
    return [f"{name} image {i}" for i in range(len(part))] if paths is None else [str(path) for path in paths]


def _read(part: Dataset, names: list[str], name: str, found: Look) -> np.ndarray:
    """What is compared of each image (N, 480); zeros for flat ones and those that cannot be read, which are noted."""
    n = len(part)
    thumbs = np.zeros((n, 2 * SIDE * (SIDE - 1)), np.float32)
    seen = Seen(part, names, [b""] * n, *np.zeros((2, n), np.uint8), np.zeros(n, bool))
    found.seen[name] = seen
    for position, image in _each(part, names, name, found):
        seen.digests[position] = hashlib.sha256(image.tobytes()).digest()
        seen.low[position], seen.high[position] = image.min(), image.max()
        if int(image.max()) - int(image.min()) <= _FLAT or np.ptp(image, axis=(0, 1)).max() <= _FLAT:
            found.odd.setdefault("of one colour", []).append(names[position])
            seen.flat[position] = True
        else:
            thumbs[position] = differences(image)
    return thumbs


def _each(part, names, name, found):
    """(position, image) of every image that can be read."""
    for index in chunks(len(part)):
        try:
            yield from zip(index, part.images(index), strict=True)
        except DataError:
            for position in index:
                try:
                    image = part.images(np.array([position]))[0]
                except DataError as error:
                    found.seen[name].bad.append((int(position), str(error)))
                    found.odd.setdefault("not readable", []).append(names[position])
                    found.bad.setdefault(name, set()).add(int(position))
                else:
                    yield position, image


def differences(image: np.ndarray) -> np.ndarray:
    """The differences (480,) between neighbours in the grey thumbnail of an image (H, W, 3), of length 1."""
    grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(grey, np.float32)
    found = np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()])
    return found / max(np.linalg.norm(found), 1e-6)


def _alike(one: np.ndarray, other: np.ndarray):
    """(i, j, cosine) for each row j of `other` whose nearest row i of `one` counts as the same."""
    best, at = np.full(len(other), -1.0, np.float32), np.zeros(len(other), int)
    for index in chunks(len(one), 1024):
        cosines = other @ one[index].T
        nearest = cosines.argmax(axis=1)
        value = cosines[np.arange(len(other)), nearest]
        better = value > best
        best[better], at[better] = value[better], index[nearest[better]]
    return [(int(at[j]), int(j), round(float(best[j]), 4)) for j in np.flatnonzero(best >= ALIKE)]


def _odd_files(paths) -> dict[str, list]:
    """{what: paths} of files whose size or mode only few have, as their headers say."""
    sizes, modes = {}, {}
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.setdefault("x".join(map(str, image.size)), []).append(path)
                modes.setdefault(image.mode, []).append(path)
        except Exception:  # `_read` tells of these; on damaged files Pillow raises almost anything
            continue
    odd = {}
    for kinds, what in ((sizes, "{} pixels, where most are {}"), (modes, "{}, where most are {}")):
        usual = max(kinds, key=lambda kind: len(kinds[kind]), default=None)
        if usual is not None and len(kinds[usual]) >= _USUAL * len(paths):
            odd |= {what.format(kind, usual): files for kind, files in kinds.items() if kind != usual}
    return odd
