"""MATLAB's `.mat`, as SVHN comes in: X (H, W, 3, N) and y (N,). Of version 7.3, which is HDF5, or older ones by scipy.

http://ufldl.stanford.edu/housenumbers, format 2. Its label 10 is the digit 0.
"""

import importlib.util
import math
from pathlib import Path

import h5py
import numpy as np

from minires.data.arrays import assemble, by_files
from minires.data.dataset import Dataset, chunks
from minires.data.hdf5 import open_hdf5
from minires.data.probe import in_child
from minires.data.rows import Rows, check_claim, spill, understood
from minires.errors import DataError

_WHAT = "a MATLAB file of images X (H, W, 3, N) and labels y"


def is_mat(path: Path) -> bool:
    """Whether it says so in its first bytes."""
    with path.open("rb") as raw:
        return raw.read(10) in (b"MATLAB 5.0", b"MATLAB 7.3", b"MATLAB 7.0")


def load_mat(files, where: Path, classes=None) -> dict[str | None, Dataset]:
    """The parts of a set of files, each one part by its name (train_32x32.mat), or whole."""
    by_part = by_files(files, _read, where)
    for arrays in by_part.values():
        labels = arrays.get("labels")
        if labels is not None and np.array_equal(np.unique(labels), np.arange(1, 11)):
            arrays["labels"] = np.asarray(labels) % 10
    return assemble(by_part, where, classes)


def _read(path: Path) -> dict:
    with path.open("rb") as raw:
        return (_read_hdf5 if raw.read(10) == b"MATLAB 7.3" else _read_old)(path)


def _read_old(path: Path) -> dict:
    """{name: array}, in memory. scipy's reader may ask for more of it than there is: a child process tries first."""
    if importlib.util.find_spec("scipy") is None:
        raise DataError(f"{path}: a MATLAB file needs the package scipy: pip install 'minires[mat]'")
    from scipy.io import whosmat

    size = path.stat().st_size
    with understood(path, _WHAT):
        held = {name: shape for name, shape, kind in whosmat(path) if kind not in ("cell", "struct", "object")}
        claimed = sum(math.prod(shape) for shape in held.values())
        check_claim(claimed, size, path)
        limits = {"seconds": 10 + claimed / 10**7, "memory": 2**30 + 3 * claimed}
        in_child(lambda path, _: _load(path, held), path, size, **limits)
        return _load(path, held)


def _load(path: Path, names) -> dict:
    from scipy.io import loadmat

    with understood(path, _WHAT):
        found = loadmat(path, variable_names=list(names))
    return {name: _images_first(found[name]) for name in names if isinstance(found.get(name), np.ndarray)}


def _images_first(array: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) of SVHN's (H, W, 3, N)."""
    return array.transpose(3, 0, 1, 2) if array.ndim == 4 and array.shape[2] in (1, 3) else array


def _read_hdf5(path: Path) -> dict:
    arrays = {}
    with open_hdf5(path, _WHAT) as file:
        for name, stored in file.items():
            if not isinstance(stored, h5py.Dataset) or stored.shape is None or stored.dtype.kind not in "uif":
                continue
            if stored.ndim == 4:  # MATLAB's (H, W, 3, N) as HDF5 has it: (N, 3, W, H)
                arrays[name] = _unpacked(stored, path)
            elif stored.ndim <= 2:
                arrays[name] = stored[()]
    return arrays


def _unpacked(stored: h5py.Dataset, path: Path) -> Rows:
    N, C, W, H = stored.shape
    rows = (np.ascontiguousarray(stored[i[0] : i[-1] + 1].transpose(0, 3, 2, 1)) for i in chunks(N))
    return Rows(spill(rows, stored.size * stored.dtype.itemsize, path), 0, (N, H, W, C), stored.dtype, name=str(path))
