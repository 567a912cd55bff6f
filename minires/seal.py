"""A checksum in every file of weights or data that minires writes, so that damage is seen before a number is believed.

A seal is the text `minires-seal:` with a CRC-32 and the file's length, in hexadecimal. It stands where a format has
room for words, within the first or the last 4 KiB: HDF5's user block, the metadata of safetensors and ONNX, the
comment of a zip. The checksum is that of the whole file with the digits of the seal as zeros. It guards against
accidents (disks, transfers, half a copy), not against someone who means to deceive.
"""

import os
import re
import time
import zlib
from pathlib import Path

from minires.errors import DataError

BLANK = "minires-seal:00000000:000000000000"  # for a writer to put into its file; `seal` fills in the digits
_MARK = re.compile(rb"minires-seal:(.{21})", re.DOTALL)
_DIGITS = len("00000000:000000000000")
_EDGE = 4096  # bytes at each end in which a seal is looked for
_STEP = 2**20
_SETTLED = 2e9  # nanoseconds since a file's last change from which on a further one would show in its time

_whole: set[tuple] = set()  # files that this process has found whole, so that large ones are read through once


def seal(path: str | os.PathLike) -> None:
    """Fill in the file's seal; also to seal it again after a change of one's own. ValueError where it has none."""
    with Path(path).open("rb+") as raw:
        found = _find(raw)
        if found is None:
            raise ValueError(f"{path}: holds no {BLANK} to fill in")
        at, _ = found
        digits = _digits(raw, at)
        raw.seek(at)
        raw.write(digits)


def sealed(path: str | os.PathLike) -> bool:
    """Whether the file has a seal, and then holds what was written; DataError, one line, where it does not.

    All of it is read, at 2 to 3 GB a second beside the disk; once in a process, unless it has changed since.
    """
    if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
        raise DataError(f"{path}: a device or a pipe: give a file")
    with Path(path).open("rb") as raw:
        found = _find(raw)
        if found is None:
            return False
        at, stored = found
        known = os.fstat(raw.fileno())
        size, this = known.st_size, (known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, stored)
        if this in _whole:
            return True
        if stored == _digits(raw, at):
            if time.time_ns() - known.st_mtime_ns > _SETTLED:
                _whole.add(this)
            return True
    length = int(stored[9:], 16) if re.fullmatch(rb"[0-9a-f]{8}:[0-9a-f]{12}", stored) else size
    problem = f"truncated ({size:,} of {length:,} bytes)" if size < length else "damaged (its checksum does not fit)"
    raise DataError(f"{path}: {problem}: use another copy, or where you changed it yourself minires.seal.seal(FILE)")


def _find(raw) -> tuple[int, bytes] | None:
    """(where the digits of the seal begin, the digits), None for a file without one."""
    size = raw.seek(0, os.SEEK_END)
    for start in (0, max(0, size - _EDGE)):
        raw.seek(start)
        if found := _MARK.search(raw.read(_EDGE)):
            return start + found.start(1), found[1]
    return None


def _digits(raw, at: int) -> bytes:
    """What the seal whose digits begin at `at` has to say."""
    crc = _crc(raw, 0, at, 0)
    crc = zlib.crc32(BLANK[-_DIGITS:].encode(), crc)
    size = raw.seek(0, os.SEEK_END)
    crc = _crc(raw, at + _DIGITS, size, crc)
    return b"%08x:%012x" % (crc, size)


def _crc(raw, start: int, end: int, crc: int) -> int:
    """The CRC-32 of a stretch of the file, going on from `crc`."""
    raw.seek(start)
    buffer = memoryview(bytearray(min(_STEP, max(0, end - start))))
    while start < end and (count := raw.readinto(buffer[: end - start])):
        crc = zlib.crc32(buffer[:count], crc)
        start += count
    return crc
