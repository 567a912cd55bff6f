"""What all lessons share: how a lesson is described, and how its claims are judged. terminal.py runs it.

A lesson is a module `lesson_NN_slug.py` with

    LESSON = Lesson(number=3, title=..., question=..., ...)

    def measure(*, depth: int = 50, seeds: int = 5, seed: int = 0) -> dict:
        '''What is measured, in a sentence.

        depth  how many layers        <- one line a knob: the help of its option
        seeds  how many seeds
        seed   the first of them
        '''
        knobs = dict(locals())
        return {"knobs": knobs, ...}  # plain types only: the result travels as JSON

    def check(result: dict) -> list[Claim]:
        return assert_claims([Claim("the ratio", result["ratio"], 0.5, 2.0), ...], LESSON, result)

    def plot(result: dict) -> Figure:
        fig, axes = style.figure(LESSON.title, note=note(LESSON, result))  # draw, then return fig

    def main(argv=None) -> int:
        return run(LESSON, measure, check, plot, argv)

    if __name__ == "__main__":
        sys.exit(main())

A knob is an int, float, str, bool ("on" or "off"), Literal[...] or tuple[int, ...]. `check` and `plot` work from
the result alone, also after it went through JSON; a `plot` that takes `narrow` can draw for a phone. Where a user's
knobs leave the regime that a claim is about, `check` gives that claim a `skipped` reason: it is then shown but not
judged. What five seeds gave beside each bound comes from spreads.json.
"""

import importlib
import inspect
import json
import math
import platform
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
from minires.lessons import spreads
from minires.lessons.shown import Shown

import minires
from minires.errors import ConfigError
from minires.files import write_text
from minires.instruments.style import picture_kind, save_picture

FOLDER = Path("runs/lessons")  # pictures and the status of the last runs, under the working folder


@dataclass(frozen=True)
class Lesson:
    """What a lesson says. Texts are plain paragraphs divided by empty lines; a line that begins with '- ' is an item of
    a list; formulas stand between $...$ in LaTeX, light enough for `readable`."""

    number: int
    title: str
    question: str
    idea: str
    look_for: str  # in the picture
    wrong_if: str  # the measurement that would prove the lesson wrong
    exercise: str
    next_try: str  # a command
    sources: tuple[str, ...]
    shows: tuple[Shown, ...]  # functions and classes, of the library first of all, whose source the lesson shows
    quick: dict  # knobs that --quick sets


@dataclass(frozen=True)
class Claim:
    """A measured effect and its bounds: it holds when low <= measured <= high; None is no bound.

    Without any bound it is a number to know, shown and not judged.

    spread: what several seeds gave one by one, such as '1.1 (0.9..1.3)': `assert_claims` looks it up.
    skipped: why the claim is not about these knobs; it is then shown but not judged.
    """

    text: str
    measured: float | None
    low: float | None = None
    high: float | None = None
    skipped: str = ""
    spread: str = ""

    @property
    def judged(self) -> bool:
        """Whether there is a bound that is about these knobs."""
        return not self.skipped and (self.low, self.high) != (None, None)

    @property
    def failed(self) -> bool:
        """Whether it was judged and does not hold; a number that is missing or NaN does not."""
        if not self.judged:
            return False
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return self.measured is None or not low <= self.measured <= high

    @property
    def bound(self) -> str:
        """The bounds in a few characters."""
        if self.low is None:
            return "" if self.high is None else f"<= {number(self.high)}"
        return f">= {number(self.low)}" if self.high is None else f"{number(self.low)} .. {number(self.high)}"

    @property
    def verdict(self) -> str:
        """'holds', 'FAILS' or 'not judged'."""
        return "not judged" if not self.judged else "FAILS" if self.failed else "holds"


class ClaimError(AssertionError):
    """A claim that does not hold. `claims` has all of them, the failed ones among them."""

    def __init__(self, claims: list[Claim]):
        self.claims = claims
        failed = [f"{c.text}: measured {number(c.measured)}, bound {c.bound}" for c in claims if c.failed]
        super().__init__("; ".join(failed))


def assert_claims(claims: list[Claim], lesson: Lesson, result: dict) -> list[Claim]:
    """The claims, each with what is kept of other seeds (spreads.py), or ClaimError naming those that fail."""
    seen = spreads.values(lesson.number, result["knobs"], default_knobs(load(lesson.number).measure))
    claims = [replace(c, spread=spread(seen[c.text])) if c.text in seen else c for c in claims]
    if any(claim.failed for claim in claims):
        raise ClaimError(claims)
    return claims


def spread(values: list[float]) -> str:
    """'1.1 (0.9..1.3)': mean, smallest, largest; one number where all agree."""
    low, mean, high = (number(f(values)) for f in (min, np.mean, max))
    return mean if low == high else f"{mean} ({low}..{high})"


def judged(check, result: dict) -> list[Claim]:
    """The claims of `check`, also where some of them fail."""
    try:
        return check(result)
    except ClaimError as error:
        return error.claims


def at_least_one(**knobs) -> None:
    """ConfigError for a knob below 1: `at_least_one(depth=depth, seeds=seeds)`."""
    for name, value in knobs.items():
        if value < 1:
            raise ConfigError(f"--{dashed(name)}: expected 1 or more, got {value}")


