"""The training loop: `fit`, with validation, early stopping, checkpoints and a resume that changes nothing.

A run is a function of its recipe and its data: the order of the images is keyed by seed and epoch, the
augmentation by seed, epoch and image. What is not a function of them is in the checkpoint, so that stopping
and resuming gives, bit for bit on the CPU, the weights of a run that was never stopped.
"""

import math
import threading
import time
import zlib
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minires import __version__
from minires.backend import device_of, get_xp, to_device, to_numpy
from minires.background import Background
from minires.data.arrays import as_dataset
from minires.data.batches import Batches
from minires.data.dataset import Dataset, facts_of, order_of
from minires.errors import CheckpointError, ConfigError, DivergedError
from minires.fast import communicator
from minires.fast.check import IMAGES, Agreement, check_shares
from minires.fast.gpu import kernels
from minires.fast.step import make_step
from minires.nn import Module
from minires.nn.probe import first_nonfinite
from minires.train import finetune, folder, stops
from minires.train.checkpoint import Checkpoint, Snapshot, load_checkpoint
from minires.train.classifier import Classifier, evaluate
from minires.train.precise_bn import MOST, norms, recalibrate
from minires.train.progress import Progress, Reporter
from minires.train.recipe import Recipe
from minires.train.watch import USUAL, Ticking, Watch

# Steps between two looks at the loss on a GPU: each look waits for the device.
LOOK_EVERY = 10
# Seconds that a save which is nearly written has to end, where all is to end at once.
NEARLY = 2.0


@communicator.collective
def fit(
    classifier: Classifier,
    train: Dataset,
    test: Dataset | None = None,
    recipe: Recipe | None = None,
    *,
    validation: Dataset | None = None,
    out: Path | None = None,
    reporter: Reporter | None = None,
    check: bool = True,
    stall: float = USUAL,
    **ways: Any,
) -> Progress:
    """Train `classifier` in place; returns the progress with its history, one row an epoch.

    All of its layers are put in training mode first, but for what is frozen: by the recipe, or by `Module.freeze`.
    train, test, validation: data sets, or NumPy pairs (images, labels). After each epoch `test` is measured;
    with `validation` that is measured instead and chooses the epoch, and `test` is not looked at: `evaluate` it once.
    out: a folder for `model.h5` (the state after the last epoch, or where Ctrl-C stopped it), `best.h5` (the
    epoch of the lowest test loss, or validation loss) and `history.jsonl`; written while the next epoch trains, whole
    when `fit` returns.
    ways: how a step is computed, for make_step: `by_layers=True`, exactly the modules; `recompute=True`,
    `max_workspace=BYTES`, for less memory; on a GPU `graph=False`, `tf32=True`.
    check: before the first step, compare what will run with the layers as they stand, in float64 (fast/check.py).
    Where a launcher of MPI started several ranks (fast/mpi.py), all call `fit` together, and it is one training:
    `local_bn=True`, each rank normalises over its own share of a batch; `shard_optimizer=True`, each keeps a part of
    the optimiser's state and updates that (by default where all are on one host, on the CPU).
    stall: seconds without progress after which stderr is told what is waited for (watch.py).
    Raises DivergedError, naming the layer, when a value is not finite, DisagreementError where that comparison fails,
    CheckpointError where another training has the folder, stops.Stopped (a KeyboardInterrupt) after Ctrl-C or SIGTERM.

    >>> train, test = minires.make_signs(24, 12, size=16)
    >>> classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6), train)
    >>> progress = minires.fit(classifier, train, test, minires.Recipe(epochs=2, batch_size=12), out="run")
    >>> [row["epoch"] for row in progress.history]
    [1, 2]
    >>> minires.load("run").classes == train.classes
    True
    """
    recipe = recipe or Recipe()
    with _alone_in(out), finetune.thawed(classifier.model, recipe):
        progress = Progress(judge="test" if validation is None else "validation")
        held = test if validation is None else validation
        train, held = (as_dataset(data, classifier.classes) for data in (train, held))
        run = _Run(classifier, train, held, recipe, progress, out, reporter, check, stall, ways)
        return run.go(anew=True)


