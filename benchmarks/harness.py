"""Fair timing of several contenders: taking turns, one process each, with a look at what else the machine did.

A contender lives in a process of its own, because thread pools of two libraries in one process disturb each
other, and because peak memory is a property of a process. All are built first; then they take turns, one
turn each in every round, so that a slow minute of the machine falls on all alike, and ratios are formed
round by round. A contender is made by a function `build(name, task, options)` at the top level of a module;
it returns a callable that does one turn's work so many times as it is told, or raises Unavailable. A turn that fails
takes its contender out of the comparison, with its reason, and nobody else.
"""

import json
import math
import os
import resource
import signal
import statistics
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from minires.benchmarks.watch import contention
from rich import box
from rich.console import Console
from rich.table import Table

from minires.errors import MiniresError

# Seconds between two turns: thread pools may spin for up to 0.2 s after their last work, on the next one's cores.
PAUSE = 0.25
# Seconds that a turn of `compare` takes at least, by calls one after the other: what is done in less than a millisecond
# would mostly show how fast threads wake up after the pause.
LEAST = 0.05
THREAD_VARIABLES = ("MINIRES_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Unavailable(MiniresError):
    """A contender that cannot run here, and why."""


class Turn(NamedTuple):
    """One turn: wall time, CPU time of the process, its peak memory so far, and what the turn returned."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    value: object = None


@dataclass
class Spread:
    """Order statistics of a series."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    best: float

    @classmethod
    def of(cls, values) -> "Spread":
        values = sorted(values)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(median, low, high, values[0])


@dataclass
class Result:
    """What one contender did in all rounds."""

    name: str
    seconds: list  # wall time of a call, the mean of each turn's
    cpu_seconds: list  # CPU time of its process, likewise
    peak_mib: float
    calls: int = 1  # in a turn
    told: dict | None = None  # by its process, once it was built

    def ratio(self, other: "Result") -> Spread:
        """This one's time over the other's, formed round by round."""
        return Spread.of([a / b for a, b in zip(self.seconds, other.seconds, strict=True)])


# --- processes --------------------------------------------------------------------------------------------


def peak_mib() -> float:
    """The largest resident memory of this process so far.

    ru_maxrss may start from the size of the process that launched this one, so Linux's own mark is preferred.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def _serve(pipe, build, name, task, options):
    """A contender's process: build, tell (`turn.told`), then one turn for each message, which is its arguments."""
    try:
        turn = build(name, task, options)
    except Exception as error:
        pipe.send(_unavailable(error))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business, which then ends this process
    pipe.send(getattr(turn, "told", None))
    while True:
        message = pipe.recv()
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            value = turn(*message)
        except Exception as error:  # the process lives on: the next turn may be a smaller one
            pipe.send(_unavailable(error))
            continue
        pipe.send(Turn(time.perf_counter() - wall, time.process_time() - cpu, peak_mib(), value))


def _unavailable(error: Exception) -> Unavailable:
    """The error as one line that can travel."""
    if isinstance(error, Unavailable):
        return error
    lines = str(error).strip().splitlines() or [""]
    told = lines[-1].strip() if lines[0].endswith(":") else lines[0]  # "in user code:" and a traceback of its own
    expected = isinstance(error, (ImportError, MemoryError))
    return Unavailable(told if expected and told else f"{type(error).__name__}: {told[:200]}")


class Worker:
    """The parent's end of a contender's process. patience: the seconds to wait for each answer (None: for ever)."""

    def __init__(self, build, name, task, options, patience=None):
        self.name, self.patience = name, patience
        self.pipe, theirs = get_context("spawn").Pipe()
        # a daemon: it ends with this process, whatever happens to it
        process = get_context("spawn").Process(target=_serve, args=(theirs, build, name, task, options), daemon=True)
        process.start()
        theirs.close()
        self.process = process
        self.told = self._receive()

    def _receive(self):
        if not self.pipe.poll(self.patience):
            self.close()
            raise Unavailable(f"no answer within {self.patience:.0f} s")
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise Unavailable("its process ended; its own message stands above") from None
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    def turn(self, *message) -> Turn:
        """One turn, called with these arguments; Unavailable where it failed."""
        if self.pipe.closed:
            raise Unavailable("its process was ended")
        with suppress(OSError):  # it has died since; there is nothing to receive then either
            self.pipe.send(message)
        return self._receive()

    def cpu_seconds(self) -> float:
        """CPU time of the process so far, between turns too; 0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        self.process.kill()
        self.process.join()
        self.pipe.close()


def left_out(name, error, missing=None) -> None:
    """Say on stderr who does not take part, and why; `missing` keeps it."""
    print(f"{name}: left out: {error}", file=sys.stderr)
    if missing is not None:
        missing[name] = str(error)


@contextmanager
def _environment(variables):
    """Inside, new processes get these variables, which libraries read when they are loaded; None: not set."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables):
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def started(build, names, task, options, threads=None, missing=None, environment=None):
    """The workers of those contenders that are available; the others are named on stderr and in `missing`.

    environment(name, options): further variables of a contender's process.
    """
    workers, every = [], dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {}
    try:
        for name in names:
            with _environment(every | (environment(name, options) if environment else {})):
                try:
                    workers.append(Worker(build, name, task, options))
                except Unavailable as error:
                    left_out(name, error, missing)
        yield workers
    finally:
        for worker in workers:
            worker.close()


def compare(
    build, names, task, options, *, rounds, warmup, threads=None, seconds=None, missing=None, environment=None, least=0
):
    """(results of the contenders that are available, what the machine did meanwhile).

    seconds: stop after the round in which so many have passed since the first one began.
    least: seconds that a turn takes at least; after the warm-up, of a call a turn, each contender's turns get as many
    calls as that needs.
    """
    with started(build, names, task, options, threads, missing, environment) as workers:
        turns = {worker.name: [] for worker in workers}
        calls = dict.fromkeys(turns, 1)

        def attempt(worker):
            try:
                return worker.turn(calls[worker.name])
            except Unavailable as error:
                left_out(worker.name, error, missing)
                workers.remove(worker)
                del turns[worker.name]
                worker.close()

        for worker in list(workers):
            turn = attempt(worker)
            for _ in range(warmup - 1):
                turn = turn and attempt(worker)
            while turn and turn.seconds < least:
                calls[worker.name] *= math.ceil(1.2 * least / turn.seconds)
                turn = attempt(worker)
        with contention() as load:
            began, before = time.perf_counter(), {worker: worker.cpu_seconds() for worker in workers}
            for index in range(rounds):
                start = index % max(1, len(workers))  # no contender always follows the same one
                for worker in workers[start:] + workers[:start]:
                    time.sleep(PAUSE)
                    if turn := attempt(worker):
                        turns[worker.name].append(turn)
                if seconds is not None and time.perf_counter() - began > seconds:
                    break
            # what a contender's threads did between its turns is not another process's doing
            load.own = sum(worker.cpu_seconds() - before[worker] for worker in workers)
    results = []
    for worker in workers:
        wall, cpu, peaks, _ = zip(*turns[worker.name], strict=True)
        count = calls[worker.name]
        means = [[s / count for s in series] for series in (wall, cpu)]
        results.append(Result(worker.name, *means, max(peaks), count, worker.told))
    return results, load


# --- output -----------------------------------------------------------------------------------------------


def print_table(title: str, columns: list, rows: list) -> None:
    """A table that is also Markdown; the first column is text, the others are numbers."""
    table = Table(box=box.MARKDOWN)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    width = None if sys.stdout.isatty() else 200
    print(title)
    Console(width=width, highlight=False).print(table)


def record(benchmark, facts, options, rows) -> list:
    """Rows with all that they need to be understood, appended to the file of --json, one JSON object a line."""
    settings = {key: value for key, value in options.items() if key not in ("json", "out")}
    records = [{"benchmark": benchmark, **facts, "options": settings, **row} for row in rows]
    if options.get("json"):
        with open(options["json"], "a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in records)
    return records
