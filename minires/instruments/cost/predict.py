"""What a training step and an inference will cost on this machine, told before either is run.

`predict_cost(model, batch)` takes the network apart into the pieces that it repeats: the stem, each different block,
the classifier. It runs each of them alone (`pieces`), once to see what it allocates and then against the clock
until about two seconds are spent, and adds up as often as the piece occurs. The whole network is never run and
never lies in memory. FLOPs and parameters are those of `summary`.
How good the prediction is: benchmarks/check_cost.py.
"""

import math
from dataclasses import asdict, dataclass
from itertools import cycle
from time import perf_counter

from rich.table import Table

from minires.console import Shown
from minires.errors import ConfigError
from minires.fast import cpu
from minires.instruments.cost.pieces import Trial, places, time_update
from minires.instruments.cost.summary import Summary, show_bytes, summarize
from minires.nn import Network
from minires.optim import OPTIMIZERS

BUDGET = 2.0  # seconds of the probe


@dataclass(frozen=True)
class Piece:
    """A part of the network that occurs `count` times; seconds and bytes of one occurrence, the whole batch."""

    name: str
    count: int
    shape: tuple  # of its output, one image
    flops: int  # forward, one image
    images: int  # that it was measured on
    forward: float
    backward: float
    inference: float
    kept: int  # bytes that it holds between its forward and its backward
    busy: int  # bytes that its backward takes at most, over what is kept then


@dataclass(frozen=True)
class Memory:
    """Bytes at the fullest moment of a training step, which is in the piece `at`."""

    weights: int  # running statistics among them
    gradients: int
    optimizer: int
    batch: int  # the images
    activations: int  # kept for backward
    workspace: int  # columns, padded copies, gradients on their way
    at: str

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.batch + self.activations + self.workspace


@dataclass(frozen=True)
class Cost(Shown):
    """The prediction; see `table` for how it reads."""

    summary: Summary
    optimizer: str
    threads: int  # that share each kernel's loops
    pieces: tuple[Piece, ...]
    update_seconds: float
    memory: Memory

    @property
    def training_seconds(self) -> float:
        """A step: forward, backward and update of one batch."""
        return sum(p.count * (p.forward + p.backward) for p in self.pieces) + self.update_seconds

    @property
    def inference_seconds(self) -> float:
        """A forward pass in evaluation mode of one batch, as `predict_logits` runs it."""
        return sum(p.count * p.inference for p in self.pieces)

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        s = self.summary
        return {
            "name": s.name,
            "batch": s.batch,
            "optimizer": self.optimizer,
            "threads": self.threads,
            "parameters": s.total,
            "flops_forward": s.batch * s.flops_forward,
            "flops_training": s.batch * s.flops_training,
            "training_seconds": self.training_seconds,
            "inference_seconds": self.inference_seconds,
            "update_seconds": self.update_seconds,
            "memory": {**asdict(self.memory), "peak": self.memory.peak},
            "pieces": [asdict(piece) for piece in self.pieces],
        }

    def table(self) -> Table:
        """A row a piece, the totals below."""
        table = Table(
            title=f"{self.summary.name}, batch of {self.summary.batch}, {self.optimizer}", title_justify="left"
        )
        table.caption, table.caption_justify = self._totals(), "left"
        for heading in ("piece", "times", "GFLOP", "forward", "backward", "inference", "kept"):
            table.add_column(heading, justify="left" if heading == "piece" else "right", no_wrap=True)
        for p in self.pieces:
            seconds = (f"{1000 * s:.1f} ms" for s in (p.forward, p.backward, p.inference))
            flops = f"{self.summary.batch * p.flops / 1e9:.2f}"
            table.add_row(p.name, str(p.count), flops, *seconds, show_bytes(p.kept))
        return table

    def _totals(self) -> str:
        s, m = self.summary, self.memory
        forward, backward = (sum(p.count * getattr(p, way) for p in self.pieces) for way in ("forward", "backward"))
        scaled = [p.name for p in self.pieces if p.images < s.batch]
        lines = [
            "One occurrence each, on the whole batch; GFLOP of the forward pass, 2 a multiply-add.",
            f"Training step: {self.training_seconds:.3g} s, {s.batch / self.training_seconds:.3g} images a second "
            f"({forward:.3g} forward, {backward:.3g} backward, {self.update_seconds:.3g} update), "
            f"{s.batch * s.flops_training / 1e9:.3g} GFLOP",
            f"Inference: {self.inference_seconds:.3g} s, {s.batch / self.inference_seconds:.3g} images a second, "
            f"{s.batch * s.flops_forward / 1e9:.3g} GFLOP",
            f"Peak memory of the step: {show_bytes(m.peak)}, in {m.at}: {show_bytes(m.weights)} weights "
            f"+ {show_bytes(m.gradients)} gradients + {show_bytes(m.optimizer)} optimiser "
            f"+ {show_bytes(m.batch)} images + {show_bytes(m.activations)} activations "
            f"+ {show_bytes(m.workspace)} workspace",
            f"Parameters: {s.total:,}, {s.trained:,} of them trained. Times from a probe of each piece here and now, "
            f"on {self.threads} core{'s' * (self.threads != 1)}.",
        ]
        if scaled:
            lines.append(f"Timed on fewer images and scaled up: {', '.join(scaled)}.")
        return "\n".join(lines)


