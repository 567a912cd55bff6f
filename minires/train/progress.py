"""Where a run stands, and how training shows it: a live bar in a terminal, plain lines everywhere else."""

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from minires.console import Console
from minires.fast.check import Agreement

PLAIN_EVERY = 15  # seconds between two plain lines within an epoch


@dataclass
class Progress:
    """Where a run stands; JSON data, stored in the checkpoint."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the current one
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    norm_sum: float = 0.0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list = field(default_factory=list)
    stopped: str = ""  # why training ended, if it did
    how: str = ""  # in which way the latest steps were computed
    check: dict = field(default_factory=dict)  # how far that is from the layers, see fast/check.py
    judge: str = "test"  # the part that chooses the epoch: "validation" where there is one

    @property
    def where(self) -> str:
        return f"epoch {self.epoch}" + (f" and {self.batch} batches of the next" if self.batch else "")


class Reporter:
    """Says nothing. The base of the reporters, and the default in Python code."""

    @contextmanager
    def running(self, epochs: int, steps: int, progress):
        """Around the whole run: `steps` a epoch, starting from `progress`."""
        yield

    def step(self, progress) -> None:
        """After each step."""

    def epoch(self, row: dict, progress) -> None:
        """After each epoch, with its row of the history."""

    def interrupted(self, out: Path | None, kept: str | None = None) -> None:
        """After Ctrl-C, when the state is saved; kept: it was not, and this is what `out` holds ("": nothing)."""


class ConsoleReporter(Reporter):
    """A bar with loss, accuracy, images a second and the time left; a line an epoch that stays."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.bar, self.how = None, ""

    @contextmanager
    def running(self, epochs, steps, progress):
        self.epochs, self.steps = epochs, steps
        self.began, self.last = time.perf_counter(), time.perf_counter()
        self.done_before = progress.epoch * steps + progress.batch
        if not self.console.is_terminal:
            yield
            return
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
        ]
        with Bar(*columns, console=self.console, transient=True) as self.bar:
            self.task = self.bar.add_task(
                self._where(progress), total=epochs * steps, completed=self.done_before, numbers=""
            )
            yield
        self.bar = None

    def _where(self, p) -> str:
        return f"epoch {min(p.epoch + 1, self.epochs)}/{self.epochs}"

    def _numbers(self, p) -> str:
        return f"loss {p.loss_sum / p.seen:.3f}  accuracy {p.correct / p.seen:.1%}  {p.seen / p.seconds:.0f} images/s"

    def step(self, p):
        done = p.epoch * self.steps + p.batch
        if not p.seen:
            return
        if self.bar:
            self.bar.update(self.task, completed=done, description=self._where(p), numbers=self._numbers(p))
        elif time.perf_counter() - self.last > PLAIN_EVERY:
            self.last = time.perf_counter()
            each = (self.last - self.began) / (done - self.done_before)
            left = each * (self.epochs * self.steps - done)
            self.console.print(
                f"{self._where(p)}  batch {p.batch}/{self.steps}  {self._numbers(p)}  {_clock(left)} left"
            )

    def epoch(self, row, p):
        held = ""
        if f"{p.judge}_loss" in row:
            held = f"  {p.judge} loss {row[f'{p.judge}_loss']:.3f}  accuracy {row[f'{p.judge}_accuracy']:.1%}"
        self.last = time.perf_counter()
        self.console.print(
            f"epoch {row['epoch']}/{self.epochs}  {_clock(row['seconds'])}  {row['images_per_second']:.0f} images/s"
            f"  train loss {row['train_loss']:.3f}  accuracy {row['train_accuracy']:.1%}{held}",
        )
        if p.how != self.how:
            self.how = p.how
            self.console.print(f"each step: {p.how}; {Agreement(**p.check)}", style="dim")
        if p.stopped:
            self.console.print(f"stopped early: {p.stopped}; best.h5 is epoch {p.best_epoch}")

    def interrupted(self, out, kept=None):
        if out is None:
            self.console.print("stopped; nothing was saved, since no folder was given")
        elif kept == "":
            self.console.print("stopped at once; nothing was saved yet")
        else:
            what = "stopped; everything is saved" if kept is None else f"stopped at once; {kept} is saved"
            self.console.print(f"{what}. Go on with: minires train --resume {out}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