@communicator.collective
def resume(
    out: Path,
    train: Dataset,
    test: Dataset | None = None,
    *,
    validation: Dataset | None = None,
    epochs: int | None = None,
    device: str = "cpu",
    reporter: Reporter | None = None,
    check: bool = True,
    model: Module | None = None,
    stall: float = USUAL,
    **ways: Any,
) -> tuple[Classifier, Progress]:
    """Go on with the run in the folder `out`, on the same data; `epochs` may extend it. model: see `load_checkpoint`.

    A run that is complete comes back as it is, its files put right (see `reopen`, which also says what is refused).

    >>> train, test = minires.make_signs(24, 12, size=16)
    >>> classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6), train)
    >>> progress = minires.fit(classifier, train, test, minires.Recipe(epochs=1, batch_size=12), out="run")
    >>> classifier, progress = minires.resume("run", train, test, epochs=2)
    >>> progress.epoch
    2
    """
    with _alone_in(out):
        checkpoint, recipe, progress = reopen(out, train, model)
        if reporter and communicator.current().rank == 0:
            reporter.save(Path(out), progress)
        checkpoint.classifier.model.to(device)
        if progress.judge == "validation" and validation is None:
            raise CheckpointError(f"{out}: its epoch is chosen by a validation part: give validation=, that part")
        held = test if progress.judge == "test" else validation
        train, held = (as_dataset(data, checkpoint.classifier.classes) for data in (train, held))
        if epochs is not None and epochs < progress.epoch:
            raise CheckpointError(
                f"{out}: this run has {progress.epoch} epochs already: give as many or more, or start a new run"
            )
        if epochs not in (None, progress.epoch):
            recipe, progress.stopped = replace(recipe, epochs=epochs), ""
        if progress.stopped or progress.epoch >= recipe.epochs:
            return checkpoint.classifier, progress
        with finetune.thawed(checkpoint.classifier.model, recipe):
            run = _Run(checkpoint.classifier, train, held, recipe, progress, out, reporter, check, stall, ways)
            run.optimizer.load_state(checkpoint.optimizer, checkpoint.training["steps"])
            run.go()
        return checkpoint.classifier, progress


def reopen(out: Path, train: Dataset, model: Module | None = None) -> tuple[Checkpoint, Recipe, Progress]:
    """What the run in the folder `out` has come to; whatever a kill or a full disk left of its files is put right.

    CheckpointError when there is no training state, the data are not those of the run, or another training has it.
    """
    path = Path(out) / "model.h5"
    if not path.exists():
        raise CheckpointError(f"{path}: no such file: nothing was saved there yet: start that run again")
    with _alone_in(out):
        checkpoint = load_checkpoint(path, model)
        if not checkpoint.training:
            raise CheckpointError(f"{path}: holds weights but no training state: start a new run")
        train = as_dataset(train, checkpoint.classifier.classes)
        first = communicator.current().rank == 0
        if first and (told := checkpoint.training.get("data")) != (now := _fingerprint(train)):
            same = str(told).partition(" ")[0] == now.partition(" ")[0]
            other = "data that were packed in another way" if same else "other data"
            raise CheckpointError(f"{path}: was trained on {other} than {train.source}: give the data of that run")
        try:
            recipe = Recipe(**checkpoint.training["recipe"])
            progress = Progress(**checkpoint.training["progress"])
        except (KeyError, TypeError) as error:
            problem = f"its training state is not of this version ({error})"
            raise CheckpointError(f"{path}: {problem}: start a new run") from None
        if first:
            folder.settle(Path(out), progress)
    return checkpoint, recipe, progress


def _fingerprint(dataset) -> str:
    """Of what a run is a function of: the data, and where it matters how they lie, which decides their order."""
    with communicator.current().busy(f"taking the fingerprint of {dataset.source}"):
        return " ".join(filter(None, (dataset.fingerprint(), order_of(dataset))))


def _alone_in(out):
    """The lock of a run's folder; of several ranks the first holds it, for it alone writes."""
    return folder.locked(out) if out is not None and communicator.current().rank == 0 else nullcontext()


