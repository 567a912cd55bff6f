"""What each number may be: one table for Python's arguments and the command line's options alike.

`check(lr=0.1, seed=0)` holds arguments to it, `check_fields(self)` a dataclass, and the command line every option of
one of these names (console.Parser).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from sys import float_info
from typing import get_args

from minires.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """What a value should be, in words and as a test."""

    words: str
    holds: Callable[[object], bool]


def _whole(low: int, high: int) -> Range:
    return Range(f"a whole number from {low:,} to {high:,}", lambda v: _is(v, Integral) and low <= v <= high)


def _number(words: str, holds=lambda v: True) -> Range:
    """Neither NaN nor infinity is one."""
    largest = float_info.max  # math.isfinite would raise for 10**400
    return Range(words, lambda v: _is(v, Real) and -largest <= v <= largest and holds(v))


def _several(words: str, each: Range, count: int | None = None) -> Range:
    def holds(v):
        return isinstance(v, tuple | list) and len(v) == (count or len(v)) > 0 and all(map(each.holds, v))

    return Range(f"{words}, each {each.words}", holds)


def _is(value, kind) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _up_to(high: float) -> Range:
    return _number(f"a number from 0 to {high:g}", lambda v: 0 <= v <= high)


COUNT = _whole(1, 1_000_000)
NATURAL = _whole(0, 1_000_000)
SEED = _whole(0, 2**32 - 1)
FINITE = _number("a finite number")
POSITIVE = _number("a finite number above 0", lambda v: v > 0)
NOT_NEGATIVE = _number("a finite number of at least 0", lambda v: v >= 0)
SHARE = _number("a number of at least 0 and below 1", lambda v: 0 <= v < 1)

RANGES = {
    # recipes, schedules, optimisers
    **dict.fromkeys(("epochs", "batch_size", "patience", "total"), COUNT),
    **dict.fromkeys(("lr", "lr_scale", "head_lr", "peak", "clip_norm", "epsilon"), POSITIVE),
    **dict.fromkeys(("weight_decay", "warmup_epochs"), NOT_NEGATIVE),
    **dict.fromkeys(("momentum", "label_smoothing"), SHARE),
    "betas": _several("two numbers", SHARE, 2),
    "seed": SEED,
    # augmentation; a scale of 0.9 leaves a tenth of the image
    **dict.fromkeys(("shift", "brightness"), _up_to(1)),
    "scale": _up_to(0.9),
    "rotate": _up_to(180),
    # networks
    "classes": _whole(2, 1_000_000),
    "last_gamma": FINITE,
    **dict.fromkeys(("bn_momentum", "dropout"), SHARE),
    "widths": _several("a width a stage", COUNT),
    # data
    "size": _whole(1, 65_535),
    "split_seed": SEED,
    "test_fraction": SHARE,
    "shards": _whole(1, 100_000),
    # instruments, benchmarks, lessons
    **dict.fromkeys(("span", "seconds", "stall", "lowest", "highest", "target", "high"), POSITIVE),
    **dict.fromkeys(("images", "points", "patch", "stride", "number", "max_workspace"), COUNT),
    **dict.fromkeys(("batch", "steps", "rounds", "watch", "top"), COUNT),
    "warmup": NATURAL,
    **dict.fromkeys(("seeds", "repeat", "repeats", "directions", "count", "depth", "deep", "shallow"), COUNT),
    **dict.fromkeys(("groups", "shots", "tuning"), COUNT),
    **dict.fromkeys(("width", "channels", "block", "batches"), COUNT),
    "scales": FINITE,
    "threads": _whole(1, 1024),
    "ranks": _whole(1, 1024),
    "gbit": POSITIVE,
}


def check(**values) -> None:
    """ConfigError for the first value that is not what RANGES says of its name."""
    for name, value in values.items():
        _check(value, RANGES[name], name)


def check_options(values: dict, ranges: dict[str, Range] = RANGES) -> None:
    """`check` of those options that are numbers, or several, and have a range; told as typed: --label-smoothing."""
    for name, value in values.items():
        for each in value if isinstance(value, tuple | list) else [value]:
            if name in ranges and _is(each, Real):
                _check(each, ranges[name], f"--{name.replace('_', '-')}")


def _check(value, expected: Range, told: str):
    if not expected.holds(value):
        raise ConfigError(f"{told}: expected {expected.words}, got {value!r}")


def check_fields(settings) -> None:
    """`check` of a dataclass's fields; None passes where the field's type allows it."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.name in RANGES and not (value is None and type(None) in get_args(f.type)):
            check(**{f.name: value})
