"""Files written whole or not at all."""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minires.errors import DataError, MiniresError


@contextmanager
def atomic_path(path: str | os.PathLike, *, lasting: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it replaces `path` when the block succeeds.

    A reader sees the old file or the new one, never half of one. On any failure the temporary file is
    removed and the old file stays. Raises DataError where the system refuses (disk full, no permission, no
    such folder); an error of the block's own passes through. lasting: wait until it would survive a power cut too.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        if target.is_dir():
            raise DataError(f"{path}: expected a file to write, but it is a folder: add a file name")
        yield temporary
        if lasting:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())  # the bytes reach the disk before the name does
        os.replace(temporary, target)
        if lasting:
            _sync_folder(target.parent)  # and the name before what is done next
    except (OSError, RuntimeError) as error:
        # h5py reports a failed write at closing as RuntimeError with the system's number in the text
        number = re.search(r"errno = (\d+)", str(error))
        code = getattr(error, "errno", None) or (int(number[1]) if number else None)
        if isinstance(error, MiniresError) or code is None:
            raise
        raise DataError(f"{path}: cannot be written ({os.strerror(code)}): {_write_remedy(code)}") from None
    finally:
        with suppress(OSError):  # the next run into that folder removes it
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that cannot
                raise
        finally:
            os.close(number)


def _write_remedy(code: int) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space or choose another disk; a file that was there before is unchanged"
    if code == errno.ENOENT:
        return "create the folder first, or choose another"
    return "choose a folder where you may write; a file that was there before is unchanged"


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file by `content`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace the file by `text` (UTF-8), atomically."""
    write_bytes(path, text.encode())
