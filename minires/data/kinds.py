"""What a file is, by its bytes, and which command takes it: for errors where it was given in another one's place."""

import re
import zipfile
from pathlib import Path

import h5py

KERAS = "weights of Keras"  # of `of_hdf5`
HEAD = 65536  # bytes by which a file is known
_ONNX_TAGS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # of the fields that may follow an ONNX file's version
_TORCH_BEFORE_1_6 = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # behind a pickle's first two bytes
_HDF5 = b"\x89HDF\r\n\x1a\n"

_IMPORT = "`minires weights import PATH --out MODEL.h5` makes a checkpoint of it"
_DATA = "data are named with --data"
_PICTURE = "name it as an image, or with --data the folder of images that it is from"
_PICTURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
# first bytes -> (what the file is, what to do)
_STARTS = {
    b"version https://git-lfs": ("a Git LFS pointer", "fetch the file itself with 'git lfs pull'"),
    b"\x1f\x8b": ("gzip-compressed", "decompress it with gunzip (or tar -xzf) first"),
    b"BZh": ("bzip2-compressed", "decompress it with bunzip2 first"),
    b"\xfd7zXZ": ("xz-compressed", "decompress it with unxz first"),
    b"\x93NUMPY": ("a NumPy .npy array", f"{_DATA}, images and labels in two files of one folder"),
    b"MATLAB ": ("a MATLAB file", _DATA),
    b"%PDF": ("a PDF", "take the images out of it"),
    **{magic: (f"a {name} image", _PICTURE) for magic, name in _PICTURES.items()},
}
# of `file_kind` -> the same
_KINDS = {
    ".onnx": ("an ONNX network", _IMPORT),
    ".safetensors": ("weights of PyTorch (.safetensors)", _IMPORT),
    ".pth": ("weights of PyTorch", _IMPORT),
    "TorchScript": (
        "TorchScript, a program that runs when it is opened",
        "where you trust it, write its weights alone with "
        "torch.save(torch.jit.load('FILE').state_dict(), 'WEIGHTS.pth') and import those",
    ),
    ".pt2": (
        "a program of torch.export",
        "write its weights alone with torch.save(torch.export.load('FILE').state_dict, 'WEIGHTS.pth') and import those",
    ),
    "pickle": (
        "a Python pickle, which can run any program when it is opened",
        "save weights with torch.save(model.state_dict()), data with numpy.savez",
    ),
    ".keras": ("a Keras network (.keras)", _IMPORT),
}


def file_kind(path: Path) -> str | None:
    """'.safetensors', '.npz', '.pth', 'TorchScript', '.pt2', 'pickle' or '.onnx', by content; None for all else."""
    if not path.is_file():  # to open a pipe would wait
        return None
    try:
        with path.open("rb") as raw:
            head = raw.read(14)
        if zipfile.is_zipfile(path):
            return _of_zip(path)
        size = path.stat().st_size
    except Exception:  # zipfile raises almost anything on damaged archives; the reader that gets it next says so
        return None
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return ".safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return ".pth" if head[2:] == _TORCH_BEFORE_1_6 else "pickle"
    return ".onnx" if head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] and head[2:3] in _ONNX_TAGS else None


def _of_zip(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inside = {name.partition("/")[2] or name for name in names}  # torch puts all into a folder
    if any(name.endswith("data.pkl") for name in names):
        program = any(name.endswith("constants.pkl") or name.startswith("code/") for name in (*names, *inside))
        return "TorchScript" if program else ".pth"
    if "archive_format" in inside or any(re.match(r"models/.*\.json", name) for name in inside):
        return ".pt2"
    return ".npz" if names and all(name.endswith(".npy") for name in names) else None


def described(path: Path) -> tuple[str, str]:
    """(what a file is that is no HDF5, what to do with it), for a line "expected ..., but it is WHAT: DO"."""
    try:
        with path.open("rb") as raw:
            head = raw.read(HEAD)
    except (OSError, ValueError):
        return "not readable", "check the path"
    kind = file_kind(path)
    if kind == ".npz":
        return _arrays(path)
    if kind is None and head.startswith(b"PK\x03\x04"):
        kind = ".keras" if b"config.json" in head[30:300] or b"metadata.json" in head[30:300] else None
    if kind == "pickle" and b"labels" in head:
        return "a batch of CIFAR", _DATA
    if kind in _KINDS:
        what, do = _KINDS[kind]
        return what, do.replace("PATH", str(path))
    return of_head(_HDF5 if h5py.is_hdf5(path) else head)


def of_head(head: bytes) -> tuple[str, str]:
    """The same by a file's first bytes alone."""
    if not head:
        return "empty (0 bytes)", "download or write it again"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive", "unpack it and give the file inside"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "a WebP image", _PICTURE
    if head.startswith(_HDF5):
        return "an HDF5 file", f"name a checkpoint as RUN; {_DATA}; Keras's weights go to `minires weights import`"
    for magic, kind in _STARTS.items():
        if head.startswith(magic):
            return kind
    text = head.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    if re.match(r"<(!doctype html|html|head|body)", text, re.IGNORECASE):
        found = re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
        title = " ".join(found[1].split())[:80] if found else "none"
        return f"a web page (title: '{title}')", "download it again through the link to the raw file"
    # UTF-8 text has no control characters but white space; a character cut at the end does not matter
    if text and b"\x00" not in head and len(text.encode()) > 0.9 * len(head) and text.isprintable() | ("\n" in text):
        return f"text that starts with {text.splitlines()[0][:40]!r}", "download it again, or give another file"
    return f"unknown data that starts with the bytes {head[:8].hex(' ')}", "give another file"


def _arrays(path: Path) -> tuple[str, str]:
    """Of an .npz the names in it say whether they are images, weights, or activations."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception:  # as in `file_kind`
        names = []
    some = f"({', '.join(names[:3])}{' ...' * (len(names) > 3)})"
    if "input" in names:
        return f"NumPy's activations {some}", f"`minires weights compare RUN {path}` takes them"
    if any(name.endswith((".weight", ".running_var")) for name in names):
        return f"NumPy's weights {some}", _IMPORT.replace("PATH", str(path))
    return f"NumPy arrays (.npz) {some}", f"{_DATA}, weights imported with `minires weights import`"


def of_hdf5(file) -> tuple[str, str]:
    """(what an open HDF5 file holds, what to do with it)."""
    keys = list(file)
    name = file.filename if isinstance(file.filename, str) else "FILE"
    if "minires" in file.attrs:
        return "a minires checkpoint", "name it where a command asks for RUN, or with --weights"
    if any(key.endswith(("_set_x", "_set_y")) for key in keys):
        return "a data set", _DATA
    if {"model_weights", "layers", "_layer_checkpoint_dependencies"} & set(keys) or "layer_names" in file.attrs:
        return KERAS, _IMPORT.replace("PATH", name)
    if {"labels", "probs"} <= set(keys):
        return "the predictions of a run", "name the run's folder"
    return f"HDF5 with {', '.join(keys[:5]) or 'nothing'}", "give another file"
