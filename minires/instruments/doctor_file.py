"""Is a file what was written? A checkpoint, weights, data, or a picture: sealed and whole, damaged, or of others.

A file of minires has a checksum of all its bytes. Of any other file it is said what was looked at: nothing can tell
whether a number in it was another one.
"""

import os
from pathlib import Path

import numpy as np

from minires.data import read_image
from minires.data.dataset import chunks
from minires.data.hdf5 import open_hdf5
from minires.data.images import EXTENSIONS
from minires.data.signs import SignsDataset
from minires.errors import CheckpointError
from minires.instruments.findings import Finding
from minires.seal import sealed
from minires.train.checkpoint import load_checkpoint, spoilt
from minires.weights import read
from minires.weights.archives import file_kind
from minires.weights.mapping import implausible

RUN_FILES = ("model.h5", "best.h5")


def examine(path: str | os.PathLike):
    """Findings on a file, or on the checkpoints of a run's folder; raises MiniresError for what is damaged."""
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in RUN_FILES if (path / name).exists()]
        if not files:
            raise CheckpointError(f"{path}: no {' or '.join(RUN_FILES)} in this folder: give a file, or a run's folder")
    else:
        files = [path]
    for file in files:
        yield from _examine(file)


def _examine(path: Path):
    what, problems = _look(path)
    for problem in problems:
        yield Finding(path.name, "warn", problem, "compare the file with its source")
    if sealed(path):
        yield Finding(path.name, "ok", f"sealed and whole: every byte is the one that was written; {what}")
    else:
        detail = f"no seal of minires, so a changed number cannot be told; {what}"
        yield Finding(path.name, "warn", detail, "compare the file's checksum with its source's, where there is one")


def _look(path: Path) -> tuple[str, list[str]]:
    """What the file is and what was looked at; and what is odd about it."""
    if path.suffix.lower() in EXTENSIONS:
        height, width, _ = read_image(path).shape
        return f"a picture of {width}x{height} pixels, decoded", []
    if path.suffix == ".onnx" or file_kind(path) == ".onnx":
        return "an ONNX network, not opened", []
    if file_kind(path) or path.suffix == ".keras":
        return _weights(read(path), path)
    with open_hdf5(path, "a checkpoint, weights or data") as file:
        keys, checkpoint = set(file), "minires" in file.attrs
    if checkpoint:
        model = load_checkpoint(path).classifier.model
        return f"a checkpoint of {model.title}, {model.classes} classes, all weights finite", []
    parts = [part for part in ("train", "test") if f"{part}_set_x" in keys]
    if not parts:
        return _weights(read(path), path)
    sets = [SignsDataset(path, part) for part in parts]
    for part in sets:
        for index in chunks(len(part)):
            part.images(index)
    return f"data, {', '.join(f'{len(s):,} images' for s in sets)} of {len(sets[0].classes)} classes, all read", []


def _weights(found, path: Path) -> tuple[str, list[str]]:
    floats = {name: array for name, array in found.arrays.items() if array.dtype.kind == "f"}
    for name, array in floats.items():
        if problem := spoilt(name, array):
            raise CheckpointError(f"{path}: {found.origin[name]} {problem}: use another copy of the file")
    odd = [f"{found.origin[name]} {what}" for name, array in floats.items() if (what := implausible(name, array))]
    numbers = int(np.sum([array.size for array in floats.values()]))
    return f"{found.kind}, {len(floats)} arrays of {numbers:,} finite numbers, no variance negative", odd
