"""`mpiexec` in tests: finished, or running with a look at its ranks."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MPIEXEC = Path(sys.executable).with_name("mpiexec")
MINIRES = sys.executable, "-m", "minires"
SETTINGS = {"MINIRES_THREADS": "1"}


def needed():
    """Skips where there is no MPI."""
    pytest.importorskip("mpi4py", reason="needs 'minires[mpi]'")
    if not MPIEXEC.exists():
        pytest.skip("needs 'minires[mpi]': no mpiexec beside this Python")


def mpiexec(count, *command, timeout=300, **environment):
    """A finished `mpiexec -n COUNT COMMAND`."""
    command = [str(MPIEXEC), "-n", str(count), *map(str, command)]
    settings = os.environ | SETTINGS | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=settings)


@contextlib.contextmanager
def started(count, *command, **environment):
    """A running one; what is left of it at the end is killed."""
    command = [str(MPIEXEC), "-n", str(count), *map(str, command)]
    settings = os.environ | SETTINGS | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=settings, start_new_session=True, **pipes) as launcher:
        try:
            yield launcher
        finally:
            for pid in [*ranks(launcher.pid).values(), launcher.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def ranks(launcher: int) -> dict[int, int]:
    """rank -> its process, not its guardian's, of those below a launcher (Linux)."""
    parents, found = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    for pid in parents:
        proxy = parents.get(parents[pid])  # launcher, proxy, guardian, rank
        if proxy and parents.get(proxy) == launcher:
            with contextlib.suppress(OSError, StopIteration):
                settings = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found[int(next(s for s in settings if s.startswith(b"PMI_RANK=")).split(b"=")[1])] = pid
    return found


def wait_for(condition, seconds=60.0):
    """Whether `condition()` comes true in that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
