"""CPU or GPU? The only file that asks, beside those that are for one of the two.

The array decides: `xp = get_xp(x)` is numpy for a NumPy array and cupy for a CuPy array, and every op is
written once against `xp`. There is no global switch, so both devices can live in one test. CuPy is imported
on the first request for a GPU, never by `import minires`.
"""

import ctypes
import sys
import threading
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from threadpoolctl import ThreadpoolController

from minires.errors import DeviceError

Array: TypeAlias = np.ndarray  # or CuPy's, which has the same methods

# Elements that one elementwise pass works on before it moves on: a few such pieces stay in the cache
# between the passes of an op, and each is still large enough to make a NumPy call's overhead vanish.
# benchmarks/bench_ops.py --chunks measures it.
CHUNK = 262_144


try:
    _libc = ctypes.CDLL("libc.so.6")  # glibc
    _libc.malloc_trim  # noqa: B018
except (OSError, AttributeError):
    _libc = None


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next array instead of handing it back to the system.

    A training step frees and takes hundreds of megabytes; fresh pages for each array, filled with zeros by
    the system, cost a quarter of it. All threads take from one arena, since those of other threads give whole
    heaps back all the same. Elsewhere than on glibc nothing happens.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
    if _libc:
        _libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
        _libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        _libc.mallopt(M_ARENA_MAX, 1)


_keep_freed_memory()


def get_xp(x: Array) -> Any:
    """The array module of `x`: numpy, cupy, or whatever its `__array_namespace__` names."""
    if isinstance(x, np.ndarray):
        return np
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    raise DeviceError(f"expected a NumPy or CuPy array, got {type(x).__name__}: wrap it in numpy.asarray")


def device_of(x: Array) -> str:
    """'cpu' for a NumPy array, 'gpu' for any other."""
    return "cpu" if isinstance(x, np.ndarray) else "gpu"


def to_device(x: Array, device: str) -> Array:
    """The array `x` on 'cpu' or 'gpu'; itself when it is there already.

    >>> minires.to_device(numpy.ones(3), "cpu").tolist()
    [1.0, 1.0, 1.0]
    >>> minires.to_device(numpy.ones(3), "tpu")
    Traceback (most recent call last):
    minires.errors.DeviceError: unknown device 'tpu': choose 'cpu' or 'gpu'
    """
    if device == "cpu":
        return to_numpy(x)
    if device == "gpu":
        return _cupy().asarray(x)
    raise DeviceError(f"unknown device {device!r}: choose 'cpu' or 'gpu'")


def to_numpy(x: Array) -> np.ndarray:
    """The array `x` in host memory. On a GPU this waits for the device: never call it inside an op."""
    return x if isinstance(x, np.ndarray) else x.get()


def synchronize(x: Array) -> None:
    """Wait until the device that holds `x` is done, so that a clock read next tells the truth."""
    if device_of(x) == "gpu":
        get_xp(x).cuda.get_current_stream().synchronize()


_here = threading.local()  # this thread's `workspace`


@contextmanager
def max_workspace(size: int | None):
    """Inside, no op of this thread takes more than `size` bytes beside its arguments and results, though never less
    than one image needs. None: as each likes."""
    before, _here.workspace = workspace_limit(), size
    try:
        yield
    finally:
        _here.workspace = before


def workspace_limit() -> int | None:
    """The bytes of this thread's innermost `max_workspace`."""
    return getattr(_here, "workspace", None)


def workspace(usual: int) -> int:
    """The bytes an op may take that would usually take so many."""
    limit = workspace_limit()
    return usual if limit is None else min(usual, limit)


class Shared:
    """A setting of the whole process that is changed for a while, by several threads that need not know of each other.

    Of those inside, the latest decides; the last one out puts back what was there before the first.
    """

    def __init__(self, read, write):
        self.read, self.write, self.lock, self.inside = read, write, threading.Lock(), {}

    @contextmanager
    def set_to(self, value):
        me = object()
        with self.lock:
            if not self.inside:
                self.before = self.read()
            self.inside[me] = value
            self.write(value)
        try:
            yield
        finally:
            with self.lock:
                del self.inside[me]
                self.write([self.before, *self.inside.values()][-1])


def row_chunks(rows: int, row_length: int, x: Array) -> list[slice]:
    """Slices that walk over `rows` rows of the array `x`, about CHUNK elements each.

    Several passes over one piece cost one trip to memory. A GPU gets a single slice: it prefers one large
    launch.
    """
    if device_of(x) == "gpu":
        return [slice(0, rows)]
    step = max(1, CHUNK // max(1, row_length))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


@cache
def _cupy():
    """CuPy, proven by a tiny kernel; DeviceError says what is missing and how to get it."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            "CuPy is not installed: `pip install 'minires[cuda12]'` (or cuda13, as `nvidia-smi` tells)"
        ) from error
    try:
        probe = cupy.arange(3, dtype=cupy.float32)
        total = float((probe @ probe + cupy.exp(probe * 0).sum()).get())
    except Exception as error:  # CuPy raises a different type for each missing library or driver
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"CuPy {cupy.__version__} is installed but a small kernel failed: {reason}; check that `nvidia-smi` "
            "lists a GPU and that the extra (cuda12 or cuda13) matches its driver"
        ) from error
    if total != 8.0:
        raise DeviceError(f"the GPU computed {total} where 8.0 is right: do not trust it")
    return cupy


def choose_device(request: str = "auto") -> tuple[str, str]:
    """`(device, reason)` for the request 'auto', 'cpu' or 'gpu'.

    'auto' takes a GPU on which a tiny kernel ran, else the CPU, and the reason says why. 'gpu' raises
    DeviceError with the same reason where 'auto' would fall back.
    """
    if request not in ("auto", "cpu", "gpu"):
        raise DeviceError(f"unknown device {request!r}: choose auto, cpu or gpu")
    if request == "cpu":
        return "cpu", "asked for"
    try:
        cupy = _cupy()
    except DeviceError as error:
        if request == "gpu":
            raise
        return "cpu", str(error)
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return "gpu", f"{name}, CuPy {cupy.__version__}"


@cache
def _blas() -> list:
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


def _blas_counts() -> list[int]:
    return [library.num_threads for library in _blas()]


def _set_blas_counts(counts: list[int]) -> None:
    for library, count in zip(_blas(), counts, strict=True):
        library.set_num_threads(count)


def thread_count() -> int:
    """How many threads the matrix products use now."""
    return max(_blas_counts(), default=1)


_blas_setting = Shared(_blas_counts, _set_blas_counts)


def blas_threads(count: int | None):
    """Run the matrix products inside the block on `count` threads (None: leave it), then restore; for every caller."""
    return nullcontext() if count is None else _blas_setting.set_to([count] * len(_blas()))