def moved(knobs: dict, where: dict) -> str:
    """The knobs that differ from `where` a bound was measured, such as 'depth 50, not 80'; '' where none does."""
    return ", ".join(f"{name} {value}, not {knobs[name]}" for name, value in where.items() if knobs[name] != value)


def apart(measure, knobs: dict) -> str:
    """What to know of a picture at other knobs than those that the text speaks of; '' where there are none."""
    defaults = default_knobs(measure)
    free = ("data", "seed", "seeds", "rounds", "repeats", "run", "device")  # which change no sentence
    names = [name for name, value in knobs.items() if name not in free and not _same(value, defaults[name])]
    if not names:
        return ""
    said, here = (", ".join(f"{n} {_words(k[n])}" for n in names) for k in (defaults, knobs))
    return f"The text speaks of {said}; this was measured with {here}."


def _same(a, b) -> bool:
    return (list(a) == list(b)) if isinstance(b, tuple) else a == b


def _words(value) -> str:
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(("off", "on")[v] if isinstance(v, bool) else str(v) for v in values)


def number(value: float | None) -> str:
    """Three digits, or a large whole number in full; '-' for none."""
    if value is None:
        return "-"
    most = 1e9 if float(value).is_integer() else 1e5
    return f"{value:,.0f}" if 1000 <= abs(value) < most else f"{value:.3g}"


# lessons by number


def discover() -> list[ModuleType]:
    """The lessons' modules in order."""
    return [load(n) for n in numbers()]


def load(n: int) -> ModuleType:
    """The module of lesson n; ConfigError where there is none."""
    names = {int(path.stem.split("_")[1]): path.stem for path in _files()}
    if n not in names:
        known = ", ".join(map(str, names))
        raise ConfigError(f"there is no lesson {n}: choose one of {known}; `minires lesson` lists them")
    return importlib.import_module(f"minires.lessons.{names[n]}")


def numbers() -> list[int]:
    """The numbers of the lessons, as their files say."""
    return [int(path.stem.split("_")[1]) for path in _files()]


def _files() -> list[Path]:
    return sorted(Path(__file__).parent.glob("lesson_[0-9][0-9]_*.py"))


def default_knobs(measure, lesson: Lesson | None = None) -> dict:
    """The knobs of `measure` with their defaults; given the lesson, with those of its quick form."""
    knobs = {name: p.default for name, p in inspect.signature(measure).parameters.items()}
    return knobs | (lesson.quick if lesson else {})


def knob_help(measure) -> dict[str, str]:
    """Knob -> its line in the docstring of `measure`: the name, two spaces or a colon, the text."""
    found = re.findall(r"^ *(\w+)(?:: +|  +)(\S.*)$", inspect.getdoc(measure) or "", flags=re.MULTILINE)
    return {name: text for name, text in found if name in inspect.signature(measure).parameters}


# one run


@dataclass(frozen=True)
class Outcome:
    """What a run gave: the result of `measure`, the claims, the seconds that both took."""

    result: dict
    claims: list[Claim]
    seconds: float

    @property
    def failed(self) -> list[Claim]:
        return [claim for claim in self.claims if claim.failed]


def conduct(lesson: Lesson, measure, check, plot, knobs: dict, picture: Path | None = None) -> Outcome:
    """Measure, judge, draw and note the status. picture: where to save it, by default in runs/lessons/."""
    picture = picture or default_picture(lesson)
    picture_kind(picture)  # before the measuring
    start = time.perf_counter()
    result = measure(**knobs)
    claims = judged(check, result)
    outcome = Outcome(result, claims, time.perf_counter() - start)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_picture(plot(result), picture)
    noted = {"passed": not outcome.failed, "seconds": round(outcome.seconds, 1), "command": command(lesson, knobs)}
    write_text(FOLDER / "status.json", json.dumps(status() | {str(lesson.number): noted}, indent=1))
    return outcome


def repeat(measure, check, knobs: dict, runs: int) -> tuple[list[list[Claim]], list[float]]:
    """The claims of each of several seeds alone, from that of the knobs on, and the seconds that each took."""
    alone = {"seeds": 1} if "seeds" in knobs else {}
    claims, seconds = [], []
    for i in range(runs):
        start = time.perf_counter()
        claims.append(judged(check, measure(**knobs | alone | {"seed": knobs["seed"] + i})))
        seconds.append(time.perf_counter() - start)
    return claims, seconds


def dashed(name: str) -> str:
    return name.replace("_", "-")


def status() -> dict:
    """Lesson number (as text) -> passed, seconds and command of its last run from this folder."""
    try:
        return dict(json.loads((FOLDER / "status.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # never run here, or not ours
        return {}


def default_picture(lesson: Lesson) -> Path:
    return FOLDER / f"lesson_{lesson.number:02}.png"


def command(lesson: Lesson, knobs: dict) -> str:
    """The command that repeats a run: every knob, so that it stays true when a default changes."""
    words = [f"minires lesson {lesson.number}"]
    for name, value in knobs.items():
        words += [f"--{dashed(name)}", _words(value)]
    return " ".join(words)


def note(lesson: Lesson, result: dict) -> str:
    """The picture's line of provenance; `style.canvas` adds the versions."""
    return command(lesson, result["knobs"])


def provenance(lesson: Lesson, knobs: dict) -> dict:
    """Command (with the seed) and versions of a run."""
    versions = {"minires": minires.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"command": command(lesson, knobs), "seed": knobs.get("seed"), "versions": versions}
