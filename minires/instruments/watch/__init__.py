"""A run watched layer by layer: every so many steps, what the gradient, the updates, ReLUs and normalisations do.

    fit(classifier, train, test, out=folder, reporter=Watcher(every=50))
    film = read_film(folder)

A record takes one further forward and backward pass of the step's own batch, by the layers as one reads them; the run
itself goes on as if nobody had looked, to the same bits. The records are in `watch.h5` of the run's folder, sealed, and
agree with `model.h5`: a run that was stopped or killed and resumed has the records of one that was not.
"""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from minires import ops
from minires.backend import get_xp
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.errors import DataError, MiniresError
from minires.fast import communicator
from minires.instruments.bn_doctor import drift
from minires.instruments.gradflow import main_path
from minires.nn.activation import ReLU
from minires.nn.blocks import Block
from minires.nn.conv import Conv2d
from minires.nn.dense import Dense
from minires.nn.module import Module
from minires.nn.norm import BatchNorm
from minires.nn.probe import probe, rms, untouched
from minires.ranges import RANGES, check
from minires.train.progress import Reporter

FILE = "watch.h5"
FORMAT = 1
USUAL = 50  # steps between two records


@dataclass(frozen=True)
class Quantity:
    """What a record holds a number of for each layer of these kinds. log: drawn on a logarithmic scale."""

    title: str
    unit: str
    says: str
    kinds: tuple
    log: bool = True


QUANTITIES = {
    "gradient": Quantity(
        "Activation gradient",
        "RMS of dL/dy",
        "What arrives at each layer's output on its way back from the loss. It may vanish or explode on the way.",
        (Conv2d, Dense),
    ),
    "weight_gradient": Quantity(
        "Weight gradient", "norm of dL/dw", "What the optimiser sees of each kernel, before clipping.", (Conv2d, Dense)
    ),
    "update": Quantity(
        "Update to weight",
        "norm of the update / norm of w",
        "How far the step moved each kernel, of its own size. Far below 0.0001 a layer hardly learns, above 0.01 it is "
        "thrown about.",
        (Conv2d, Dense),
    ),
    "dead": Quantity(
        "Dead ReLUs",
        "share of channels",
        "Channels that are zero everywhere, for every image of the batch: no gradient comes through them.",
        (ReLU,),
        log=False,
    ),
    "drift_mean": Quantity(
        "Batch normalisation, mean",
        "running less batch mean, in standard deviations",
        "How far the running statistics, which evaluation uses, are from those of the batch, which training uses.",
        (BatchNorm,),
    ),
    "drift_var": Quantity(
        "Batch normalisation, variance",
        "|log(running / batch variance)|",
        "The same of the variances: 0.7 is a factor of two.",
        (BatchNorm,),
    ),
}


@dataclass(frozen=True)
class Row:
    """A layer of the film. depth: of the convolution or dense layer that it is or follows; main: not on a shortcut."""

    name: str
    stage: str
    depth: int
    main: bool


@dataclass(frozen=True)
class Film:
    """The records of a run. values: quantity -> (records, layers), NaN where there is no number; see QUANTITIES.

    steps and losses (records,): the updates that the weights had seen, the batch's loss. seconds: what watching took.
    epoch_steps: how many steps are an epoch; of a run that never came to its second one, all that were seen.
    """

    every: int
    rows: dict[str, tuple[Row, ...]]
    steps: np.ndarray
    losses: np.ndarray
    values: dict[str, np.ndarray]
    seconds: float
    epoch_steps: int

    def shown(self, most: int) -> "Film":
        """The same with at most so many records, evenly over the run."""
        keep = np.unique(np.linspace(0, len(self.steps) - 1, most).round().astype(int))
        values = {name: each[keep] for name, each in self.values.items()}
        return replace(self, steps=self.steps[keep], losses=self.losses[keep], values=values)

    def cost(self, seconds: float) -> str:
        """What the watching took, in words; of a training of so many seconds, which holds it."""
        share = f", {self.seconds / seconds:.1%} of the training time" if seconds else ""
        return f"watched every {self.every} steps: {len(self.steps)} records in {self.seconds:.1f} s{share}"


@dataclass
class Record:
    """One look: at which batch of which epoch (counted from 0), after how many updates, the loss, the numbers."""

    position: tuple[int, int]
    step: int
    loss: float
    values: dict = field(default_factory=dict)


