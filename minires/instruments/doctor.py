"""Is everything here that minires needs? One finding for each thing that goes wrong in practice, with its fix.

Nothing is installed or changed; a file is written only to see whether one can be.
"""

import io
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from importlib import import_module, metadata
from pathlib import Path

import numpy as np

from minires.backend import choose_device
from minires.console import Console
from minires.errors import MiniresError
from minires.fast import cpu, proven
from minires.fast.cores import explain_cores
from minires.instruments.cost.summary import show_bytes, summarize
from minires.instruments.findings import Finding

# used where minires runs from a source tree that was never installed: import name by distribution name
IMPORT_NAMES = {"pillow": "PIL"}
MIN_GFLOPS = 5.0  # a float32 product slower than this a core means a BLAS without vector instructions
MIN_DISK = 2 * 10**9  # bytes: a run keeps a few copies of the model with its optimiser


def diagnose(data: str | None = None) -> list[Finding]:
    """Look at Python, the packages, the machine, the GPU, files, and at the data set `data` if one is given.

    Takes a second or two, more for large data. Never raises for what it finds: a check that breaks is itself
    a finding.
    """
    checks = [_python, _packages, _ops, _blas, _memory, _disk, _gpu, _pictures, _hdf5, _terminal]
    findings = []
    for check in checks:
        findings += _guarded(check)
    if data is not None:
        from minires.instruments.doctor_data import examine

        findings += _guarded(lambda: examine(data), "data")
    return findings


def diagnose_files(paths: list[str]) -> list[Finding]:
    """Look at checkpoints, weights, data files or pictures alone; each is verified as far as it can be."""
    from minires.instruments.doctor_file import examine

    return [finding for path in paths for finding in _guarded(lambda path=path: examine(path), Path(path).name)]


def _guarded(check, name: str | None = None) -> list[Finding]:
    """The check's findings; what it raises becomes one."""
    name = name or check.__name__.strip("_")
    try:
        return list(check())
    except MiniresError as error:
        return [Finding(name, "fail", *_detail_and_fix(str(error)))]
    except Exception as error:  # a doctor must not die of what it looks at
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return [Finding(name, "fail", f"the check itself broke: {what}", "run it again; if it stays, report it")]


def _detail_and_fix(message: str) -> tuple[str, str]:
    """An error of minires ends with what to do, after the last colon or semicolon."""
    at = max(message.rfind(": "), message.rfind("; "))
    return (message[:at], message[at + 2 :]) if at > 0 else (message, "see the message")


def _python():
    wanted = "3.11"
    version = platform.python_version()
    old = _release(version) < _release(wanted)
    yield Finding("Python", "fail" if old else "ok", version, f"install Python {wanted} or newer" if old else "")


