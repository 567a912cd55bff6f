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
import time
from contextlib import suppress
from itertools import pairwise

# what the launchers of MPICH and Intel MPI, Slurm's PMIx, Open MPI and MVAPICH tell each process: its rank, how many
_NAMES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", "SLURM_NTASKS"),
)
HEARD = 0.3  # seconds for what was said last to get through the launcher, before it ends all
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
    status, used = _end_of(rank, place)
    if os.WIFSIGNALED(status):
        _say(f"{place_of(*place)} was killed by {_cause(os.WTERMSIG(status), used.ru_maxrss)}")
    _leave(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def _end_of(rank, place):
    """(status, what it used) of the rank's process at its end; one that stays stopped is ended."""
    stopped = None  # since when, and by which signal
    while True:
        pid, status, used = os.wait4(rank, os.WUNTRACED | os.WCONTINUED | (os.WNOHANG if stopped else 0))
        if pid and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            return status, used
        if pid:
            stopped = (time.monotonic(), os.WSTOPSIG(status)) if os.WIFSTOPPED(status) else None
        elif (seconds := time.monotonic() - stopped[0]) > _limit():
            name = signal.Signals(stopped[1]).name
            _say(f"{place_of(*place)} has been stopped ({name}) for {seconds:.0f} s")
            _leave(1)
        else:
            time.sleep(0.1)


def _leave(status):
    """End, and where that is a failure all others too: while they start, MPICH's launcher would wait for ever."""
    fd = os.environ.get("PMI_FD", "")
    if status and fd.isdecimal():
        time.sleep(HEARD)
        with suppress(OSError):
            os.write(int(fd), f"cmd=abort exitcode={status}\n".encode())  # PMI 1, to the launcher
            time.sleep(5)
    os._exit(status)


def _limit() -> float:
    """Seconds that others wait for this rank: twice what --stall says."""
    text = next((after for option, after in pairwise(sys.argv) if option == "--stall"), "")
    with suppress(ValueError):
        return 2 * float(text)
    return 60.0


def _say(line):
    sys.stderr.write(f"minires: {line}: all end, the last save stands: go on with --resume, with any number of ranks\n")
    sys.stderr.flush()


def _pass_on(pid, number):
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _cause(number, most) -> str:
    memory = f" with {most / 2**20:.1f} GiB" if sys.platform == "linux" else ""
    return signal.Signals(number).name + memory + ": by hand, or because memory ran out" * (number == signal.SIGKILL)


def place_of(rank: int, size: int, host: str = "") -> str:
    """'rank 2 of 4 on HOST'."""
    return f"rank {rank}{f' of {size}' if size else ''} on {host or socket.gethostname()}"