class Watcher(Reporter):
    """Records a run layer by layer every `every` steps, the first one included; see the module.

    Without a folder (`fit(..., out=None)`) the records are only here: `film()`.
    """

    def __init__(self, every: int = USUAL):
        check(watch=every)
        self.every, self.records, self.rows, self.seconds = every, [], None, 0.0
        self.opened, self.pending, self.progress = False, None, None

    def running(self, epochs, steps, progress):
        self.progress = progress
        return super().running(epochs, steps, progress)

    def batch(self, step, x, labels):
        if step.optimizer.steps % self.every:
            return
        began = time.perf_counter()
        p, model = self.progress, step.model
        self.rows = self.rows or {name: tuple(_rows(model, q.kinds)) for name, q in QUANTITIES.items()}
        loss, values = look(model, x, labels, step.label_smoothing)
        record = Record((p.epoch, p.batch), step.optimizer.steps, loss, values)
        before = {layer.name: layer.w.data.copy() for layer in model.modules() if isinstance(layer, (Conv2d, Dense))}
        self.pending = record, model, before
        self.seconds += time.perf_counter() - began

    def step(self, progress):
        if self.pending is None:
            return
        began = time.perf_counter()
        (record, model, before), self.pending = self.pending, None
        now = {layer.name: layer.w.data for layer in model.modules() if layer.name in before}
        record.values["update"] = {name: _ratio(now[name] - w, w) for name, w in before.items()}
        numbers = {
            name: np.array([float(record.values[name].get(row.name, np.nan)) for row in rows])
            for name, rows in self.rows.items()
        }
        self.records.append(Record(record.position, record.step, float(record.loss), numbers))
        self.seconds += time.perf_counter() - began

    def save(self, out, progress):
        at = (progress.epoch, progress.batch)
        if not self.opened and at > (0, 0) and (out / FILE).exists():
            self._go_on(out / FILE)
            self.records = [record for record in self.records if record.position < at]
        self.opened = True
        write(out / FILE, self.every, self.rows, [r for r in list(self.records) if r.position < at], self.seconds)

    def _go_on(self, path):
        film, positions = read(path)
        self.rows, self.seconds = film.rows, film.seconds
        for i, position in enumerate(positions):
            numbers = {name: values[i] for name, values in film.values.items()}
            self.records.append(Record(tuple(map(int, position)), int(film.steps[i]), float(film.losses[i]), numbers))

    def film(self) -> Film:
        """The records so far; DataError where there is none."""
        if not self.records:
            raise DataError("nothing was watched yet: train at least one step")
        return _film(self.every, self.rows, self.records, self.seconds)


def look(model, x, labels, label_smoothing: float = 0.0) -> tuple:
    """(loss, quantity -> layer's name -> number) of one batch in training mode, 0-d arrays on the device; no update.

    The model is left as it was. All of QUANTITIES but `update`, which takes a step.
    """
    with communicator.speaking_through(communicator.ALONE), untouched(model), probe(model, _Look(model)) as seen:
        loss, probs = ops.softmax_cross_entropy_forward(model.forward(x), labels, label_smoothing=label_smoothing)
        model.backward(
            ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=label_smoothing), need_dx=False
        )
        for layer in seen.modules:
            if isinstance(layer, (Conv2d, Dense)) and layer.w.grad is not None:
                seen.values["weight_gradient"][layer.name] = _norm(layer.w.grad)
    return loss, seen.values


class _Look:
    """What `probe` records with: a number or two a layer."""

    def __init__(self, model):
        kinds = tuple({kind for quantity in QUANTITIES.values() for kind in quantity.kinds})
        self.modules = [m for m in model.modules() if isinstance(m, kinds)]
        self.values = {name: {} for name in QUANTITIES}

    def wrap_forward(self, module, forward):
        def relu(x):
            y = forward(x)
            self.values["dead"][module.name] = (y.reshape(-1, y.shape[-1]).max(axis=0) <= 0).mean()
            return y

        def norm(x):
            running = module.mean.data.copy(), module.var.data.copy()
            y = forward(x)
            _, mean, rstd, _ = module._slot
            off = drift(*running, mean, 1 / rstd**2 - module.epsilon, module.epsilon)
            self.values["drift_mean"][module.name], self.values["drift_var"][module.name] = off
            return y

        return relu if isinstance(module, ReLU) else norm if isinstance(module, BatchNorm) else forward

    def wrap_backward(self, module, backward):
        def probed(dy, *args, **options):
            self.values["gradient"][module.name] = rms(dy)
            return backward(dy, *args, **options)

        return probed if isinstance(module, (Conv2d, Dense)) else backward


