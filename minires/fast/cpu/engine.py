"""Which kernels run and how many threads share their loops; the memory that they write to.

MINIRES_KERNELS=numpy leaves all ops as they read; MINIRES_ISA=sse2, avx2 or avx512 takes the kernels of an instruction
set that the processor has, by default the widest; MINIRES_THREADS as many threads.
"""

import os
import threading
from contextlib import contextmanager, nullcontext

import numpy as np

from minires.backend import Shared
from minires.errors import ConfigError
from minires.fast.cores import usable_cores

try:
    from minires.fast.cpu import _kernels
except ImportError:  # installed where there was no C compiler
    _kernels = None

INTERFACE = 5  # of module.c
STALE = _kernels is not None and getattr(_kernels, "interface", None) != INTERFACE
_kernels = None if STALE else _kernels

FLOATS = np.dtype("f4"), np.dtype("f8")
INT = 2**31  # what sizes in the kernels stay below; that of a whole array need not
VECTOR_BYTES = {"base": 16, "sse2": 16, "avx2": 32, "avx512": 64}


_here = threading.local()  # this thread's: `reading`, and `empty`, where results come from if not from NumPy


class _State:
    """Whether there are kernels to run (None: nobody has asked yet), and of which instruction set."""

    enabled = None
    isa = ""
    lock = threading.Lock()  # of whoever asks first


def _setting(name, choices):
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        raise ConfigError(f"{name}: expected {', '.join(choices)}, got {value!r}: change or unset it")
    return value


def enabled() -> bool:
    """Whether the kernels are there and switched on. ConfigError where the environment asks for what cannot be."""
    if reading():
        return False
    if _State.enabled is None:
        with _State.lock:
            if _State.enabled is None:
                _State.enabled = _start()
    return _State.enabled


def _start() -> bool:
    wanted = _setting("MINIRES_KERNELS", ("auto", "numpy", "always")) != "numpy" and _kernels is not None
    isa = _setting("MINIRES_ISA", tuple(_kernels.instruction_sets()[::-1] if _kernels else VECTOR_BYTES))
    workers = usable_cores()  # all settings are read, so that none can be wrong without a word
    if wanted:
        _State.isa = isa
        _kernels.use(isa)
        _kernels.set_threads(workers)
    return wanted


def use_given_cores() -> None:
    """Ask again which cores there are, after the process was given others."""
    if _State.enabled:
        _kernels.set_threads(usable_cores())


def description() -> str:
    """In words, what runs the ops on the CPU."""
    if enabled():
        return f"compiled kernels, {_State.isa}, {_kernels.threads()} thread{'s' * (_kernels.threads() != 1)}"
    if _kernels:
        return "NumPy, as MINIRES_KERNELS asks"
    return f"NumPy: the kernels {'are those of another version' if STALE else 'were not compiled'}"


def threads() -> int:
    """How many threads share each kernel's loops."""
    return _kernels.threads() if enabled() else 1


_threads = Shared(lambda: _kernels.threads(), lambda count: _kernels.set_threads(count))


def use_threads(count: int):
    """Inside, so many threads share each kernel's loops; for every caller."""
    return _threads.set_to(count) if enabled() else nullcontext()


def reading() -> bool:
    """Whether `as_read` holds in this thread."""
    return getattr(_here, "reading", False)


@contextmanager
def as_read():
    """Inside, this thread's ops run as they read, on the CPU and on a GPU."""
    before, _here.reading = reading(), True
    try:
        yield
    finally:
        _here.reading = before


# --- what the wrappers of the kernels share -------------------------------------------------------------------------

whole = np.ascontiguousarray


def empty(shape, dtype):
    """An array for a kernel to write; its numbers are anything."""
    take = getattr(_here, "empty", None)
    return take(shape, dtype) if take else np.empty(shape, dtype)


def like(x):
    """An array for a result of x's shape."""
    return empty(x.shape, x.dtype)


@contextmanager
def results_from(take):
    """Inside, this thread's results are `take(shape, dtype)`."""
    _here.empty = take
    try:
        yield
    finally:
        _here.empty = None


def takes(args) -> bool:
    """Whether kernels take these: the first an array that is not empty, all of one type, at addresses that suit it."""
    first = args[0]
    if (
        type(first) is not np.ndarray
        or first.dtype not in FLOATS
        or not first.size
        or (first.size >= INT and max(first.shape) >= INT)
    ):
        return False
    for a in args:  # noqa: SIM110 (a generator takes three times as long, in front of each op)
        if type(a) is np.ndarray and (a.dtype != first.dtype or not a.flags.aligned):
            return False
    return True


def fit(*pairs) -> bool:
    """Whether each array, where it is given, has the shape beside it."""
    for a, shape in pairs:  # noqa: SIM110
        if a is not None and a.shape != shape:
            return False
    return True


def rows(x):
    """(how many, how long) where x is taken as rows of channels."""
    channels = x.shape[-1] if x.ndim else 1
    return x.size // channels, channels
