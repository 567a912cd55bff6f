"""The faults of the bug hunts' variants, in files by the names of the exercises: `minires exercise 8 --seed 12`.

A file's FAULTS are pairs of a function and the choices for each of its arguments. The function gives what stands
elsewhere in the hand-out: pairs of its text and what takes its place. Every combination of choices is a variant.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import product
from random import Random

from minires.lessons.exercises import exercises

from minires.errors import ConfigError
from minires.ranges import check

NUMBERED = re.compile(r"^VARIANT = (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Variant:
    """A fault by the name of its kind, the constants chosen for it, and the hand-out that has it."""

    kind: str
    constants: dict
    text: str


@cache
def deck(task) -> tuple[Variant, ...]:
    """Every variant of an exercise, shuffled, so that kinds take turns; none of one that is to be written."""
    try:
        faults = import_module(f"{__name__}.{task.path.stem}").FAULTS
    except ModuleNotFoundError:
        return ()
    found = []
    for kind, choices in faults:
        for values in product(*choices.values()):
            constants = dict(zip(choices, values, strict=True))
            found.append(Variant(kind.__name__, constants, exchanged(task.handed_out, kind(**constants))))
    Random(task.number).shuffle(found)
    return tuple(found)


def exchanged(text: str, edits) -> str:
    """`text` with each edit's first part, which stands there once, replaced by its second."""
    for old, new in edits:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} stands {text.count(old)} times in the exercise")
        text = text.replace(old, new)
    return text


def varied(task, seed: int) -> str:
    """The hand-out of a seed, which says so; seeds that follow one another have different ones."""
    check(seed=seed)
    variants = deck(task)
    if not variants:
        hunts = [other.number for other in exercises() if deck(other)]
        told = f"choose one of {hunts[0]} to {hunts[-1]}"
        raise ConfigError(f"exercise {task.number}: has no fault that a seed could vary: {told}")
    text = variants[seed % len(variants)].text.replace(":", f", variant {seed}:", 1)
    lines = text.splitlines()
    end = ast.parse(text).body[0].end_lineno
    lines[end : end + 1] = ["", f"VARIANT = {seed}  # which fault it had: leave this line", ""]
    return "\n".join(lines) + "\n"


def number_of(text: str) -> int | None:
    """The seed that a file names."""
    found = NUMBERED.search(text)
    return int(found[1]) if found else None
