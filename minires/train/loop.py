"""The training loop: `fit`, with validation, early stopping, checkpoints and a resume that changes nothing.

A run is a function of its recipe and its data: the order of the images is keyed by seed and epoch, the
augmentation by seed, epoch and image. What is not a function of them is in the checkpoint, so that stopping
and resuming gives, bit for bit on the CPU, the weights of a run that was never stopped.
"""

import json
import math
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from minires.backend import device_of, get_xp, to_device
from minires.data.batches import Batches
from minires.data.dataset import Dataset
from minires.errors import CheckpointError, DivergedError
from minires.fast import communicator
from minires.fast.check import IMAGES, Agreement
from minires.fast.gpu import kernels
from minires.fast.step import make_step
from minires.files import write_text
from minires.nn.probe import first_nonfinite
from minires.train.checkpoint import Snapshot, load_checkpoint, save_checkpoint
from minires.train.classifier import Classifier, evaluate
from minires.train.progress import Reporter
from minires.train.recipe import Recipe

# Steps between two looks at the loss on a GPU: each look waits for the device.
LOOK_EVERY = 10


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


def fit(
    classifier: Classifier,
    train: Dataset,
    test: Dataset | None = None,
    recipe: Recipe | None = None,
    *,
    out: Path | None = None,
    reporter: Reporter | None = None,
    check: bool = True,
    **ways,
) -> Progress:
    """Train `classifier` in place; returns the progress with its history, one row an epoch.

    All of its layers are put in training mode first.
    out: a folder for `model.h5` (the state after the last epoch, or where Ctrl-C stopped it), `best.h5` (the
    epoch of the lowest test loss) and `history.jsonl`; written while the next epoch trains, whole when `fit` returns.
    ways: how a step is computed, for make_step: `by_layers=True`, exactly the modules; `recompute=True`,
    `max_workspace=BYTES`, for less memory; on a GPU `graph=False`, `tf32=True`.
    check: before the first step, compare what will run with the layers as they stand, in float64 (fast/check.py).
    Raises DivergedError, naming the layer, when a value is not finite, DisagreementError where that comparison fails.
    """
    run = _Run(classifier, train, test, recipe or Recipe(), Progress(), out, reporter, check, ways)
    run.save_before_start()
    return run.go()


def resume(
    out: Path,
    train: Dataset,
    test: Dataset | None = None,
    *,
    epochs=None,
    device="cpu",
    reporter=None,
    check=True,
    **ways,
) -> tuple[Classifier, Progress]:
    """Go on with the run in the folder `out`, on the same data; `epochs` may extend it.

    CheckpointError when the file holds no training state, the data are not those of the run, or the run is
    already complete.
    """
    path = Path(out) / "model.h5"
    checkpoint = load_checkpoint(path)
    if not checkpoint.training:
        raise CheckpointError(f"{path}: holds weights but no training state: start a new run")
    if checkpoint.training["data"] != train.fingerprint():
        raise CheckpointError(f"{path}: was trained on other data than {train.source}: give the data of that run")
    recipe = Recipe(**checkpoint.training["recipe"])
    progress = Progress(**checkpoint.training["progress"])
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    if progress.epoch >= recipe.epochs or (progress.stopped and epochs is None):
        raise CheckpointError(
            f"{path}: this run is complete ({progress.stopped or f'{progress.epoch} epochs'}): "
            f"give more epochs than {progress.epoch}, or start a new run"
        )
    progress.stopped = ""
    checkpoint.classifier.model.to(device)
    run = _Run(checkpoint.classifier, train, test, recipe, progress, out, reporter, check, ways)
    run.optimizer.load_state(checkpoint.optimizer, checkpoint.training["steps"])
    return checkpoint.classifier, run.go()


