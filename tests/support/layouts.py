"""Files and folders of data as people have them, made small: images of a class have its own colour, and noise."""

import csv
import gzip
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from minires.data import ArrayDataset, write_signs


def pixels(count: int, classes: int = 2, size: int = 8, channels: int = 3, seed: int = 0):
    """(images (N, size, size, channels) uint8, labels (N,)), the labels in turn."""
    rng, labels = np.random.default_rng([seed, count]), np.arange(count) % classes
    return rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8), labels


def images(root: Path, *names: str, count: int = 2, ending: str = ".png") -> Path:
    """`count` image files in each of the folders `names` below `root`."""
    for number, name in enumerate(names):
        for i in range(count):
            path = root / name / f"{i}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(1, seed=1000 * number + i)[0][0]).save(path, _FORMATS.get(ending))
    return root


_FORMATS = {".jfif": "JPEG", ".jpe": "JPEG", "": "PNG"}


def flat(root: Path, *names: str) -> Path:
    """Image files of these names."""
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(pixels(1, seed=number)[0][0]).save(root / name)
    return root


def table(path: Path, rows, delimiter=",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def idx(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def mnist(root: Path, ending: str = "", prefix: str = "") -> Path:
    for part, count in (("train", 6), ("t10k", 4)):
        images, labels = pixels(count, size=28, channels=1)
        idx(root / f"{prefix}{part}-images-idx3-ubyte{ending}", images[..., 0])
        idx(root / f"{prefix}{part}-labels-idx1-ubyte{ending}", labels)
    return root


def cifar(root: Path, protocol: int = 2, hundred: bool = False) -> Path:
    """As CIFAR's authors pickled it; protocol 2 with the names that Python 2 and old NumPy wrote."""
    root.mkdir(parents=True, exist_ok=True)
    files = {"train": 6, "test": 4} if hundred else {"data_batch_1": 3, "data_batch_2": 3, "test_batch": 4}
    for name, count in files.items():
        images, labels = pixels(count, size=32)
        key = b"fine_labels" if hundred else b"labels"
        batch = {
            b"data": images.transpose(0, 3, 1, 2).reshape(count, -1),
            key: labels.tolist(),
            b"filenames": [b"x.png"],
        }
        content = pickle.dumps(batch, protocol)
        (root / name).write_bytes(content.replace(b"cnumpy._core", b"cnumpy.core"))
    names = {b"fine_label_names": [b"apple", b"bear"]} if hundred else {b"label_names": [b"airplane", b"automobile"]}
    (root / ("meta" if hundred else "batches.meta")).write_bytes(pickle.dumps(names, protocol))
    return root


def cifar_bytes(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, count in {"data_batch_1": 3, "data_batch_2": 3, "test_batch": 4}.items():
        images, labels = pixels(count, size=32)
        rows = images.transpose(0, 3, 1, 2).reshape(count, -1)
        (root / f"{name}.bin").write_bytes(np.hstack([labels[:, None].astype(np.uint8), rows]).tobytes())
    (root / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    return root


def npz(path: Path, parts: dict, compressed: bool = True, images: str = "x", labels: str = "y") -> Path:
    """{part: count} as x_train, y_train, ...; the part "" without its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count in parts.items():
        end = f"_{part}" if part else ""
        arrays[f"{images}{end}"], arrays[f"{labels}{end}"] = pixels(count)
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def npy(root: Path, images: str = "X", labels: str = "Y") -> Path:
    """As Kaggle has the Sign Language Digits: grey floats in 0..1 and one-hot rows."""
    root.mkdir(parents=True, exist_ok=True)
    x, y = pixels(8, channels=1)
    np.save(root / f"{images}.npy", (x[..., 0] / 255).astype(np.float32))
    np.save(root / f"{labels}.npy", np.eye(2)[y])
    return root


def svhn(root: Path, *names: str, write=None) -> Path:
    """X (32, 32, 3, N) and y (N, 1) in 1..10, in MATLAB's format 5, or by `write`."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        images, labels = pixels(20, classes=10, size=32)
        (write or _savemat)(root / name, images.transpose(1, 2, 3, 0), (labels[:, None] + 1).astype(np.uint8))
    return root


def _savemat(path, X, y):
    from scipy.io import savemat

    savemat(path, {"X": X, "y": y}, do_compression=True)


def mat_hdf5(path, X, y):
    """MATLAB 7.3: HDF5 with the order of the indices turned, behind 512 bytes of its own."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("X", data=X.transpose(), compression="gzip")
        file["y"] = y.transpose()
    with path.open("rb+") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def signs(path: Path, **counts: int) -> Path:
    """HDF5 in the SIGNS layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {part: ArrayDataset(*pixels(count), ("0", "1")) for part, count in counts.items()}
    write_signs(path, parts.get("train"), parts.get("test"), parts.get("validation"))
    return path