def predict_cost(model: Network, batch: int = 32, optimizer: str = "adamw", budget: float = BUDGET) -> Cost:
    """The cost of training and inference with `batch` images; the model is left as it is.

    Time: the median over the probe's rounds. Memory: of arrays, as tracemalloc counts them; it is the same in each
    call, up to a few of the interpreter's own objects. The interpreter and the libraries come on top.
    optimizer: a name of `OPTIMIZERS`, with the settings of `Recipe`.
    ConfigError for a name that is not there and for an empty batch.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
    until = perf_counter() + budget
    summary = summarize(model, batch)
    flops = {row.name: row.flops for row in summary.rows}
    sequence, trials = list(places(model)), {}
    for place in sequence:
        if place.key not in trials:
            work = sum(flops.get(m.name, 0) for m in place.module.modules())
            trials[place.key] = Trial(place, work, batch, model.dtype)
    update = time_update(optimizer, summary.trained, model.dtype)
    for trial in cycle(trials.values()):
        if trial.times and perf_counter() > until:
            break
        trial.run()
    order = [trials[place.key] for place in sequence]
    return Cost(
        summary=summary,
        optimizer=optimizer,
        threads=cpu.threads(),
        pieces=tuple(_piece(trial, order.count(trial)) for trial in trials.values()),
        update_seconds=update,
        memory=_memory(model, summary, optimizer, list(zip(sequence, order, strict=True))),
    )


def _piece(trial: Trial, count: int) -> Piece:
    place = trial.place
    shown = place.module.name, count, place.after, trial.flops, trial.images
    return Piece(*shown, *trial.seconds(), trial.kept, trial.busy)


def _memory(model, summary, optimizer, sequence) -> Memory:
    """Walk through forward and backward with what each piece was seen to allocate."""
    weights = summary.memory.gradients

    def size(shape):
        return summary.batch * math.prod(shape) * model.dtype.itemsize

    moments, kept, held = [], 0, True
    for place, trial in sequence:
        x = 0 if held else size(place.before)  # the piece before holds it, or the caller
        moments.append((kept, x + trial.fullest, place))
        kept += trial.kept + (x if trial.holds_x else 0)
        arriving = size(place.after) + (size(place.waiting) if place.waiting else 0)
        moments.append((kept, arriving + trial.busy, place))
        held = trial.holds_y
    activations, workspace, place = max(moments, key=lambda moment: moment[0] + moment[1])
    return Memory(
        weights=summary.memory.parameters,
        gradients=weights,
        optimizer=len(OPTIMIZERS[optimizer].slots) * weights,
        batch=size(model.input_shape),
        activations=activations,
        workspace=workspace,
        at=place.module.name,
    )