class _Run:
    """One training run: the objects it works on, and its progress."""

    def __init__(self, classifier, train, test, recipe, progress, out, reporter, check, ways):
        self.classifier, self.model = classifier, classifier.model
        self.train, self.test, self.recipe, self.progress = train, test, recipe, progress
        first = communicator.current().rank == 0  # of the ranks, one saves and speaks
        self.out = Path(out) if out is not None and first else None
        self.reporter = reporter if reporter and first else Reporter()
        self.optimizer = recipe.make_optimizer(self.model.params())
        self.device = device_of(self.optimizer.weights)
        there = "gpu" if kernels.available(self.optimizer.weights) else "cpu"
        self.batches = Batches(train, recipe.batch_size, seed=recipe.seed, augment=recipe.augment, device=there)
        self.schedule = recipe.make_schedule(len(self.batches))
        self.model.train()
        self.train_step = make_step(self.model, self.optimizer, label_smoothing=recipe.label_smoothing, **ways)
        self.by_layers = ways.get("by_layers", False)
        agreement = self.check() if check else Agreement(skipped="not asked for")
        progress.check = asdict(agreement)
        self.fingerprint = train.fingerprint() if self.out else ""
        self.pending = []  # (loss, right answers, gradient norm, images) still on the device
        self.snapshot, self.saving = Snapshot(), None

    def check(self) -> Agreement:
        """Whether the step does what the layers say; while the optimiser's state still takes no memory."""
        few = np.arange(min(IMAGES, len(self.train)))
        images, labels = (to_device(part, self.device) for part in (self.train.images(few), self.train.labels[few]))
        return self.train_step.check(self.classifier.preprocess(images, self.optimizer.weights.dtype), labels)

    def save_before_start(self):
        """A full disk or a forbidden folder shows before the first step, not after the first epoch."""
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
            self.save()

    def save(self):
        """Save what is now, and wait for it."""
        if self.out:
            self.saved()
            save_checkpoint(self.out / "model.h5", self.classifier, **self.state())

    def save_aside(self, better):
        """Save what is now, while the next epoch trains. `better`: as the best one too."""
        if self.out:
            self.saved()  # one copy of the weights is enough
            self.snapshot.take(self.classifier, **self.state())
            self.saving = self.saver.submit(self.write, better)

    def saved(self, wait=True):
        """Wait for the save that is being written, if any; raises what it failed with. wait=False: if it is done."""
        if self.saving and (wait or self.saving.done()):
            self.saving.result()

    def state(self) -> dict:
        training = {
            "recipe": asdict(self.recipe),
            "progress": asdict(self.progress),
            "steps": self.optimizer.steps,
            "data": self.fingerprint,
        }
        return {"optimizer": self.optimizer.named_state(), "training": training}

    def write(self, better):
        """The snapshot's files, in the thread `saver`."""
        self.snapshot.write(self.out / "model.h5")
        rows = self.snapshot.header["training"]["progress"]["history"]
        write_text(self.out / "history.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
        if better:
            _keep(self.out / "model.h5", self.out / "best.h5")

    @contextmanager
    def saving_aside(self):
        """However training ends, what was being saved then is on disk, or its failure is raised."""
        with ThreadPoolExecutor(1, "minires-save") as self.saver:
            try:
                yield
            finally:
                self.saved()

    def go(self) -> Progress:
        p = self.progress
        running = self.reporter.running(self.recipe.epochs, len(self.batches), p)
        with running, _interruptible() as interrupted, self.saving_aside():
            while p.epoch < self.recipe.epochs and not p.stopped:
                self.run_epoch(interrupted)
                if interrupted.is_set():
                    self.save()
                    self.reporter.interrupted(self.out)
                    raise KeyboardInterrupt
                self.end_epoch()
        return p

    def run_epoch(self, interrupted):
        p = self.progress
        self.model.train()
        began, before = time.perf_counter(), p.seconds
        with self.train_step:
            for images, labels, _ in self.batches.epoch(p.epoch, start=p.batch):
                self.step(images, labels)
                self.saved(wait=False)  # a full disk shows now, not after the epoch
                p.batch += 1
                p.seconds = before + time.perf_counter() - began
                self.reporter.step(p)
                if interrupted.is_set() and p.batch < len(self.batches):
                    break
        self.look()
        p.seconds = before + time.perf_counter() - began

    def step(self, images, labels):
        """One step of training, of this rank's share. Nothing here waits for a GPU except `look`."""
        count, here = len(images), communicator.share(len(images))
        images, labels = (to_device(part[here], self.device) for part in (images, labels))
        self.x = self.classifier.preprocess(images, self.optimizer.weights.dtype)
        metrics = self.train_step(self.x, labels, self.schedule(self.optimizer.steps))
        self.pending.append((*metrics, count))
        if self.device == "cpu" or len(self.pending) >= LOOK_EVERY:
            self.look()

    def look(self):
        """Bring the pending numbers to the host and add them up."""
        p, pending, self.pending = self.progress, self.pending, []
        for *metrics, count in pending:
            loss, right, norm = map(float, metrics)
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise self.diverged(f"the loss is {loss:.4g}, the gradient's norm {norm:.4g}")
            p.loss_sum += loss * count
            p.correct += int(right)
            p.norm_sum += norm * count
            p.seen += count

    def diverged(self, what) -> DivergedError:
        p = self.progress
        where = self.first_bad_gradient() or first_nonfinite(self.model, self.x)
        # true for whoever reads it: `saving_aside` waits, and raises what failed instead
        kept = f"; {self.out / 'model.h5'} still holds epoch {p.epoch}" if self.out else ""
        return DivergedError(
            f"epoch {p.epoch + 1}, batch {p.batch + 1}: {what}"
            + (f", first in {where}" if where else "")
            + f": lower the learning rate (now at most {self.recipe.lr:g}) or clip the gradient{kept}"
        )

    def first_bad_gradient(self) -> str:
        """On its way back, where the gradient stopped being finite; by then an update has spoilt the weights too."""
        bad = (p.name for p in reversed(self.model.params()) if not get_xp(p.grad).isfinite(p.grad).all())
        return next((f"the gradient of {name}" for name in bad), "")

    def end_epoch(self):
        p = self.progress
        row = {
            "epoch": p.epoch + 1,
            "train_loss": p.loss_sum / p.seen,
            "train_accuracy": p.correct / p.seen,
            "lr": self.schedule(self.optimizer.steps - 1),
            "grad_norm": p.norm_sum / p.seen,
            "seconds": p.seconds,
            "images_per_second": p.seen / p.seconds,
            "wait_seconds": self.batches.wait_seconds,
        }
        better = True
        if self.test is not None:
            result = evaluate(self.classifier, self.test, by_layers=self.by_layers)
            row |= {"test_loss": result.loss, "test_accuracy": result.accuracy}
            better = result.loss < p.best_loss
            p.best_loss = min(p.best_loss, result.loss)
        p.history.append(row)
        p.epoch, p.batch, p.how = p.epoch + 1, 0, self.train_step.how
        p.loss_sum = p.norm_sum = p.seconds = 0.0
        p.correct = p.seen = 0
        if better:
            p.best_epoch = p.epoch
        patience = self.recipe.patience
        if self.test is not None and patience and p.epoch - p.best_epoch >= patience:
            p.stopped = f"no better test loss for {patience} epochs"
        self.save_aside(better)
        self.reporter.epoch(row, p)


def _keep(source: Path, target: Path) -> None:
    """`target` becomes today's `source`; a link costs nothing, and `source` is replaced, never rewritten."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, part)
    part.replace(target)


@contextmanager
def _interruptible():
    """An Event that the first Ctrl-C (or SIGTERM) sets; the second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handler(number, frame):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, old in before.items():
            signal.signal(s, old)
