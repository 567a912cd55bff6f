"""Files written whole or not at all, and what the system said against it in words."""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from minires.errors import DataError, MiniresError, SystemFailure

_ELSEWHERE = "choose a place that you may use"
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space or choose another disk"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "close some, or allow more with `ulimit -n`"),
    errno.ENOMEM: "end other programs, or allow more with `ulimit -v`",
    errno.EIO: "check the disk",
    errno.ENOENT: "check the path, and create the folder first",
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file is where a folder is needed; choose another place"),
    errno.EISDIR: "give a file in it",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_OF_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


def refused(code: int | None, what: object, verb: str = "read or written", more: str = "") -> DataError:
    """What the system refused with the number `code`, in one line: what it was about, why, what to do."""
    kind = SystemFailure if code is None or code in _OF_THE_SYSTEM else DataError
    said = os.strerror(code) if code else "the system does not say why"
    return kind(f"{what}: cannot be {verb} ({said}): {_REMEDIES.get(code, _ELSEWHERE)}{more}")


@contextmanager
def atomic_path(path: str | os.PathLike, *, lasting: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it replaces `path` when the block succeeds.

    A reader sees the old file or the new one, never half of one. On any failure the temporary file is
    removed and the old file stays. A device or a pipe stays one: what was written is copied into it. Raises
    DataError where the system refuses (disk full, no permission, no such folder); an error of the block's own
    passes through. lasting: wait until it would survive a power cut too.
    """
    path = Path(path)
    if "\0" in str(path):
        raise DataError(f"{path}: a name cannot hold a NUL byte: choose another".replace("\0", "␀"))
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = _beside(target)
    try:
        if path.is_dir():
            raise DataError(f"{path}: expected a file to write, but it is a folder: add a file name")
        special = path.exists() and not path.is_file()
        if special:
            temporary = Path(tempfile.gettempdir()) / temporary.name
        yield temporary
        if special:
            with temporary.open("rb") as written, path.open("wb") as device:
                shutil.copyfileobj(written, device)
            return
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
        if isinstance(error, MiniresError | BrokenPipeError) or code is None:
            raise
        raise refused(code, path, "written", "; a file that was there before is unchanged") from None
    finally:
        with suppress(OSError):  # the next run into that folder removes it; or `path` is below a file
            temporary.unlink()


def _beside(target: Path) -> Path:
    """A name that is nobody's, no longer than the file's own may be."""
    more, most = f".{secrets.token_hex(4)}.tmp", 255  # bytes
    stem = os.fsencode(target.name)
    if len(stem) <= most:  # of a longer one the system says so itself
        stem = stem[: most - len(more) - 1]
    return target.with_name(f".{os.fsdecode(stem)}{more}")


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


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file by `content`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace the file by `text` (UTF-8), atomically."""
    write_bytes(path, text.encode())
