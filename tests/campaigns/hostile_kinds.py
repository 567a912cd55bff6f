"""The kinds of data sets and files of weights that the campaign of hostile data makes: each a path and a generator."""

import contextlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from stripes import classifier

from minires.weights import export_weights

NAMES = [
    "a",
    "b",
    "A",
    " a",
    "ü",
    "日本",
    "\u202e",
    "-x",
    "..a",
    "a b",
    "train",
    "x" * 200,
    "10",
    "2",
    "\x1b[31m",
    "\udcff",
]
LABELS = [
    lambda n, r: np.arange(n) % 2,
    lambda n, r: np.zeros(n, int),
    lambda n, r: np.full(n, -1),
    lambda n, r: np.full(n, 2**62),
    lambda n, r: np.arange(n) / 3,
    lambda n, r: np.full(n, np.nan),
    lambda n, r: np.eye(n),
    lambda n, r: np.array(["x", ""] * n)[:n],
    lambda n, r: np.arange(n + 1),
    lambda n, r: np.zeros((n, 3, 2)),
    lambda n, r: np.zeros(0, int),
    lambda n, r: np.array(3),
    lambda n, r: np.zeros(n, "f4,i4"),
    lambda n, r: np.zeros(n, complex),
    lambda n, r: np.array([True, False] * n)[:n],
]
SHAPES = [
    (8, 8, 8, 3),
    (8, 8, 8),
    (8, 8, 8, 1),
    (8, 3, 8, 8),
    (8, 8, 8, 4),
    (0, 8, 8, 3),
    (8, 0, 8, 3),
    (8,),
    (),
    (8, 192),
]
SHAPES += [(8, 1, 1, 3), (1, 8, 8, 3), (8, 8, 8, 3, 1), (8, 3, 3, 3)]
TYPES = ["u1", "i8", "f4", "f8", "f2", "c8", "S3", "U2", "?", "m8[s]", "f4,i2", ">u2", "i1"]


def images(rng) -> np.ndarray:
    shape, kind = SHAPES[rng.integers(len(SHAPES))], np.dtype(TYPES[rng.integers(len(TYPES))])
    if kind.kind == "f":
        top = [1, 255, 3000, np.inf][rng.integers(4)]
        with np.errstate(all="ignore"):
            return (rng.random(shape) * top).astype(kind)
    if kind.kind in "iu?":
        return rng.integers(0, 120, shape).astype(kind)
    return np.zeros(shape, kind)


def labels(rng, n: int = 8) -> np.ndarray:
    return LABELS[rng.integers(len(LABELS))](n, rng)


