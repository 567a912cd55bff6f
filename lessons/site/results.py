"""What the lessons measure, each measurement kept as a JSON file so that a second build need not repeat it."""

import hashlib
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from minires.lessons.harness import default_knobs, load, provenance

import minires
from minires import lessons
from minires.backend import blas_threads
from minires.errors import MiniresError
from minires.files import write_text

ALONE = (13, 14)  # lessons that report seconds: nothing else runs meanwhile, and they may use all threads


@dataclass(frozen=True)
class Job:
    """`measure` of one lesson, with the knobs that differ from their defaults."""

    number: int
    changed: tuple[tuple[str, object], ...] = ()

    @classmethod
    def of(cls, number: int, knobs: dict) -> "Job":
        """The job for these knobs; those that are at their defaults are not said."""
        defaults = default_knobs(load(number).measure)
        return cls(number, tuple((name, value) for name, value in knobs.items() if defaults[name] != value))

    @property
    def knobs(self) -> dict:
        return default_knobs(load(self.number).measure) | dict(self.changed)

    @property
    def file(self) -> str:
        """'lesson_03_depth_80.json'."""
        values = ((v if isinstance(v, tuple) else (v,)) for _, v in self.changed)
        words = [f"{name}_{'_'.join(map(str, v))}" for (name, _), v in zip(self.changed, values, strict=True)]
        return "_".join([f"lesson_{self.number:02}", *words]) + ".json"


def measured(jobs: list[Job], folder: Path, say: Callable[[str], None]) -> dict[Job, dict]:
    """Job -> {"provenance", "seconds", "result", ...}: read from `folder`, else measured and written there.

    Several jobs run at a time, each in a process of its own with one thread. A file is used again while it was
    measured by the very same source code, NumPy and Python. say: told what has been done. Raises the lesson's own
    error, with its number.
    """
    found = {job: record for job in jobs if (record := _kept(folder / job.file)) is not None}
    missing = [job for job in dict.fromkeys(jobs) if job not in found]
    if missing:
        say(f"measuring {len(missing)} settings: minutes in full, less with --quick")
    for done, (job, result, seconds) in enumerate(_results(missing), 1):
        record = {"source": _fingerprint(), "seconds": round(seconds, 1), "result": result}
        record |= {"lesson": job.number, "provenance": provenance(load(job.number).LESSON, job.knobs)}
        text = json.dumps(record)
        write_text(folder / job.file, text)
        found[job] = json.loads(text)
        say(f"measured {done} of {len(missing)}: lesson {job.number}, {seconds:.0f} s")
    return found


def _results(jobs: list[Job]) -> Iterator[tuple[Job, dict, float]]:
    """Each job with its result and seconds, as they come."""
    # the later lessons train networks: begin with what takes longest
    beside = sorted((job for job in jobs if job.number not in ALONE), key=lambda job: -job.number)
    if beside:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        # Ctrl-C ends the workers at once and without a word
        quiet = (signal.signal, (signal.SIGINT, signal.SIG_DFL))
        with ProcessPoolExecutor(min(len(beside), cores), get_context("spawn"), *quiet) as pool:
            running = {pool.submit(_measure, job, threads=1): job for job in beside}
            try:
                for future in as_completed(running):
                    yield running[future], *future.result()
            finally:
                pool.shutdown(cancel_futures=True, wait=False)
    for job in jobs:
        if job.number in ALONE:
            yield job, *_measure(job)


def _measure(job: Job, threads: int | None = None) -> tuple[dict, float]:
    start = time.perf_counter()
    try:
        with blas_threads(threads):
            return load(job.number).measure(**job.knobs), time.perf_counter() - start
    except MiniresError as error:
        raise type(error)(f"lesson {job.number}: {error}") from None


def _kept(path: Path) -> dict | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["source"] == _fingerprint() else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours
        return None


@cache
def _fingerprint() -> str:
    """Of all that a measurement may rest on: versions, the library's source and the lessons', but not these pages'."""
    library, pages = Path(minires.__file__).parent, Path(__file__).parent
    source = {file for kind in ("py", "c", "h", "cu") for file in library.rglob(f"*.{kind}")}
    files = sorted((source | {*Path(lessons.__file__).parent.glob("*.py")}) - {*pages.glob("*.py")})
    versions = f"NumPy {np.__version__}, Python {platform.python_version()}".encode()
    return hashlib.sha256(b"\0".join([versions, *(file.read_bytes() for file in files)])).hexdigest()