class _Run:
    """One training run: the objects it works on, and its progress."""

    def __init__(self, classifier, train, test, recipe, progress, out, reporter, check, stall, ways):
        if not 0 < stall < math.inf:
            raise ConfigError(f"stall: expected a number of seconds above 0, got {stall}")
        self.ranks = communicator.current()
        self.classifier, self.model = classifier, classifier.model
        self.train, self.test, self.recipe, self.progress = train, test, recipe, progress
        first = self.ranks.rank == 0  # of the ranks, one saves and speaks
        self.out, self.kept_anywhere = Path(out) if out is not None and first else None, out is not None
        self.reporter = reporter if reporter and first else Reporter()
        weights = self.model.params()[0].data
        self.device, there = device_of(weights), "gpu" if kernels.available(weights) else "cpu"
        self.batches = Batches(train, recipe.batch_size, seed=recipe.seed, augment=recipe.augment, device=there)
        self.schedule = recipe.make_schedule(len(self.batches))
        self.sharded, local = (ways.pop(name, None) for name in ("shard_optimizer", "local_bn"))
        if self.sharded is None:
            self.sharded = self.ranks.near and self.device == "cpu"
        if self.ranks.size > 1:
            self.ranks.local_bn = bool(local)
        self.ways, self.checks, self.optimizer = ways, check, None
        self.check_agreement()
        self.prepare()
        self.fingerprint = _fingerprint(train) if self.out else ""
        self.pending = []  # (loss, right answers, gradient norm, images) still on the device
        self.x = None  # the latest batch
        self.snapshot, self.saving = Snapshot(), None
        self.stall, self.kept = stall, ""  # what model.h5 holds, in words

    def prepare(self):
        """The optimiser and the step of what trains from this epoch on."""
        before, recipe, p = self.optimizer, self.recipe, self.progress
        self.optimizer = finetune.make_optimizer(self.model, recipe, p.epoch, len(self.batches))
        if self.sharded and self.ranks.size > 1:
            self.optimizer.share_state()
        self.train_step = make_step(self.model, self.optimizer, label_smoothing=recipe.label_smoothing, **self.ways)
        p.check = asdict(self.check() if self.checks else Agreement(skipped="not asked for"))
        if before:
            self.optimizer.take_over(before)

    def check(self) -> Agreement:
        """Whether the step does what the layers say; while the optimiser's state still takes no memory."""
        few = np.arange(min(IMAGES, len(self.train)))
        images, labels = (to_device(part, self.device) for part in (self.train.images(few), self.train.labels[few]))
        x = self.classifier.preprocess(images, self.optimizer.weights.dtype)
        if self.ranks.size > 1:
            check_shares(self.model, x)
        return self.train_step.check(x, labels)

    def check_agreement(self):
        """Whether all ranks train the same network, on the same data, in the same way."""
        if self.ranks.size == 1:
            return
        state = b"".join(to_numpy(array).tobytes() for array in self.model.state().values())
        facts = {
            "version of minires": __version__,
            "device": self.device,
            **{f"recipe ({name})": value for name, value in asdict(self.recipe).items()},
            **{f"setting ({name})": value for name, value in self.ways.items()},
            "network": self.model.title,
            "place in the run": self.progress.where,
            "checksum of the weights": zlib.crc32(state),
            "training data": facts_of(self.train),
            "test data": self.test and facts_of(self.test),
        }
        communicator.check_agreement(facts)

    def save(self):
        """Save what is now, and wait for it."""
        self.watch_numbers()
        self.save_aside(False)
        self.saved()

    def save_aside(self, better):
        """Save what is now, while the next epoch trains. `better`: as the best one too."""
        state = self.state() if self.kept_anywhere else {}
        if self.out:
            self.saved()  # one copy of the weights is enough
            self.snapshot.take(self.classifier, **state)
            self.saving = self.saver.submit(self.write, better, self.progress.where)

    def saved(self, wait=True):
        """Wait for the save that is being written, if any; raises what it failed with. wait=False: if it is done."""
        if self.saving and (wait or self.saving.done()):
            if not self.saving.done():
                self.doing("save")
            with self.ranks.busy(f"saving to {self.out}"):
                self.saving.result()

    def state(self) -> dict:
        training = {
            "recipe": asdict(self.recipe),
            "progress": asdict(self.progress),
            "steps": self.optimizer.steps,
            "data": self.fingerprint,
        }
        return {"optimizer": self.optimizer.named_state(), "training": training}

    def write(self, better, where):
        """The snapshot's files, in the thread `saver`."""
        self.reporter.save(self.out, Progress(**self.snapshot.header["training"]["progress"]))
        folder.commit(self.out, self.snapshot, better)
        self.kept = where

    @contextmanager
    def saving_aside(self):
        """However training ends, what was being saved then is on disk, or its failure is raised."""
        self.saver = Background("minires-save")
        try:
            yield
        finally:
            if self.stop.count > 1:  # it is to end at once: only what is nearly written
                self.saver.end(within=NEARLY)
            else:
                try:
                    self.saved()
                finally:
                    self.saver.end()

    def activities(self) -> dict:
        """What a run does, for the watchdog: in words, what to do where that lasts too long, and in which thread."""
        here = threading.current_thread()
        disk = "is its disk or network slow, or gone?"
        tested = self.test.source if self.test else ""
        return {
            "data": (f"waiting for images of {self.train.source}", disk, lambda: self.batches.reader),
            "step": ("computing a step", "is the machine busy, or the batch very large?", lambda: here),
            "statistics": ("estimating the running statistics", disk, lambda: self.batches.reader),
            "test": (f"evaluating on {tested}", disk, lambda: here),
            "save": (f"saving to {self.out}", "is that disk slow, or gone?", lambda: self.saver.thread),
        }

    def where(self) -> str:
        last = f", last save: {self.kept or 'none'}" if self.out else ""
        return f"epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1}{last}"

    def go(self, anew=False) -> Progress:
        p = self.progress
        self.kept = "" if anew else p.where
        with ExitStack() as stack:
            stack.enter_context(self.reporter.running(self.recipe.epochs, len(self.batches), p))
            self.stop = stack.enter_context(stops.heard(patient=True))
            activities = self.activities()
            watch = stack.enter_context(Watch(self.stall, self.stop, activities, self.where, self.ranks))

            def doing(name):
                watch.doing(name)
                self.ranks.doing = activities[name][0]

            self.doing = doing if self.ranks.size > 1 else watch.doing
            if self.ranks.size > 1:
                self.ranks.limit = 2 * self.stall
            try:
                self.train_all(anew)
            except stops.Stopped as stopped:
                stopped.told = True
                self.reporter.interrupted(self.out, None if self.stop.count < 2 else self.kept)
                raise
        return p

    def train_all(self, anew):
        p = self.progress
        with self.saving_aside():
            if anew and self.kept_anywhere:  # a full disk or a forbidden folder shows now, not after the first epoch
                self.save()
            if anew and self.out:
                folder.settle(self.out, p)
            while p.epoch < self.recipe.epochs and not p.stopped:
                self.run_epoch()
                if not self.stopping():
                    self.end_epoch()
                if self.stopping():
                    self.average_statistics()
                    self.save()
                    raise stops.Stopped(self.stop.signal)

    def stopping(self) -> bool:
        """Whether a stop was asked for: of any rank, and then all stop at the same batch."""
        if self.ranks.size > 1:
            self.stop.signal = int(self.ranks.all_gather(np.array(self.stop.signal)).max())
        return bool(self.stop.signal)

    def unless_stopped(self, function, *arguments):
        """As Stop's; what all ranks do together none of them leaves in the middle."""
        if self.ranks.size == 1:
            return self.stop.unless_stopped(function, *arguments)
        return function(*arguments)

    def average_statistics(self):
        """Running statistics of each rank's own shares become those of all ranks."""
        if self.ranks.size > 1 and self.ranks.local_bn:
            for buffer in self.model.buffers():
                buffer.data[...] = self.ranks.all_reduce(buffer.data / self.ranks.size)

    def run_epoch(self):
        p = self.progress
        began, before = time.perf_counter(), p.seconds
        with self.train_step:
            for images, labels, index in self.batches_left():
                with communicator.on_batch(len(index)):
                    self.step(images, labels, len(index))
                self.saved(wait=False)  # a full disk shows now, not after the epoch
                p.batch += 1
                p.seconds = before + time.perf_counter() - began
                self.reporter.step(p)
        self.look()
        p.seconds = before + time.perf_counter() - began

    def batches_left(self):
        """The epoch's batches that are left, until a stop is asked for."""
        batches = self.batches.epoch(self.progress.epoch, start=self.progress.batch)
        while not self.stopping():
            self.doing("data")
            if (batch := self.unless_stopped(next, batches, None)) is None:
                return
            self.doing("step")
            yield batch

    def step(self, images, labels, count):
        """One step of training on this rank's share of `count` images. Nothing here waits for a GPU except `look`."""
        images, labels = (to_device(part, self.device) for part in (images, labels))
        self.x = self.classifier.preprocess(images, self.optimizer.weights.dtype)
        self.reporter.batch(self.train_step, self.x, labels)
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

    def watch_numbers(self):
        """Nothing replaces a good checkpoint but one whose numbers are finite: the last update may have spoilt them."""
        held = [(self.optimizer.weights, "weights"), *((b.data, "running statistics") for b in self.model.buffers())]
        held += [(state, "optimiser's averages") for state in self.optimizer.state.values()]
        finite = [get_xp(array).isfinite(array).all() for array, _ in held]
        for good, (_, what) in zip(finite, held, strict=True):
            if not good:
                raise self.diverged(f"after its update the {what} are not finite")

    def diverged(self, what) -> DivergedError:
        p = self.progress
        self.saved()  # raises what failed instead; and what is said to be kept is then on disk
        with communicator.speaking_through(communicator.ALONE):
            where = self.first_bad_gradient() or (self.x is not None and first_nonfinite(self.model, self.x))
        kept = f"; {self.out / 'model.h5'} still holds {self.kept}" if self.kept else ""
        return DivergedError(
            f"epoch {p.epoch + 1}, batch {min(p.batch + 1, len(self.batches))}: {what}"
            + (f", first in {where}" if where else "")
            + f": lower the learning rate (now at most {self.recipe.lr:g}) or clip the gradient{kept}"
        )

    def first_bad_gradient(self) -> str:
        """On its way back, where the gradient stopped being finite; by then an update has spoilt the weights too."""
        held = (p for p in reversed(self.model.params()) if p.grad is not None)
        bad = (p.name for p in held if not get_xp(p.grad).isfinite(p.grad).all())
        return next((f"the gradient of {name}" for name in bad), "")

    def inputs(self):
        """Training images, augmented as in an epoch behind the last one."""
        count = -(-MOST // self.recipe.batch_size)
        self.doing("statistics")
        for images, _, index in islice(self.batches.epoch(self.recipe.epochs), count):
            self.doing("statistics")
            with communicator.on_batch(len(index)):
                yield self.classifier.preprocess(to_device(images, self.device), self.optimizer.weights.dtype)

    def evaluated(self):
        test = Ticking(self.test, self.doing)
        try:
            return evaluate(self.classifier, test, by_layers=self.ways.get("by_layers", False))
        except DivergedError:
            raise self.diverged(f"the {self.progress.judge} images give numbers that are not finite") from None

    def end_epoch(self):
        """Evaluate and save; all of the epoch is still to do where a stop comes before that."""
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
        self.average_statistics()
        self.watch_numbers()
        last = p.epoch + 1 == self.recipe.epochs
        anew = last and self.recipe.precise_bn and norms(self.model)
        if anew and self.unless_stopped(recalibrate, self.model, self.inputs()) is None:
            return
        if self.test is not None:
            result = self.unless_stopped(self.evaluated)
            if result is None:
                return
            if not math.isfinite(result.loss):
                raise self.diverged(f"the {p.judge} loss is {result.loss:.4g}")
            interval = zip(("low", "high"), result.interval, strict=True)
            row |= {f"{p.judge}_loss": result.loss, f"{p.judge}_accuracy": result.accuracy}
            row[f"{p.judge}_classes"] = len(np.unique(result.probs.argmax(axis=1)))  # that it names at all
            row |= {f"{p.judge}_accuracy_{end}": value for end, value in interval}
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
            p.stopped = f"no better {p.judge} loss for {patience} epochs"
        if finetune.changes(self.recipe, p.epoch):
            self.prepare()
        self.save_aside(better)
        self.reporter.epoch(row, p)
