"""HDF5 files opened with clear errors, and written atomically and sealed; shared by data sets, checkpoints and weights.

Most broken `.h5` files are not HDF5 at all: a login page saved under that name, a Git LFS pointer, a zip.
The first bytes say so before h5py is asked. A file of ours has a seal (minires/seal.py) in its user block, so that the
HDF5 library sees it only when it is whole. On a damaged file of others the library can crash or ask for any amount of
memory: such a file is first walked through in a child process (minires/data/probe.py).
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from minires import seal
from minires.background import Background
from minires.data.in_use import writer_of
from minires.data.kinds import described
from minires.data.probe import damage, in_child, open_and_walk, walk
from minires.errors import DataError, MiniresError
from minires.files import atomic_path

SEALED = "sealed"  # the attribute that says that there has to be a seal

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextmanager
def open_hdf5(path: str | os.PathLike, what: str, content: bytes | None = None) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading: `with open_hdf5(path, "a SIGNS data file") as file`.

    `what` says what the file should be, for the message. content: the bytes of one that lies inside the archive `path`.

    Raises DataError, one line, for a path that is missing, a folder or not readable, for anything that is not HDF5
    (web page, text, archive, Git LFS pointer, empty file), for a truncated or damaged file, whether it shows on opening
    or inside the block, for one that somebody is writing, and for one that refers to other files or claims far more
    than it holds.
    """
    path = Path(path)
    size = 0
    try:
        if content is None:
            _require_hdf5(path, what)
        source, size = (path, path.stat().st_size) if content is None else (io.BytesIO(content), len(content))
        whole = content is None and seal.sealed(path)
        if not whole:
            in_child(open_and_walk, source, size)
        with h5py.File(source, "r") as file:
            if whole:
                walk(file, size)
            elif SEALED in file.attrs and content is None:
                raise DataError("the seal that it was written with is damaged")
            yield file
    except DataError as error:
        _unless_written(path, what)
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: expected {what}, but {error}: download or write it again") from None
    except MiniresError:
        raise
    except Exception as error:  # on damaged files h5py raises almost anything
        _unless_written(path, what)
        raise DataError(f"{path}: expected {what}, but {damage(error, size)}: download or write it again") from error


def _unless_written(path: Path, what: str) -> None:
    """DataError where somebody is writing the file: what looks like damage is none."""
    if path.is_file() and (writer := writer_of(path)):
        raise DataError(f"{path}: expected {what}, but the file is in use, {writer}") from None


def _require_hdf5(path: Path, what: str) -> None:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DataError(f"{path}: expected {what}, but it is a device or a pipe: give a file")
        with path.open("rb") as raw:
            head = raw.read(len(_SIGNATURE))
    except FileNotFoundError:
        raise DataError(f"{path}: expected {what}, but there is no such file: check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected {what}, but it is a folder: give a file in it") from None
    except (OSError, ValueError) as error:  # of a NUL in its name, ValueError
        problem = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: expected {what}, but it cannot be read ({problem}): check the path") from None
    # a user block may stand before the signature, which is_hdf5 knows
    if not head.startswith(_SIGNATURE) and not h5py.is_hdf5(path):
        kind, remedy = described(path)
        raise DataError(f"{path}: expected {what}, but it is {kind}, not HDF5: {remedy}")


class _Disk(io.FileIO):
    """A file for HDF5 to write to. It keeps what the system refuses, which HDF5 would print for each array."""

    refused = None

    def _unless_refused(self, do, *arguments):
        try:
            return do(*arguments)
        except OSError as error:
            self.refused = self.refused or error

    def write(self, data):
        self._unless_refused(self._write_all, memoryview(data).cast("B"))
        return len(data)

    def _write_all(self, rest):
        while rest:  # a disk that gets full takes a part first
            rest = rest[super().write(rest) :]

    def truncate(self, size=None):
        self._unless_refused(super().truncate, size)


@contextmanager
def atomic_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Write an HDF5 file atomically, with a seal: `with atomic_hdf5(path) as file: file["x"] = x`.

    The file under `path` changes only when the block ends well; see `atomic_path` for failures.
    """
    with atomic_path(path) as temporary, _Disk(temporary, "x+") as disk:
        try:
            with h5py.File(disk, "w", userblock_size=512) as file:
                file.attrs[SEALED] = True
                yield file
        finally:
            if disk.refused:
                raise disk.refused
        os.pwrite(disk.fileno(), f"{seal.BLANK}\n".encode(), 0)
        aside = Background("minires-sync")
        try:
            synced = aside.submit(os.fsync, disk.fileno())  # the disk writes while the checksum is formed
            seal.seal(temporary)
            synced.result()
        finally:
            aside.end()
