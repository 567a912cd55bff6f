"""Judges a student's file in a process of its own, with limits on time, memory and print.

    verdict = judge(path, exercise(1))
    verdict.ok, verdict.results, verdict.printed

The worker's verdict comes in a file of its own, so that nothing which the student's file prints can pass for it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from minires.lessons.exercises import Exercise
from minires.lessons.exercises.worker import Result

from minires.errors import DataError, StateError

TIME_LIMIT = 30.0  # seconds for the student's code, imports of ours not counted
STARTUP = 60.0  # seconds more, for a slow machine to start Python
PRINTED = 4000  # bytes of what the file prints that are kept


@dataclass(frozen=True)
class Verdict:
    """The checks that ran, the names of those that did not, and what the file printed."""

    results: tuple[Result, ...]
    unreached: tuple[str, ...]
    printed: str

    @property
    def ok(self) -> bool:
        """Whether every check ran and passed."""
        return not self.unreached and all(r.ok for r in self.results)


def judge(path: str | os.PathLike, task: Exercise, seconds: float | None = None) -> Verdict:
    """Run the checks of `task` on the file, for `seconds` (TIME_LIMIT) at most. DataError where there is no file."""
    path = Path(os.path.abspath(path))
    if not path.is_file():
        problem = "expected a Python file, but it is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {problem}: `minires exercise {task.number}` writes one to start from")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: cannot be read (Permission denied): check its permissions")
    seconds = TIME_LIMIT if seconds is None else seconds
    with tempfile.TemporaryDirectory(prefix="minires-", ignore_cleanup_errors=True) as folder:
        verdict = Path(folder) / "verdict"
        status, printed = _run(path, task, verdict, seconds)
        return _read(path, verdict, status, seconds, printed)


def _run(path, task, verdict, seconds) -> tuple[int | None, str]:
    """(the worker's exit status, None where it had to be killed; what was printed)."""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    module = "minires.lessons.exercises.worker"
    worker = subprocess.Popen(
        # -P: no file beside the student's stands in the way of a module; -u: what was printed before the end is seen
        [sys.executable, "-P", "-u", "-m", module, str(task.number), str(path), str(verdict), str(seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | threads | {"PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )
    printed, count = bytearray(), 0

    def drain():
        nonlocal count
        for chunk in iter(lambda: worker.stdout.read1(65536), b""):
            printed.extend(chunk[: PRINTED - len(printed)])
            count += len(chunk)

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        status = worker.wait(seconds + STARTUP)
        reader.join(1)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        if reader.is_alive():  # the worker runs, or a process that it left behind
            _kill(worker)
            reader.join(5)
    text = printed.decode("utf-8", "replace")
    return status, text + (f"\n... and {count - PRINTED:,} bytes more" if count > PRINTED else "")


def _kill(worker: subprocess.Popen) -> None:
    try:
        os.killpg(worker.pid, signal.SIGKILL)
    except (AttributeError, ProcessLookupError, PermissionError):  # no groups on Windows; gone already
        worker.kill()
    worker.wait()


def _read(path, verdict, status, seconds, printed) -> Verdict:
    """The verdict from the worker's lines; a worker that did not come to the end fails the check it was in."""
    lines = verdict.read_text(encoding="utf-8").splitlines() if verdict.exists() else []
    events = [json.loads(line) for line in lines]
    if not any("begins" in e for e in events):
        raise StateError(f"exercise: the checks did not start: {' '.join(printed.split())[-300:] or 'no reason given'}")
    results = [Result(**e["result"]) for e in events if "result" in e]
    if "end" not in events[-1]:
        begun = [e["begins"] for e in events if "begins" in e]
        # a file that ends the process as the last check is over has failed that one
        results = [*results[: len(begun) - 1], Result(begun[-1], *_ending(path, verdict, status, seconds))]
    reached = [r.name for r in results]
    return Verdict(tuple(results), tuple(n for n in events[0]["names"] if n not in reached), printed)


def _ending(path, verdict, status, seconds) -> tuple[str, str]:
    """(what ended the worker, a hint)."""
    trace = Path(f"{verdict}.trace").read_text(encoding="utf-8", errors="replace")
    if trace or status is None:
        found = re.search(rf'File "{re.escape(str(path))}", line (\d+)', trace)
        where = f", in line {found[1]}" if found else ""
        return f"still running after {seconds:g} s{where}", "Does the loop ever meet its end? And is it needed at all?"
    if status < 0:
        return (
            f"the process died ({signal.strsignal(-status)})",
            "Out of memory, or memory that was not its own (as_strided beyond the array).",
        )
    return f"ends the whole process with status {status} (os._exit)", "Let functions return; remove os._exit()."
