"""What a file is, by its bytes; zip archives that are what they claim; and whatever goes wrong inside, in one line."""

import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minires.data.probe import ALLOWANCE, UNPACKED
from minires.errors import CheckpointError, DataError, MiniresError
from minires.seal import sealed

_ONNX_TAGS = b"\x12\x1a\x22\x28\x32\x3a\x42"  # of the fields that may follow an ONNX file's version


def file_kind(path: Path) -> str | None:
    """'.safetensors', '.npz', '.pth', 'TorchScript' or '.onnx', whatever it is called; None for anything else."""
    try:
        with path.open("rb") as raw:
            head = raw.read(9)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return "TorchScript" if any(name.endswith("constants.pkl") for name in names) else ".pth"
            return ".npz" if names and all(name.endswith(".npy") for name in names) else None
    except Exception:  # zipfile raises almost anything on damaged archives; the reader that gets it next says so
        return None
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return ".safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":  # a pickle, as torch wrote them before 1.6
        return ".pth"
    return ".onnx" if head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in _ONNX_TAGS else None


@contextmanager
def understood(path: Path, what: str):
    """Whatever a library raises inside, on a damaged file, is told as a CheckpointError of one line."""
    try:
        yield
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except MiniresError:
        raise
    except Exception as error:  # NumPy, zipfile, h5py, protobuf and safetensors raise almost anything
        problem = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path}: a damaged {what} file ({problem}): download or write it again") from error


def check_archive(path: Path, *, contents: bool = False) -> None:
    """CheckpointError where the zip would unpack to far more than it is; contents: or a part of it is damaged."""
    sealed(path)
    with zipfile.ZipFile(path) as archive:
        total, size = sum(part.file_size for part in archive.infolist()), path.stat().st_size
        if total > UNPACKED * size + ALLOWANCE:
            raise CheckpointError(f"{path}: {size:,} bytes that would unpack to {total:,}: write it again uncompressed")
        if contents and (bad := archive.testzip()):
            raise CheckpointError(f"{path}: {bad} in it is damaged (its checksum does not fit): use another copy")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file; beside CheckpointError anything that NumPy and zipfile raise on damaged files."""
    check_archive(path)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
