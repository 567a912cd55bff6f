"""Where a run stands, and how training shows it: a live bar in a terminal, plain lines everywhere else."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from minires.backend import Array
from minires.console import Console, Shown
from minires.fast.check import Agreement
from minires.fast.step import Step
from minires.train.scores import with_interval

PLAIN_EVERY = 15  # seconds between two plain lines within an epoch


@dataclass
class Progress(Shown):
    """Where a run stands; JSON data, stored in the checkpoint. Printed, a line an epoch."""

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
        """As far as it has come, in words."""
        return f"epoch {self.epoch}" + (f" and {self.batch} batches of the next" if self.batch else "")

    def table(self) -> Table:
        """A row an epoch: loss and accuracy of the training images, and of those that were held out."""
        held = ("loss", "accuracy") if any(f"{self.judge}_loss" in row for row in self.history) else ()
        table = Table("epoch", "train loss", "train accuracy", *(f"{self.judge} {what}" for what in held), "seconds")
        table.caption = self.stopped or None
        for row in self.history:
            numbers = [f"{row['train_loss']:.3f}", f"{row['train_accuracy']:.1%}"]
            if held:
                interval = [row[f"{self.judge}_accuracy_{end}"] for end in ("low", "high")]
                told = with_interval(row[f"{self.judge}_accuracy"], interval)
                numbers += [f"{row[f'{self.judge}_loss']:.3f}", told]
            table.add_row(str(row["epoch"]), *numbers, f"{row['seconds']:.1f}")
        return table


class Reporter:
    """What `fit` and `resume` call while they train; here each method does nothing. Subclass it to see a run:

        class Losses(Reporter):
            def epoch(self, row, progress):
                print(row["epoch"], row["train_loss"])

        fit(classifier, train, test, reporter=Losses())

    In the order of the calls: `running` around all others, but for a `save` before it where a run goes on; `save` for
    the state that a new one begins with; for each step `batch`, the step, `step`; at the end of each epoch `save` and
    `epoch`; `interrupted` where Ctrl-C or SIGTERM ended it. Of several ranks the first calls. A method's exception
    ends the run. `Reporters` makes several one. All but `save` are called in the thread that trains, and what they take
    is the run's time.
    """

    @contextmanager
    def running(self, epochs: int, steps: int, progress: Progress) -> Iterator[None]:
        """Around the whole run: `steps` an epoch, starting from `progress`, which follows the run."""
        yield

    def batch(self, step: Step, x: Array, labels: Array) -> None:
        """Before each step, with the `Step` (fast/step.py: its model, optimizer, label_smoothing) and what it takes.

        x (N, H, W, C) is the network's input, preprocessed, labels (N,) its classes, both on the device of the weights.
        Nothing of them may be changed; the weights are those before the update, and p.data after it in `step`.
        """

    def step(self, progress: Progress) -> None:
        """After each step; loss_sum / seen is the epoch's mean loss so far. On a GPU it lags a few steps behind."""

    def epoch(self, row: dict, progress: Progress) -> None:
        """After each epoch, with its row of the history: what `history.jsonl` has a line of."""

    def save(self, out: Path, progress: Progress) -> None:
        """Write what belongs to the state `progress`, a copy, into the run's folder `out`.

        Called just before `model.h5` is replaced by that state, in a thread of its own while the next epoch trains, and
        when a run is opened to go on from `progress`: a kill may have left one's files ahead of it. So a file that is a
        function of `progress` alone is right whatever happens.
        """

    def interrupted(self, out: Path | None, kept: str | None = None) -> None:
        """After Ctrl-C, when the state is saved; kept: it was not, and this is what `out` holds ("": nothing)."""


class Reporters(Reporter):
    """Several as one; each is called in turn."""

    def __init__(self, *reporters: Reporter):
        self.reporters = reporters

    @contextmanager
    def running(self, epochs: int | None, steps: int, progress: Progress) -> Iterator[None]:
        with ExitStack() as stack:
            for each in self.reporters:
                stack.enter_context(each.running(epochs, steps, progress))
            yield

    def batch(self, step: Step, x: Array, labels: Array) -> None:
        for each in self.reporters:
            each.batch(step, x, labels)

    def step(self, progress: Progress) -> Any:
        for each in self.reporters:
            each.step(progress)

    def epoch(self, row: dict, progress: Progress) -> None:
        for each in self.reporters:
            each.epoch(row, progress)

    def save(self, out: Path, progress: Progress) -> None:
        for each in self.reporters:
            each.save(out, progress)

    def interrupted(self, out: Path | None, kept: str | None = None) -> None:
        for each in self.reporters:
            each.interrupted(out, kept)


class ConsoleReporter(Reporter):
    """A bar with loss, accuracy, images a second and the time left; a line an epoch that stays."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.bar, self.how = None, ""
        self.classes, self.folder, self.warned = None, None, False

    @contextmanager
    def running(self, epochs: int | None, steps: int, progress: Progress) -> Iterator[None]:
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

    def batch(self, step: Step, x: Array, labels: Array) -> None:
        self.classes = getattr(step.model, "classes", None)

    def save(self, out: Path, progress: Progress) -> None:
        self.folder = out

    def _where(self, p) -> str:
        return f"epoch {min(p.epoch + 1, self.epochs)}/{self.epochs}"

    def _numbers(self, p) -> str:
        return f"loss {p.loss_sum / p.seen:.3f}  accuracy {p.correct / p.seen:.1%}  {p.seen / p.seconds:.0f} images/s"

    def step(self, p: Progress) -> Any:
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

    def epoch(self, row: dict, p: Progress) -> None:
        held = ""
        if f"{p.judge}_loss" in row:
            accuracy, *interval = (row[f"{p.judge}_accuracy{end}"] for end in ("", "_low", "_high"))
            told = with_interval(accuracy, interval)
            held = f"  {p.judge} loss {row[f'{p.judge}_loss']:.3f}  accuracy {told}"
        self.last = time.perf_counter()
        self.console.print(
            f"epoch {row['epoch']}/{self.epochs}  {_clock(row['seconds'])}  {row['images_per_second']:.0f} images/s"
            f"  train loss {row['train_loss']:.3f}  accuracy {row['train_accuracy']:.1%}{held}",
        )
        if p.how != self.how:
            self.how = p.how
            self.console.print(f"each step: {p.how}; {Agreement(**p.check)}", style="dim")
        if not self.warned and self.classes and (why := guesses(p, self.classes)):
            self.warned = True
            self.console.print(f"it does not learn: {why}; find out why: minires diagnose {self.folder or 'RUN'}")
        if p.stopped:
            self.console.print(f"stopped early: {p.stopped}; best.h5 is epoch {p.best_epoch}")

    def interrupted(self, out: Path | None, kept: str | None = None) -> None:
        if out is None:
            self.console.print("stopped; nothing was saved, since no folder was given")
        elif kept == "":
            self.console.print("stopped at once; nothing was saved yet")
        else:
            what = "stopped; everything is saved" if kept is None else f"stopped at once; {kept} is saved"
            self.console.print(f"{what}. Go on with: minires train --resume {out}")


def guesses(p: Progress, classes: int) -> str:
    """Why a run looks as if nothing were learned, once two epochs can tell; else nothing."""
    row, chance = p.history[-1], math.log(classes)
    if p.epoch < 2:
        return ""
    if row["train_loss"] > 0.97 * chance:
        return f"after {p.epoch} epochs the loss is {row['train_loss']:.3g}, where guessing gives {chance:.3g}"
    if row.get(f"{p.judge}_classes") == 1:
        return f"after {p.epoch} epochs it takes every {p.judge} image for one class"
    return ""


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
