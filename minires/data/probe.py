"""A first look through an HDF5 file: nothing of other files in it, nothing that it claims and cannot hold.

For a file of unknown origin the look runs in a child process, since the HDF5 library can crash on a damaged one, loop,
or ask for any amount of memory. Where the system cannot fork (Windows) it runs in this process. The child reads
every attribute, every text and the index of every chunked array, not the numbers themselves.
"""

import contextlib
import faulthandler
import math
import os
import re
import select
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5t

from minires.errors import DataError, MiniresError

MAX_DEPTH = 32  # groups inside groups
MAX_OBJECTS = 100_000
MAX_CHUNK = 2**29  # bytes of one chunk, unpacked
UNPACKED = 32  # times the bytes of the file that its arrays may take in memory, images aside,
ALLOWANCE = 2**26  # and so many more
SECONDS = 10
_FINE = "fine"
MEMORY = 2**30  # bytes that the child may take beside what it has


def walk(file: h5py.File, size: int) -> None:
    """Look at every object of an open file of `size` bytes; DataError, without its name, for what is refused."""
    left, seen, groups = UNPACKED * size + ALLOWANCE, set(), [(file.id, 0, "")]
    _read_attributes(h5o.open(file.id, b"/"))
    while groups:
        group, depth, where = groups.pop()
        for name in group:
            here = f"{where}/{name.decode(errors='replace')}"
            kind = group.links.get_info(name).type
            if kind == h5l.TYPE_SOFT:
                continue
            if kind != h5l.TYPE_HARD:
                raise DataError(f"{here} is a link to another file")
            item = h5o.open(group, name)
            address = h5o.get_info(item).addr
            if address in seen:
                continue
            seen.add(address)
            if depth == MAX_DEPTH or len(seen) > MAX_OBJECTS:
                raise DataError(f"it has more than {MAX_DEPTH} groups in one another or {MAX_OBJECTS:,} objects")
            _read_attributes(item)
            if isinstance(item, h5g.GroupID):
                groups.append((item, depth + 1, here))
            elif isinstance(item, h5d.DatasetID):
                left -= _array_bytes(item, here)
                if left < 0:
                    raise DataError(f"its arrays would take far more memory than its {size:,} bytes (at {here})")


def open_and_walk(source, size: int) -> None:
    """For `in_child`: source is a path, or a binary stream."""
    with h5py.File(source, "r") as file:
        walk(file, size)


def _read_attributes(item) -> None:
    if h5a.get_num_attrs(item):
        wrapper = {h5d.DatasetID: h5py.Dataset, h5g.GroupID: h5py.Group}.get(type(item), h5py.Datatype)
        with contextlib.suppress(TypeError):  # a type that NumPy lacks is no damage
            dict(wrapper(item).attrs)


def _array_bytes(array: h5d.DatasetID, here: str) -> int:
    """What reading it whole takes; 0 for images, which are read a few at a time."""
    layout, kind, shape = array.get_create_plist(), array.get_type(), array.shape or ()
    if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
        raise DataError(f"{here} is kept in another file")
    size = math.prod(shape) * kind.get_size()
    if layout.get_layout() == h5d.CHUNKED:
        chunk = math.prod(layout.get_chunk()) * kind.get_size()
        if chunk > MAX_CHUNK:
            raise DataError(f"{here} is stored in pieces of {chunk:,} bytes, more than {MAX_CHUNK:,}")
        stored = array.get_num_chunks() * chunk
    else:
        stored = array.get_storage_size()
    if size > stored + ALLOWANCE:
        raise DataError(f"{here} claims {size:,} bytes where {stored:,} are stored")
    if kind.detect_class(h5t.VLEN) or kind.detect_class(h5t.STRING):
        h5py.Dataset(array)[()]
    return 0 if len(shape) == 4 and kind.get_size() == 1 else size


def in_child(look: Callable, source, size: int, *, seconds: float = 0, memory: int = 0) -> None:
    """`look(source, size)` in a forked process with limits on time and memory; DataError for whatever it ends with.

    seconds, memory (bytes beside what it has): SECONDS and MEMORY unless given.
    """
    seconds, memory = seconds or SECONDS, memory or MEMORY
    if not hasattr(os, "fork"):
        return look(source, size)
    end, start = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the child uses h5py alone, which allows it
        child = os.fork()
    if child == 0:
        try:
            os.write(start, _outcome(look, source, size, memory).encode()[:4096])
        finally:
            os._exit(0)
    try:
        os.close(start)
        said = os.read(end, 4096).decode(errors="replace") if select.select([end], [], [], seconds)[0] else None
    finally:
        os.close(end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if said is None:
        raise DataError(f"a look through it takes more than {seconds:g} s, as on a damaged file")
    if not said:
        raise DataError(f"the library that reads it breaks down on it ({signal.strsignal(os.WTERMSIG(status))})")
    if said != _FINE:
        raise DataError(said)


def _outcome(look: Callable, source, size: int, memory: int) -> str:
    """What the child says: _FINE, or what is wrong."""
    try:
        faulthandler.disable()
        _limit_memory(memory)
        look(source, size)
        return _FINE
    except MiniresError as error:
        return str(error)
    except BaseException as error:  # on damaged files h5py raises almost anything; nothing may leave the child
        return damage(error, size)


def damage(error: BaseException, size: int) -> str:
    """What h5py's error on a file of `size` bytes means."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    message = " ".join(str(error).split()) or type(error).__name__
    sizes = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", message)
    if sizes:
        return f"it is a truncated HDF5 file ({sizes[1]} of {sizes[2]} bytes)"
    if size < 1024:
        return f"it is a truncated HDF5 file ({size} bytes)"
    return f"it is a damaged HDF5 file ({message})"


def _limit_memory(most: int) -> None:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + most,) * 2)
