"""Whether another program, or this one, is writing a file: half of it, or its lock, is no damage."""

import os
from contextlib import suppress
from pathlib import Path


def writer_of(path: Path) -> str | None:
    """Who has the file open for writing, in words; None where nobody is known to."""
    holders = list(_holders(path))
    locked = _locked(path)
    if not holders and not locked:
        return None
    if os.getpid() in [pid for pid, _ in holders]:
        return "this program has it open for writing: close it first"
    if holders:
        pid, name = holders[0]
        return f"another program has it open for writing ({name}, process {pid}): wait until it has ended, or end it"
    return "another program has it open and locked: wait until it has ended, or end it"


def _locked(path: Path) -> bool:
    """Whether somebody has the lock that HDF5 takes for writing."""
    try:
        import fcntl
    except ImportError:  # Windows refuses to open such a file itself
        return False
    try:
        with path.open("rb") as raw:
            fcntl.flock(raw, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def _holders(path: Path):
    """(process, name) of the programs that may write to the file, as far as Linux lets one see."""
    try:
        wanted = path.stat()
    except OSError:
        return
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError, ValueError, IndexError):
            found = entry.stat()
            if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
                continue
            process = entry.parent.parent
            flags = (process / "fdinfo" / entry.name).read_text().split("flags:")[1].split()[0]
            if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                yield int(process.name), (process / "comm").read_text().strip()
