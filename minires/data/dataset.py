"""The one interface that training, evaluation and the lessons use for images.

A data set is labels in memory and images on demand: uint8, NHWC, RGB.
"""

import hashlib
import operator
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from minires.data.packed import Layout
from minires.errors import DataError
from minires.ranges import RANGES

_CHUNK = 256  # images read at a time by whole-set passes


class Dataset:
    """Images with class labels; subclasses fill the attributes and say how images are read.

    labels   int64 (N,), each an index into `classes`
    classes  names of the classes
    source   where the images come from, for people to read
    shape    (H, W, 3) of every image
    flip_ok  whether a mirrored image keeps its class
    layout   how images lie that are read several at a time; None where any order is as good
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    source: str
    shape: tuple[int, int, int]
    flip_ok: bool
    layout: Layout | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source}: {len(self)} images {self.shape} of {self.classes}>"

    def images(self, index: np.ndarray) -> np.ndarray:
        """Images (n, H, W, 3) uint8 at the positions `index` (n,), in that order, repeats allowed."""
        raise NotImplementedError

    def paths(self) -> list[Path] | None:
        """The file of each image, in order; None where images have no files of their own."""
        return None

    def read_from(self) -> Iterable[Path] | None:
        """The files that the images are read from, and maybe further ones beside them; None where nobody knows."""
        return self.paths()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of class names, shape, labels and all pixels in order, read in chunks.

        Equal fingerprints mean equal data, wherever it is stored. Read once; an object's data do not change.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr((self.classes, self.shape, len(self))).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for index in chunks(len(self)):
            digest.update(self.images(index).tobytes())
        return digest.hexdigest()


class ArrayDataset(Dataset):
    """A data set in memory: images (N, H, W, 3) uint8, labels (N,). Raises DataError if they do not fit."""

    def __init__(self, images, labels, classes, *, source: str = "memory", flip_ok: bool = False):
        self._images = np.asarray(images)
        self.source = source
        self.classes = tuple(map(str, classes))
        self.shape = check_images(self._images.shape, self._images.dtype, source)
        if self._images.dtype != np.uint8:
            raise DataError(f"{source}: expected uint8 images, got {self._images.dtype}: convert to 0..255")
        self.labels = check_labels(labels, len(self._images), self.classes, source)
        self.flip_ok = flip_ok

    def images(self, index):
        return self._images[np.asarray(index, dtype=np.intp)]


class Subset(Dataset):
    """The images of `dataset` at the positions `index` (n,), in that order; nothing is copied. source: if another."""

    def __init__(self, dataset: Dataset, index: np.ndarray, source: str = ""):
        self.dataset = dataset
        self.index = np.asarray(index, dtype=np.int64)
        if self.index.size == 0:
            raise DataError(f"{dataset.source}: expected a subset of at least one image, got none")
        if self.index.min() < 0 or self.index.max() >= len(dataset):
            raise DataError(f"{dataset.source}: subset positions must be in 0..{len(dataset) - 1}")
        self.labels = dataset.labels[self.index]
        self.classes, self.source = dataset.classes, source or dataset.source
        self.shape, self.flip_ok = dataset.shape, dataset.flip_ok
        self.layout = dataset.layout and dataset.layout.of(self.index)

    def images(self, index):
        return self.dataset.images(self.index[np.asarray(index, dtype=np.intp)])

    def paths(self):
        paths = self.dataset.paths()
        return paths and [paths[i] for i in self.index]

    def read_from(self):
        return self.dataset.read_from()


class Renumbered(Dataset):
    """`dataset` with its classes, which have the same names, numbered in the order of `classes`."""

    def __init__(self, dataset: Dataset, classes: tuple[str, ...]):
        self.dataset, self.classes = dataset, tuple(classes)
        self.labels = np.array([self.classes.index(name) for name in dataset.classes], np.int64)[dataset.labels]
        self.source, self.shape, self.flip_ok = dataset.source, dataset.shape, dataset.flip_ok
        self.layout = dataset.layout

    def images(self, index):
        return self.dataset.images(index)

    def paths(self):
        return self.dataset.paths()

    def read_from(self):
        return self.dataset.read_from()


class Resized(Dataset):
    """`dataset` with every image resized to `size` (H, W) when it is read; bilinear, antialiased."""

    def __init__(self, dataset: Dataset, size: tuple[int, int]):
        self.dataset = dataset
        self.labels, self.classes = dataset.labels, dataset.classes
        self.source, self.flip_ok = dataset.source, dataset.flip_ok
        self.shape = (*size, 3)
        self.layout = dataset.layout

    def paths(self):
        return self.dataset.paths()

    def read_from(self):
        return self.dataset.read_from()

    def images(self, index):
        height, width, _ = self.shape
        out = np.empty((len(index), *self.shape), np.uint8)
        for row, image in zip(out, self.dataset.images(index), strict=True):
            row[:] = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        return out


def facts_of(dataset: Dataset, looks: int = 8) -> dict:
    """What tells two data sets apart without reading them: classes, shape, a checksum of the labels and some images."""
    some = np.linspace(0, len(dataset) - 1, min(looks, len(dataset))).astype(int)
    sums = zlib.crc32(dataset.labels.tobytes()), zlib.crc32(dataset.images(some).tobytes())
    facts = {"images": len(dataset), "shape": dataset.shape, "classes": dataset.classes, "checksums": sums}
    return facts | {"read in the order of": order_of(dataset)}


def order_of(dataset: Dataset) -> str:
    """What an epoch's order depends on beside seed and epoch: on how images lie that are packed and many, else ""."""
    return str(dataset.layout) if dataset.layout and dataset.layout.matters else ""