def _packages():
    """Every requirement in the metadata of the installed minires that no extra asks for."""
    try:
        requirements = metadata.requires("minires") or []
    except metadata.PackageNotFoundError:
        yield Finding("minires", "warn", "runs from a folder, not installed", "pip install -e . in its folder")
        return
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        name, wanted = re.match(r"([\w.-]+)(?:\s*>=\s*([\d.]+))?", requirement).groups()
        fix = f"pip install '{name}>={wanted}'" if wanted else f"pip install {name}"
        try:
            version = metadata.version(name)
            import_module(IMPORT_NAMES.get(name, name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "fail", "not installed", fix)
        except Exception as error:  # a broken binary raises more than ImportError
            reason = (str(error) or type(error).__name__).splitlines()[0]
            yield Finding(name, "fail", f"installed but cannot be imported: {reason}", f"{fix} --force-reinstall")
        else:
            old = wanted is not None and _release(version) < _release(wanted)
            detail = f"{version}, needs {wanted} or newer" if old else version
            yield Finding(name, "fail" if old else "ok", detail, f"{fix} --upgrade" if old else "")


def _release(version: str) -> tuple[int, ...]:
    """'2.4.6rc1' -> (2, 4, 6); trailing zeros do not count."""
    numbers = [int(n) for n in re.match(r"[\d.]*", version)[0].split(".") if n]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _ops():
    """What runs the ops on the CPU, on how many workers, and why so many."""
    # on Windows there is nothing to compile: the kernels use pthreads
    missing = cpu.engine._kernels is None and sys.platform != "win32"
    again = "pip install --force-reinstall --no-deps --no-cache-dir"
    compiler = "install a C compiler and Python's headers (gcc, python3-dev)"
    fix = f"{compiler}, then `{again} minires`, or in a checkout `{again} -e .`"
    detail = f"{cpu.description()} ({explain_cores()[1]})"
    if files := proven.edited():
        detail += f"; what was edited runs as it reads: {', '.join(files)}"
    yield Finding("ops", "warn" if missing else "ok", detail, fix if missing else "")


def _blas():
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ", ".join(f"{lib['internal_api']} {lib['version'] or ''}".strip() for lib in libraries) or "not recognised"
    threads = max((library["num_threads"] for library in libraries), default=1)
    detail = f"{names}, {threads} threads on {cores} cores"
    many = threads > cores
    fix = f"export OMP_NUM_THREADS={cores}: more threads than cores slow each other down" if many else ""
    yield Finding("BLAS", "warn" if many else "ok", detail, fix)
    yield _matmul(threads)


def _matmul(threads: int) -> Finding:
    """A product with a known answer, and how fast it is: the best of a few."""
    n = 768
    rows = (np.arange(n * n, dtype=np.float32) % 7).reshape(n, n)
    eye = 2 * np.eye(n, dtype=np.float32)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        product = rows @ eye
        seconds.append(time.perf_counter() - start)
    if not np.array_equal(product, 2 * rows):
        fix = "pip install --force-reinstall numpy: its matrix product is broken here"
        return Finding("matrix product", "fail", "a product with a known answer came out wrong", fix)
    speed = 2 * n**3 / min(seconds) / 1e9
    detail = f"{speed:.0f} GFLOP/s in float32"
    if speed < MIN_GFLOPS * threads:
        fix = "close other programs, or pip install --force-reinstall numpy: the wheels bring a fast BLAS"
        return Finding("matrix product", "warn", f"{detail}, slow for {threads} threads", fix)
    return Finding("matrix product", "ok", detail)


def _memory():
    from minires.nn import resnet50

    need = summarize(resnet50(), batch=32).memory.total("adam")
    free = _free_memory()
    detail = f"ResNet-50 at batch 32 needs about {show_bytes(need)}"
    if free is None:
        yield Finding("memory", "ok", f"{detail}; how much is free is not known on this system")
    elif free < 1.2 * need:  # Python, its libraries and the data want some too
        fix = "use a smaller --batch-size or --arch resnet20, or close other programs"
        yield Finding("memory", "warn", f"{show_bytes(free)} free; {detail}", fix)
    else:
        yield Finding("memory", "ok", f"{show_bytes(free)} free; {detail}")


def _free_memory() -> int | None:
    """Bytes that a new program can have, within a container's limit if there is one; None where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def _disk():
    here = Path.cwd()
    try:
        with tempfile.NamedTemporaryFile(dir=here, prefix=".minires-doctor-"):
            pass
    except OSError as error:
        detail = f"{here} cannot be written ({error.strerror})"
        yield Finding("folder", "fail", detail, "change to a folder of your own, or give --out one")
    else:
        yield Finding("folder", "ok", f"{here} can be written")
    free = shutil.disk_usage(here).free
    low = free < MIN_DISK
    fix = f"free {show_bytes(MIN_DISK - free)} there, or give --out a folder on another disk" if low else ""
    yield Finding("disk", "warn" if low else "ok", f"{show_bytes(free)} free", fix)


def _gpu():
    device, reason = choose_device("auto")
    if device == "gpu":
        import cupy

        free, total = cupy.cuda.runtime.memGetInfo()
        yield Finding("GPU", "ok", f"{reason}, {show_bytes(free)} of {show_bytes(total)} free")
    elif "not installed" in reason and not shutil.which("nvidia-smi"):
        yield Finding("GPU", "ok", "none found, the CPU is used")
    elif re.search(r"header|\.h\b|CUDA_PATH|nvrtc", reason):
        extra = "cupy-cuda13x[ctk]" if "13" in reason else "cupy-cuda12x[ctk]"
        fix = f"pip install '{extra}': it brings the CUDA headers that CuPy compiles its kernels with"
        yield Finding("GPU", "warn", f"CUDA headers are missing: {reason}", fix)
    else:
        detail, fix = _detail_and_fix(reason)
        yield Finding("GPU", "warn", f"not used: {detail}", fix)


def _pictures():
    from matplotlib import __version__ as version
    from matplotlib.figure import Figure
    from PIL import Image, features

    buffer = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(buffer, format="png")
    yield Finding("matplotlib draws", "ok", f"{version}, a PNG of {len(buffer.getvalue())} bytes")
    if features.check("jpg"):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, format="JPEG")
        Image.open(buffer).load()
        yield Finding("JPEG", "ok", f"Pillow reads and writes it ({features.version('jpg') or 'version unknown'})")
    else:
        fix = "pip install --force-reinstall pillow: the wheels can, a build without libjpeg cannot"
        yield Finding("JPEG", "fail", "Pillow cannot read photographs", fix)


def _hdf5():
    import h5py

    kept = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with h5py.File("doctor.h5", "w", driver="core", backing_store=False) as file:
        file["x"] = kept
        same = np.array_equal(file["x"][()], kept)
    version = f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"
    result = "a round trip is exact" if same else "a round trip changes data"
    fix = "" if same else "pip install --force-reinstall h5py"
    yield Finding("HDF5", "ok" if same else "fail", f"{version}, {result}", fix)


def _terminal():
    console = Console()
    detail = f"{console.width} columns, {console.encoding}"
    if "utf" in console.encoding.lower():
        yield Finding("terminal", "ok", detail)
    else:
        yield Finding("terminal", "warn", f"{detail}: tables may look odd", "export PYTHONUTF8=1")