def _rows(model, kinds):
    """A row for each layer of these kinds, in the order of the forward pass."""
    spots = {layer.name: (stage, depth) for stage, _, layer, depth, _ in main_path(model)}
    shortcuts = (m.shortcut for m in model.modules() if isinstance(m, Block) and isinstance(m.shortcut, Module))
    beside = {id(module) for shortcut in shortcuts for module in shortcut.modules()}
    stage, depth = next(iter(spots.values()))[0], 0
    for module in model.modules():
        stage, depth = spots.get(module.name, (stage, depth))
        if isinstance(module, kinds):
            yield Row(module.name, stage, depth, id(module) not in beside)


def _norm(x):
    """The Euclidean norm as a 0-d float64 array on its device."""
    return rms(x) * x.size**0.5


def _ratio(change, weights):
    size = _norm(weights)
    return _norm(change) / get_xp(weights).where(size > 0, size, np.nan)


def _film(every, rows, records, seconds) -> Film:
    values = {name: np.stack([record.values[name] for record in records]) for name in rows}
    steps, losses = (np.array([getattr(record, key) for record in records]) for key in ("step", "loss"))
    return Film(every, rows, steps, losses, values, seconds, _epoch_steps(records[-1].position, steps[-1]))


def _epoch_steps(position, step) -> int:
    epoch, batch = map(int, position)
    return max(1, (int(step) - batch) // epoch if epoch else int(step) + 1)


def write(path: Path, every: int, rows, records: list[Record], seconds: float) -> None:
    """Write the records as a sealed HDF5 file, whole or not at all; of no record there is no file."""
    if not records:
        path.unlink(missing_ok=True)  # an earlier run's
        return
    film = _film(every, rows, records, seconds)
    about = {"format": FORMAT, "every": every, "rows": {k: [asdict(row) for row in r] for k, r in rows.items()}}
    with atomic_hdf5(path) as file:
        file.attrs["minires-watch"] = json.dumps(about)
        file.attrs["seconds"] = seconds  # which alone differs where all else is the same
        file["position"] = np.array([record.position for record in records])
        file["step"], file["loss"] = film.steps, film.losses
        for name, values in film.values.items():
            file[f"values/{name}"] = values


def read_film(folder: Path) -> Film | None:
    """What a run's folder holds of its watching; None where it was not watched. DataError for a damaged file."""
    path = Path(folder) / FILE
    return read(path)[0] if path.exists() else None


def read(path: Path) -> tuple[Film, np.ndarray]:
    """The film in a file of `write`, and each record's (epoch, batch); DataError, one line, for anything else."""
    with open_hdf5(path, "what a run was watched for") as file:
        try:
            about = json.loads(file.attrs["minires-watch"])
            if about["format"] > FORMAT:
                raise DataError(f"{path}: written by a newer minires (format {about['format']}): update minires")
            rows = {name: tuple(Row(**row) for row in about["rows"][name]) for name in QUANTITIES}
            steps, losses, positions = (file[name][()] for name in ("step", "loss", "position"))
            values = {name: file[f"values/{name}"][()] for name in rows}
            seconds, epoch = float(file.attrs["seconds"]), _epoch_steps(positions[-1], steps[-1])
            film = Film(about["every"], rows, steps, losses, values, seconds, epoch)
        except MiniresError:
            raise
        except Exception as error:  # in a file of others anything may be in the place of anything
            raise DataError(f"{path}: holds no records of a watched run ({error!r:.80}): remove it") from None
    if problem := _misfit(film, positions):
        raise DataError(f"{path}: holds no records of a watched run ({problem}): remove it, or use another copy")
    return film, positions


def _misfit(film, positions) -> str:
    """Why a film cannot be what was recorded, in words; "" where it can."""
    count = len(film.steps) if np.ndim(film.steps) == 1 else 0
    shapes = {"step": (film.steps, (count,), "iu"), "loss": (film.losses, (count,), "f")}
    shapes["position"] = positions, (count, 2), "iu"
    shapes |= {name: (each, (count, len(film.rows[name])), "f") for name, each in film.values.items()}
    for name, (array, shape, kinds) in shapes.items():
        if np.shape(array) != shape or array.dtype.kind not in kinds or not count:
            return f"{name} is {getattr(array, 'dtype', type(array))} {np.shape(array)}"
    texts = (text for rows in film.rows.values() for row in rows for text in (row.name, row.stage))
    if not RANGES["watch"].holds(film.every) or not all(isinstance(text, str) for text in texts):
        return "its layers or steps are none"
    return ""
