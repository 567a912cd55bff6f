"""The pieces of which a network is built over and over, each run alone as training and evaluation run it.

Training: on a team, each member with a part of the batch (`nn.parallel`), the classifier as it is. Evaluation: with
batch normalisation folded (`nn.folded`), on a team of threads.
"""

import copy
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter, sleep

import numpy as np

from minires.nn import ResNet
from minires.nn.blocks import Block
from minires.nn.fastconv import Kernels
from minires.nn.folded import Predictor
from minires.nn.module import Module, Param, Sequential, inference
from minires.nn.parallel import Part
from minires.processes import PATIENCE, Processes
from minires.team import Member, Team, spans
from minires.train import Recipe
from minires.train.optim import Update

PIECE = 5e9  # FLOPs of a training step that one piece may take; above, it is run on fewer images and scaled up
UPDATED = 2**22  # parameters on which an optimiser is timed


@dataclass(frozen=True)
class Place:
    """Where a piece stands; shapes without the batch. waiting: of the gradient that its stage holds meanwhile."""

    module: Module
    before: tuple
    after: tuple
    waiting: tuple | None
    shared: bool  # between the members of a team

    @property
    def key(self) -> str:
        """The same for two pieces that do the same work."""
        layers = []
        for m in self.module.modules():
            settings = {k: v for k, v in vars(m).items() if k != "name" and isinstance(v, (int, float, str, tuple))}
            layers.append((type(m).__name__, settings, [p.data.shape for p in m.params()]))
        return repr((self.before, layers))


def places(model: ResNet):
    """The stem, each block and the classifier, in forward order."""
    body = [m for m in model.layers if isinstance(m, Sequential)]
    head = Sequential(*model.layers[len(body) :], name="head")
    shape = model.config.input_shape
    for stage in (*body, head):
        end = stage.output_shape(shape)
        pieces = stage.layers if any(isinstance(m, Block) for m in stage.layers) else [stage]
        for piece in pieces:
            after = piece.output_shape(shape)
            yield Place(piece, shape, after, None if piece is pieces[-1] else end, stage is not head)
            shape = after


class _Piece(Part):
    """One member's part of a piece, with something to run on; what it gives stays where it is, as within a network."""

    turn = 0

    def load(self, x, dy, images):
        self.x, self.dy, self.images = x, dy, images

    def forward(self, x):
        self.turn += 1
        self.desk.images = self.images
        self.kernels.renew(self.turn, self.member)
        return self.body.forward(x)

    def pass_forward(self):
        self.forward(self.x)

    def pass_backward(self):
        self.backward(self.dy)


class Trial:
    """A copy of one piece with something to run on; made, it has run once and knows its bytes.

    Bytes, of the whole batch: `kept` between forward and backward, `fullest` at most in the forward, `busy` at most
    in the backward beyond what is kept then. `holds_x`, `holds_y`: whether input and output are among what is kept
    (the input is not in `kept`). `kernels`: bytes of transformed kernels, from the forward to the step's end.
    """

    def __init__(self, place: Place, flops: int, batch: int, dtype, team: Team | Processes, threads: Team):
        self.place, self.flops, self.threads = place, flops, threads
        self.images = min(batch, max(team.size, int(PIECE // max(1, 3 * flops))))
        self.scale = batch / self.images
        module = Sequential(copy.deepcopy(place.module).train())
        for param in module.params():
            param.grad = np.zeros_like(param.data)  # as an optimiser provides it
        self.folded = Predictor(module).net
        rng = np.random.default_rng(0)
        self.x, self.dy = (
            rng.standard_normal((self.images, *shape), np.float32).astype(dtype, copy=False)
            for shape in (place.before, place.after)
        )
        self.parts = spans(self.images, team.size)
        self.times: list[tuple] = []
        if place.shared:
            settings = [module], Kernels(), True, False
            # one member's part, and as much for each other: a team at work would not repeat itself
            alone, part = _Piece(Member(0, 1), *settings), self.parts[-1]
            alone.images = [part.stop - part.start]
            self._watch(alone, self.x[part], self.dy[part])
            team.adopt(module.params())
            self.crew = team.assemble(_Piece, *settings)
            images = [part.stop - part.start for part in self.parts]
            self.crew.call("load", [(self.x[part], self.dy[part], images) for part in self.parts])
            largest = max((param.data.nbytes for param in module.params()), default=0)
            self.busy += (team.size - 1) * largest * team.desks
        else:
            self.net = module
            self._watch(module, self.x, self.dy)

    def _watch(self, net, x, dy):
        size = x.nbytes
        with _traced() as now:
            x = x.copy()
            y = net.forward(x)
            with_y, fullest = now()
            del y
            with_x, _ = now()
            del x
            kept, _ = now()
            self.holds_y, self.holds_x = with_y - with_x < dy.nbytes / 2, with_x - kept < size / 2
            tracemalloc.reset_peak()
            net.backward(dy)
            _, peak = now()
        scale = self.scale * len(self.x) / len(dy)
        self.kernels = net.kernels.nbytes if self.place.shared else 0  # shared by the members, whatever the batch
        seen = kept - size * self.holds_x - self.kernels, fullest - size - self.kernels, peak - kept
        self.kept, self.fullest, self.busy = (int(scale * count) for count in seen)

    def run(self):
        """Forward, backward and inference against the clock."""
        parts = spans(self.images, self.threads.size)
        marks = [perf_counter()]
        for go in ("forward", "backward"):
            if self.place.shared:
                self.crew.call(f"pass_{go}", [()] * len(self.parts))
            else:
                getattr(self.net, go)(self.x if go == "forward" else self.dy)
            marks.append(perf_counter())
        times = [b - a for a, b in pairwise(marks)]
        sleep(1.5 * PATIENCE)  # until the processes of the team have let go of their cores
        with inference(self.folded):
            began = perf_counter()
            self.threads.run(lambda m: self.folded.forward(self.x[parts[m.rank]]), len(parts))
            self.times.append((*times, perf_counter() - began))

    def seconds(self) -> tuple[float, float, float]:
        """Forward, backward and inference of the whole batch: the median of the runs."""
        return tuple(self.scale * median(column) for column in zip(*self.times, strict=True))


def time_update(optimizer: str, size: int, dtype, team: Team | Processes) -> float:
    """Seconds of the optimiser's step for `size` parameters."""
    param = Param("w", np.zeros(min(size, UPDATED), dtype))
    param.grad = np.random.default_rng(0).standard_normal(param.data.shape, np.float32).astype(dtype, copy=False)
    update = Recipe(optimizer=optimizer).make_optimizer([param])
    team.host(update)
    crew, marks = team.assemble(Update, update), [perf_counter()]
    for step in range(1, 5):
        crew.call("run", [(1e-3, step)] * team.size)
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
