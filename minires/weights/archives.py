"""Zip archives that are what they claim; and whatever goes wrong inside, in one line."""

import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minires.data.kinds import file_kind
from minires.data.probe import ALLOWANCE, UNPACKED
from minires.errors import CheckpointError, DataError, MiniresError
from minires.seal import sealed

__all__ = ["check_archive", "file_kind", "read_npz", "understood"]


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