def chunks(count: int, size: int = _CHUNK):
    """Index arrays that walk over 0..count-1 in order, `size` at a time."""
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a side or a pair; DataError unless both are what ranges.py says of a size."""
    try:
        height, width = (size, size) if np.ndim(size) == 0 else size
        height, width = operator.index(height), operator.index(width)
    except (TypeError, ValueError):
        raise DataError(f"image size: expected a side or (height, width) in pixels, got {size!r}") from None
    side = RANGES["size"]
    if not (side.holds(height) and side.holds(width)):
        raise DataError(f"image size: expected {side.words} pixels each way, got {height}x{width}")
    return height, width


def check_images(shape: tuple[int, ...], dtype: np.dtype, source: str) -> tuple[int, int, int]:
    """(H, W, 3) of an image array; DataError unless it is (N, H, W, 3) of uint8 or floats, not empty."""
    if len(shape) != 4 or shape[3] != 3:
        raise DataError(
            f"{source}: expected images of shape (N, H, W, 3), got {tuple(shape)}: store RGB, channels last"
        )
    if shape[0] == 0:
        raise DataError(f"{source}: expected at least one image, got none")
    if 0 in shape:
        raise DataError(f"{source}: expected images with pixels, got shape {tuple(shape)}")
    if dtype != np.uint8 and dtype.kind != "f":
        raise DataError(
            f"{source}: expected images of uint8, or floats in 0..1 or 0..255, got {dtype}: convert to uint8"
        )
    return tuple(map(int, shape[1:]))


def check_labels(labels, count: int, classes: tuple[str, ...], source: str) -> np.ndarray:
    """Labels as int64 (count,), from (N,), (1, N) or (N, 1); DataError unless they fit images and classes."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)
    if labels.ndim != 1:
        raise DataError(f"{source}: expected labels of shape (N,), got {labels.shape}: store class numbers")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{source}: expected integer labels, got {labels.dtype}: store class numbers from 0")
    if len(labels) != count:
        raise DataError(f"{source}: expected one label an image, got {len(labels)} for {count} images")
    bad = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if bad.size:
        raise DataError(
            f"{source}: expected labels in 0..{len(classes) - 1} ({len(classes)} classes), got "
            f"{labels[bad[0]]} at index {bad[0]}: correct the labels or list all classes"
        )
    return labels.astype(np.int64)
