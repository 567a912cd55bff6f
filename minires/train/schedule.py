"""The learning rate as a function of the step: constant, step, cosine, one-cycle, each with a warm-up."""

import math
from dataclasses import dataclass

from minires.errors import ConfigError
from minires.ranges import check_fields

KINDS = ("constant", "step", "cosine", "onecycle")
RISE = 0.3  # share of a run that a warm-up takes at most where nobody says how long it is


@dataclass(frozen=True)
class Schedule:
    """`schedule(step)` is the learning rate for steps 0 .. total - 1; after that its last value.

    During the first `warmup` steps the rate rises linearly towards `peak` (P. Goyal et al.,
    arXiv:1706.02677, section 2.2). Then, t steps later, with n left after the warm-up:
      constant   peak
      step       peak * 0.1 for each of `drops` (shares of the whole run) that has passed
      cosine     peak * (1 + cos(pi t / n)) / 2, which falls to 0 after the last step, not in it
                 (I. Loshchilov, F. Hutter, arXiv:1608.03983, equation 5)
      onecycle   a cosine down to peak / 1e4 in the last step, t = n - 1, after a rise from peak / 25 along a cosine;
                 the warm-up is that rise, 30 % of the run where none is given (L. Smith, N. Topin, arXiv:1708.07120)
    At least two steps follow a warm-up, one at the peak and one at the end of the way down.

    >>> schedule = minires.Schedule("cosine", peak=0.1, total=100, warmup=10)
    >>> round(schedule(0), 4), schedule(10), round(schedule(55), 4)
    (0.01, 0.1, 0.05)
    """

    kind: str
    peak: float
    total: int
    warmup: int = 0
    drops: tuple = (0.5, 0.75)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"unknown schedule {self.kind!r}: choose one of {', '.join(KINDS)}")
        check_fields(self)
        if not 0 <= self.warmup <= max(0, self.total - 2):
            raise ConfigError(f"a warm-up of {self.warmup} steps does not fit into a run of {self.total}: shorten it")

    def __call__(self, step: int) -> float:
        step, warmup = min(step, self.total - 1), self.warmup
        if self.kind == "onecycle":
            warmup = warmup or usual_warmup(self.total)
            if step < warmup:
                return _cosine(self.peak / 25, self.peak, step / warmup)
        elif step < warmup:
            return self.peak * (step + 1) / warmup
        t, n = step - warmup, self.total - warmup
        match self.kind:
            case "step":
                return self.peak * 0.1 ** sum(step >= drop * self.total for drop in self.drops)
            case "cosine":
                return _cosine(self.peak, 0.0, t / n)
            case "onecycle":
                return _cosine(self.peak, self.peak / 1e4, t / max(1, n - 1))
        return self.peak


def usual_warmup(total: int) -> int:
    """The steps of a warm-up of RISE of the run, with two steps left after it."""
    return min(round(RISE * total), max(0, total - 2))


def _cosine(start: float, end: float, u: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * u)) / 2
