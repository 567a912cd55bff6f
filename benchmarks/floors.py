"""The limits of this machine, measured, and the work that a network cannot avoid: how far from the limit is a time?

Peak: the rate of NumPy's float32 matrix product on all threads, for a large square and the best over several shapes.
Bandwidth: two kernels of J. McCalpin's STREAM (1995), copy (b = a) and triad (a = b + s c), on all threads and on
arrays that no cache holds, each array counted once as there.
A floor is the larger of FLOPs over the best peak and bytes over the best bandwidth: S. Williams, A. Waterman,
D. Patterson, "Roofline", CACM 52(4), 2009. It is that of the convolution by its definition: Winograd's algorithm, which
minires uses for some 3x3 kernels, has fewer products.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
from minires.benchmarks import contenders, harness

from minires.backend import thread_count
from minires.instruments.cost.summary import summarize

SQUARE = 2048
# (m, k, n) beside the large square: smaller squares, and products of ResNet-50's convolutions at batch 32
SHAPES = ((1024, 1024, 1024), (512, 512, 512), (8192, 576, 64), (8192, 256, 64), (2048, 1152, 128), (512, 2304, 256))
FLOATS = 2**25  # an array for the bandwidth: 128 MiB
PIECE = 2**15  # floats of triad's product, which stays in the cache


@dataclass(frozen=True)
class Floors:
    """FLOP/s of float32 matrix products and bytes/s of memory, on all threads."""

    square: float
    best: float
    best_shape: tuple
    copy: float
    triad: float

    @property
    def bandwidth(self) -> float:
        return max(self.copy, self.triad)

    def seconds(self, work: "Work") -> float:
        """Who does these products and moves these bytes cannot take less; an algorithm with fewer products can."""
        return max(work.flops / self.best, work.bytes / self.bandwidth)

    def as_dict(self) -> dict:
        return asdict(self) | {"bandwidth": self.bandwidth}

    def __str__(self):
        shape = "x".join(map(str, self.best_shape))
        return (
            f"Measured limits: sgemm {self.square / 1e9:.0f} GFLOP/s at {SQUARE}x{SQUARE}x{SQUARE}, at best "
            f"{self.best / 1e9:.0f} ({shape}); memory {self.copy / 1e9:.1f} GB/s copy, {self.triad / 1e9:.1f} triad"
        )


@dataclass(frozen=True)
class Work:
    """What a step or an inference of a batch cannot avoid."""

    flops: int
    bytes: int


def work(model, batch: int, task: str = "training", optimizer: str = "adam") -> Work:
    """FLOPs: 2 a multiply-add of the convolutions and the classifier, as `minires summary` counts them. In training
    the forward product and both products of backward (dw and dx), without dx of the first convolution.

    Bytes: in training what backward needs is written once and read once, the weights are read in forward and in
    backward, and the update reads the gradient and reads and writes weights and state. In inference each convolution's
    output is written and read once, and the weights are read. Less is possible only where arrays stay in the cache.
    """
    s = summarize(model, batch)
    if task == "training":
        weights, state = s.memory.gradients, s.memory.optimiser[optimizer]
        return Work(batch * s.flops_training, 2 * s.memory.activations + 2 * weights + 4 * weights + 2 * state)
    outputs = sum(math.prod(row.shape[1:]) for row in s.rows if row.flops)
    return Work(batch * s.flops_forward, 2 * batch * outputs * model.dtype.itemsize + s.memory.parameters)


def _best_rate(amount, call, seconds) -> float:
    """amount / the shortest time of a call, over so many seconds and at least three calls."""
    call()
    times, until = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return amount / min(times)


def sgemm(shape, seconds=0.3) -> float:
    """FLOP/s of (m, k) @ (k, n) in float32."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    y = np.empty((m, n), np.float32)
    return _best_rate(2 * m * k * n, lambda: np.matmul(a, b, out=y), seconds)


def bandwidth(seconds=0.5, floats=FLOATS) -> tuple[float, float]:
    """(copy, triad) in bytes/s."""
    a, b, c = (np.full(floats, value, np.float32) for value in (0, 1, 2))
    scale, threads = np.float32(3), thread_count()
    ends = [floats * i // threads for i in range(threads + 1)]
    parts = [slice(*pair) for pair in pairwise(ends)]

    def copy(part):
        a[part] = b[part]

    def triad(part):
        product = np.empty(PIECE, np.float32)
        for start in range(part.start, part.stop, PIECE):
            piece = slice(start, min(start + PIECE, part.stop))
            scaled = np.multiply(c[piece], scale, out=product[: piece.stop - piece.start])
            np.add(b[piece], scaled, out=a[piece])

    with ThreadPoolExecutor(threads) as pool:
        return (
            _best_rate(2 * a.nbytes, lambda: list(pool.map(copy, parts)), seconds),
            _best_rate(3 * a.nbytes, lambda: list(pool.map(triad, parts)), seconds),
        )


def build(_name, _task, options):
    """A turn measures the floors; see harness."""

    def turn():
        rates = {shape: sgemm(shape) for shape in ((SQUARE,) * 3, *SHAPES)}
        shape = max(rates, key=rates.get)
        return Floors(rates[(SQUARE,) * 3], rates[shape], shape, *bandwidth())

    return turn


def measure(threads=None, isa="default") -> Floors:
    """In a process of its own, on so many threads and by this instruction set; a few seconds."""
    options = {"isa": isa}
    with harness.started(build, ("floors",), "", options, threads, environment=contenders.environment) as (worker,):
        return worker.turn().value
