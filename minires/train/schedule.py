"""The learning rate as a function of the step: constant, step, cosine, one-cycle, each with a warm-up."""

import math
from dataclasses import dataclass

from minires.errors import ConfigError

KINDS = ("constant", "step", "cosine", "onecycle")


@dataclass(frozen=True)
class Schedule:
    """`schedule(step)` is the learning rate for steps 0 .. total - 1; after that its last value.

    During the first `warmup` steps the rate rises linearly towards `peak` (P. Goyal et al.,
    arXiv:1706.02677, section 2.2). Then, with u = 0..1 over the remaining steps:
      constant   peak
      step       peak * 0.1 for each of `drops` (shares of the whole run) that has passed
      cosine     peak * (1 + cos(pi u)) / 2  (I. Loshchilov, F. Hutter, arXiv:1608.03983, equation 5)
      onecycle   the cosine down to peak / 1e4 after a rise from peak / 25 along a cosine; the warm-up is that
                 rise, 30 % of the run where none is given (L. Smith, N. Topin, arXiv:1708.07120)
    """

    kind: str
    peak: float
    total: int
    warmup: int = 0
    drops: tuple = (0.5, 0.75)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"unknown schedule {self.kind!r}: choose one of {', '.join(KINDS)}")
        if not self.peak > 0:
            raise ConfigError(f"the learning rate must be above 0, got {self.peak}")
        if self.total < 1 or self.warmup < 0:
            raise ConfigError(f"a schedule needs at least 1 step and no negative warm-up, got {self}")

    def __call__(self, step: int) -> float:
        warmup = self.warmup
        if self.kind == "onecycle":
            warmup = warmup or max(1, round(0.3 * self.total))
            if step < warmup:
                return _cosine(self.peak / 25, self.peak, step / warmup)
        elif step < warmup:
            return self.peak * (step + 1) / warmup
        u = min(1.0, (step - warmup) / max(1, self.total - 1 - warmup))
        match self.kind:
            case "step":
                return self.peak * 0.1 ** sum(step >= drop * self.total for drop in self.drops)
            case "cosine":
                return _cosine(self.peak, 0.0, u)
            case "onecycle":
                return _cosine(self.peak, self.peak / 1e4, u)
        return self.peak


def _cosine(start: float, end: float, u: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * u)) / 2
