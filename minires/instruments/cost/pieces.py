"""The pieces of which a network is built over and over, each run alone as training and evaluation run it.

Training: fused, as `fit` runs it (`fast/training.py`). Evaluation: with batch normalisation folded
(`fast/inference.py`).
"""

import copy
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import DTypeLike

from minires.fast.inference import Predictor
from minires.fast.training import Fused
from minires.nn import Network
from minires.nn.module import Module, Param, Sequential, inference
from minires.train import Recipe

PIECE = 5e9  # FLOPs of a training step that one piece may take; above, it is run on fewer images and scaled up
UPDATED = 2**22  # parameters on which an optimiser is timed


@dataclass(frozen=True)
class Place:
    """Where a piece stands; shapes without the batch. waiting: of the gradient that its stage holds meanwhile."""

    module: Module
    before: tuple
    after: tuple
    waiting: tuple | None

    @property
    def key(self) -> str:
        """The same for two pieces that do the same work."""
        layers = []
        for m in self.module.modules():
            settings = {k: v for k, v in vars(m).items() if k != "name" and isinstance(v, (int, float, str, tuple))}
            layers.append((type(m).__name__, settings, [p.data.shape for p in m.params()]))
        return repr((self.before, layers))


def places(model: Network):
    """The stem, each block and the classifier, in forward order."""
    shape, rows = model.input_shape, []
    for composed, layers in groupby(model.layers, key=lambda m: bool(m.children())):
        run = list(layers)
        rows += run if composed else [Sequential(*run, name="head" if run[-1] is model.layers[-1] else run[0].name)]
    for stage in rows:
        end = stage.output_shape(shape)
        grouped = isinstance(stage, Sequential) and any(m.children() for m in stage.layers)
        pieces = stage.layers if grouped else [stage]
        for piece in pieces:
            after = piece.output_shape(shape)
            yield Place(piece, shape, after, None if piece is pieces[-1] else end)
            shape = after


class Trial:
    """A copy of one piece with something to run on; made, it has run once and knows its bytes.

    Bytes, of the whole batch: `kept` between forward and backward, `fullest` at most in the forward, `busy` at most
    in the backward beyond what is kept then. `holds_x`, `holds_y`: whether input and output are among what is kept
    (the input is not in `kept`).
    """

    def __init__(self, place: Place, flops: int, batch: int, dtype: DTypeLike):
        self.place, self.flops = place, flops
        self.images = min(batch, max(1, int(PIECE // max(1, 3 * flops))))
        self.scale = batch / self.images
        module = Sequential(copy.deepcopy(place.module).train())
        for param in module.params():
            param.grad = np.zeros_like(param.data)  # as an optimiser provides it
        self.folded, self.net = Predictor(module).net, Fused(module)
        rng = np.random.default_rng(0)
        self.x, self.dy = (
            rng.standard_normal((self.images, *shape), np.float32).astype(dtype, copy=False)
            for shape in (place.before, place.after)
        )
        self.times: list[tuple] = []
        self.net.forward(self.x)  # what the first time alone is kept for good
        self.net.backward(self.dy, need_dx=True)
        self._watch(self.x, self.dy)

    def _watch(self, x, dy):
        size = x.nbytes
        with _traced() as now:
            x = x.copy()
            y = self.net.forward(x)
            with_y, fullest = now()
            del y
            with_x, _ = now()
            del x
            kept, _ = now()
            self.holds_y, self.holds_x = with_y - with_x < dy.nbytes / 2, with_x - kept < size / 2
            tracemalloc.reset_peak()
            self.net.backward(dy, need_dx=True)
            _, peak = now()
        seen = kept - size * self.holds_x, fullest - size, peak - kept
        self.kept, self.fullest, self.busy = (int(self.scale * count) for count in seen)

    def run(self) -> None:
        """Forward, backward and inference against the clock."""
        marks = [perf_counter()]
        self.net.forward(self.x)
        marks.append(perf_counter())
        self.net.backward(self.dy, need_dx=True)
        marks.append(perf_counter())
        with inference(self.folded):
            self.folded.forward(self.x)
        marks.append(perf_counter())
        self.times.append(tuple(b - a for a, b in pairwise(marks)))

    def seconds(self) -> tuple[float, float, float]:
        """Forward, backward and inference of the whole batch: the median of the runs."""
        return tuple(self.scale * median(column) for column in zip(*self.times, strict=True))


def time_update(optimizer: str, size: int, dtype: DTypeLike) -> float:
    """Seconds of the optimiser's step for `size` parameters."""
    param = Param("w", np.zeros(min(size, UPDATED), dtype))
    param.grad = np.random.default_rng(0).standard_normal(param.data.shape, np.float32).astype(dtype, copy=False)
    update = Recipe(optimizer=optimizer).make_optimizer([param])
    marks = [perf_counter()]
    for _ in range(4):
        update.step(1e-3)
        marks.append(perf_counter())
    return median(b - a for a, b in pairwise(marks)) * size / param.data.size


@contextmanager
def _traced():
    """Count what is allocated inside: yields a function that tells (bytes now, at most so far)."""
    outside = tracemalloc.is_tracing()
    if not outside:
        tracemalloc.start()
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    try:
        yield lambda: tuple(count - start for count in tracemalloc.get_traced_memory())
    finally:
        if not outside:
            tracemalloc.stop()
