"""Processes that a launcher of MPI started: which rank this one is, and a guardian that outlives it.

`mpiexec -n 4 minires train ...` starts four processes. Each forks before anything else: the child is the rank, the
parent waits for it. Where the system kills the rank, out of memory say, nothing in it can say so any more, and the
launcher, which ends all others at once, knows neither rank nor reason; the parent does.
"""

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress

# what the launchers of MPICH and Intel MPI, Slurm's PMIx, Open MPI and MVAPICH tell each process: its rank, how many
_NAMES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_NTASKS"),
)
_DEATH = 1  # PR_SET_PDEATHSIG of prctl(2)


def launched() -> tuple[int, int] | None:
    """(rank, how many) as the launcher says, 0 where it does not say how many; None where there was none."""
    for rank, size in _NAMES:
        if os.environ.get(rank, "").isdecimal():
            count = os.environ.get(size, "")
            return int(os.environ[rank]), int(count) if count.isdecimal() else 0
    return None


def guarded() -> None:
    """Go on in a child, whose end its parent explains where it cannot do so itself; its exit status is the child's."""
    place = launched()
    if place is None or place[1] == 1 or not hasattr(os, "fork"):
        return
    guardian, rank = os.getpid(), os.fork()
    if not rank:
        os.setpgid(0, 0)  # what the launcher sends to the group would come twice
        with suppress(OSError, AttributeError):  # Linux: without its guardian there is no rank
            ctypes.CDLL(None).prctl(_DEATH, signal.SIGKILL)
        if os.getppid() != guardian:
            os._exit(1)
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: _pass_on(rank, number))
    _, status, used = os.wait4(rank, 0)
    if os.WIFSIGNALED(status):
        sys.stderr.write(f"minires: {_epitaph(*place, os.WTERMSIG(status), used.ru_maxrss)}\n")
        sys.stderr.flush()
    os._exit(os.waitstatus_to_exitcode(status) % 256 if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _pass_on(pid, number):
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _epitaph(rank, size, number, most) -> str:
    name = signal.Signals(number).name
    memory = f" with {most / 2**20:.1f} GiB" if sys.platform == "linux" else ""
    why = ": by hand, or because memory ran out" if number == signal.SIGKILL else ""
    return f"{place_of(rank, size)} was killed by {name}{memory}{why}; all ranks end, the last save stands"


def place_of(rank: int, size: int, host: str = "") -> str:
    """'rank 2 of 4 on HOST'."""
    return f"rank {rank}{f' of {size}' if size else ''} on {host or socket.gethostname()}"