def picture(path: Path, rng) -> None:
    """An image file, or what is called one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = tuple(int(side) for side in rng.choice([1, 2, 8, 9, 300], 2))
    mode = str(rng.choice(["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "F", "I"]))
    stream = io.BytesIO()
    kind = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
    Image.new(mode, size, int(rng.integers(2))).save(stream, kind)
    content = stream.getvalue()
    match rng.integers(8):
        case 0:
            content = content[: len(content) // 2]
        case 1:
            content = b""
        case 2:
            content = b"no image"
        case 3:  # a PNG that claims to be enormous
            content = content[:16] + (2**30).to_bytes(4, "big") * 2 + content[24:]
    path.write_bytes(content)


def folder(path: Path, rng) -> None:
    """Folders of classes, with oddities among them."""
    names = [str(name) for name in rng.choice(NAMES, int(rng.integers(0, 5)))]
    parts = [["train", "test"], ["train"], [""], ["val"], ["test", "tests"]][rng.integers(5)]
    for part in parts:
        for name in names:
            for i in range(int(rng.integers(0, 4))):
                picture(path / part / name / f"{i}.{rng.choice(['png', 'jpg', 'tif', 'txt', 'gif'])}", rng)
    path.mkdir(exist_ok=True)
    for _ in range(int(rng.integers(0, 3))):
        odd(path, rng)


def odd(path: Path, rng) -> None:
    """Something that does not belong into a folder of data."""
    name = f"odd{rng.integers(1000)}"
    with contextlib.suppress(OSError):
        [
            lambda: (path / name).symlink_to(path),
            lambda: (path / f"{name}.png").symlink_to("/nowhere/at/all"),
            lambda: os.mkfifo(path / f"{name}.png"),
            lambda: (path / f"{name}.png").mkdir(),
            lambda: (path / name / "deep" / "er" / "still").mkdir(parents=True),
            lambda: (path / f"{name}.csv").write_text("file,label\nnone.png,a\n,\n\0\n"),
            lambda: (path / f"{name}.npz").write_bytes(b"PK\x03\x04"),
            lambda: (path / f"{name}.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)),
            lambda: (path / f"train{name}.h5").write_bytes(b""),
            lambda: (path / "labels.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff"),
            lambda: (path / "model.h5").write_text("x"),
            lambda: (path / "manifest.json").write_text(rng.choice(["[]", "{", "null", '{"data": {}}'])),
            lambda: picture(path / "a_1.png", rng),
            lambda: (path / name).mkdir() or (path / name).chmod(0),
        ][rng.integers(14)]()


def npz(path: Path, rng) -> None:
    keys = [
        "x",
        "y",
        "x_train",
        "y_train",
        "x_test",
        "y_test",
        "classes",
        "images",
        "labels",
        "input",
        "conv1.weight",
        "",
    ]
    arrays = {str(key): images(rng) if rng.random() < 0.6 else labels(rng) for key in rng.choice(keys, 4)}
    if rng.random() < 0.1:
        arrays["y"] = np.array([{}, None], object)
    np.savez(path, **arrays)


def hdf5(path: Path, rng) -> None:
    with h5py.File(path, "w") as file:
        for key in ("train_set_x", "train_set_y", "test_set_x", "test_set_y", "list_classes"):
            if rng.random() < 0.9:
                with contextlib.suppress(TypeError, ValueError):
                    value = images(rng) if key.endswith("x") else labels(rng, 2 if key[0] == "l" else 8)
                    file[key] = value.astype("S") if value.dtype.kind == "U" else value
        if rng.random() < 0.2:
            file.create_dataset("huge", (10**9, 64), "f4")
        if rng.random() < 0.2:
            file["loop"] = h5py.SoftLink("/")
        if rng.random() < 0.2:
            file["out"] = h5py.ExternalLink("/etc/hostname", "/x")
        if rng.random() < 0.2:
            file.attrs["minires"] = str(rng.choice(["{}", "[", "null", '{"format": 1, "architecture": {}}']))


def keras(path: Path, rng) -> None:
    with h5py.File(path, "w") as file:
        if rng.random() < 0.5:
            file.attrs["layer_names"] = [[b"conv"], np.arange(2), "conv", [b"none"]][rng.integers(4)]
            group = file.create_group("conv")
            group.attrs["weight_names"] = [[b"w:0"], [b"a/b", b"a/b"], [], 3][rng.integers(4)]
            with contextlib.suppress(TypeError, ValueError):
                group["w:0"] = images(rng)
        else:
            for i in range(int(rng.integers(0, 4))):
                with contextlib.suppress(TypeError, ValueError):
                    file[f"layers/conv2d_{i}/vars/{rng.choice(['0', '1', 'x'])}"] = images(rng)


def weights(path: Path, rng) -> None:
    """Ours, damaged or with one array changed."""
    suffix = str(rng.choice([".npz", ".weights.h5", ".safetensors", ".onnx"]))
    whole = path.with_name(f"whole{suffix}")
    export_weights(classifier() if rng.random() < 0.5 else classifier().model, whole)
    content = bytearray(whole.read_bytes())
    for at in rng.integers(0, len(content), int(rng.choice([0, 1, 9]))):
        content[at] ^= 255
    path.write_bytes(content[: len(content) // int(rng.choice([1, 1, 2]))])
    whole.unlink()


def state_dict(path: Path, rng) -> None:
    import torch

    odd_ones = [torch.ones(3), torch.ones(2, 2).to_sparse(), torch.empty(4, device="meta"), "text", None, {"a": 1}]
    held = {f"layer{i}.weight": odd_ones[rng.integers(len(odd_ones))] for i in range(4)}
    torch.save([held, [held], {"state_dict": held}, {3: held}, torch.nn.Linear(2, 2)][rng.integers(5)], path)


def other(path: Path, rng) -> None:
    """A file of something else."""
    claim = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000, 8, 8, 3)}\n"
    contents = [
        *(b"", b"\0" * 999, rng.bytes(500), b"<html><title>Sign in</title>", "ü\nlabel".encode("utf-16")),
        *(b"%PDF-1.4", b"GIF89a", b"\xff\xd8\xff\xe0" + bytes(90), b"BM" + bytes(60), b"\x1f\x8b" + bytes(30)),
        pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}),
        b"\x80\x02cos\nsystem\nU\x04exit\x85R.",
        b"\x93NUMPY\x01\x00" + len(claim).to_bytes(2, "little") + claim,
        (2**40).to_bytes(8, "little") + b"{",
        (20).to_bytes(8, "little") + b'{"a":{"dtype":"F99"}',
        b"\x08\x07\x12\x04abcd" + bytes(20),
        json.dumps({"config": {"layers": [{}]}}).encode(),
        b"MATLAB 5.0 MAT-file" + bytes(200),
        b"file,label\n../x.png,a\n/dev/zero,b\n",
        bytes((0, 0, 8, 3)) + np.array([2**31 - 1] * 3, ">u4").tobytes(),
    ]
    path.write_bytes(contents[rng.integers(len(contents))])


def archive(path: Path, rng) -> None:
    names = [
        "config.json",
        "model.weights.h5",
        "a/data.pkl",
        "constants.pkl",
        "../up.npy",
        "x.npy",
        "archive_format",
        "",
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in rng.choice(names, 3, replace=False):
            file.writestr(str(name) or "-", [b"", b"{}", b"[" * 9999, bytes(10**6), b"\x93NUMPY"][rng.integers(5)])


def closed(path: Path, rng) -> None:
    """No permission, a link to nowhere or in a circle, a device."""
    [
        lambda: path.write_bytes(b"x") and path.chmod(0),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to("/nowhere/at/all"),
        lambda: path.symlink_to("/dev/null"),
        lambda: path.mkdir() or path.chmod(0),
        lambda: None,
    ][rng.integers(6)]()


def table(path: Path, rng) -> None:
    for i in range(4):
        picture(path.parent / f"t{i}.png", rng)
    rows = [
        "file,label",
        *(f"t{i}.png,{rng.choice(NAMES)!r}" for i in range(4)),
        *["none.png,a"] * (rng.random() < 0.3),
    ]
    text = str(rng.choice(["\n", ";\n", "\r", ",,\n"])).join(rows)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


KINDS = {
    "folder": (folder, ""),
    "npz": (npz, ".npz"),
    "hdf5": (hdf5, ".h5"),
    "keras": (keras, ".weights.h5"),
    "weights": (weights, ".bin"),
    "state_dict": (state_dict, ".pth"),
    "something else": (other, ".npz .npy .h5 .onnx .safetensors .pkl .png .csv .mat .keras"),
    "archive": (archive, ".zip .npz .keras .pt"),
    "closed": (closed, ".h5"),
    "table": (table, ".csv"),
}
