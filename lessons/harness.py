"""What all lessons share: how a lesson is described, how its claims are judged, how it runs in a terminal.

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
        return assert_claims([Claim("the ratio", result["ratio"], 0.5, 2.0, spread="1.1 (0.9 .. 1.3)"), ...])

    def plot(result: dict) -> Figure:
        fig, axes = style.figure(LESSON.title, note=note(LESSON, result))  # draw, then return fig

    def main(argv=None) -> int:
        return run(LESSON, measure, check, plot, argv)

    if __name__ == "__main__":
        sys.exit(main())

A knob is an int, float, str, bool ("on" or "off"), Literal[...] or tuple[int, ...]. `check` and `plot` work from
the result alone, also after it went through JSON. Where a user's knobs leave the regime that a claim is about,
`check` gives that claim a `skipped` reason: it is then shown but not judged.
"""

import argparse
import importlib
import inspect
import json
import math
import platform
import re
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
from minires.lessons.prose import paragraphs, readable
from rich import box
from rich.syntax import Syntax
from rich.table import Table

import minires
from minires.commands.common import err, out
from minires.errors import ConfigError, MiniresError
from minires.files import write_text
from minires.look.style import save_png

FOLDER = Path("runs/lessons")  # pictures and the status of the last runs, under the working folder
WIDTH = 100  # columns of prose at most


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
    shows: tuple[Callable | type, ...]  # functions and classes of the library whose source the lesson shows
    quick: dict  # knobs that --quick sets


@dataclass(frozen=True)
class Claim:
    """A measured effect and its bounds: it holds when low <= measured <= high; None is no bound.

    Without any bound it is a number to know, shown and not judged.

    spread: what five seeds gave when the bound was set, such as '1.1 (0.9 .. 1.3)'.
    skipped: why the claim is not about these knobs; it is then shown but not judged.
    """

    text: str
    measured: float | None
    low: float | None = None
    high: float | None = None
    spread: str = ""
    skipped: str = ""

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


def assert_claims(claims: list[Claim]) -> list[Claim]:
    """The claims, or ClaimError naming those that fail."""
    if any(claim.failed for claim in claims):
        raise ClaimError(claims)
    return claims


def at_least_one(**knobs) -> None:
    """ConfigError for a knob below 1: `at_least_one(depth=depth, seeds=seeds)`."""
    for name, value in knobs.items():
        if value < 1:
            raise ConfigError(f"--{_dashed(name)}: expected 1 or more, got {value}")


def moved(knobs: dict, where: dict) -> str:
    """The knobs that differ from `where` a bound was measured, such as 'depth 50, not 80'; '' where none does."""
    return ", ".join(f"{name} {value}, not {knobs[name]}" for name, value in where.items() if knobs[name] != value)


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
    start = time.perf_counter()
    result = measure(**knobs)
    try:
        claims = check(result)
    except ClaimError as error:
        claims = error.claims
    outcome = Outcome(result, claims, time.perf_counter() - start)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_png(plot(result), picture or default_picture(lesson))
    noted = {"passed": not outcome.failed, "seconds": round(outcome.seconds, 1), "command": command(lesson, knobs)}
    write_text(FOLDER / "status.json", json.dumps(status() | {str(lesson.number): noted}, indent=1))
    return outcome


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
        values = value if isinstance(value, (list, tuple)) else [value]
        texts = [("off", "on")[v] if isinstance(v, bool) else str(v) for v in values]
        words += [f"--{_dashed(name)}", *texts]
    return " ".join(words)


def note(lesson: Lesson, result: dict) -> str:
    """The picture's line of provenance; `style.stamp` adds the versions."""
    return command(lesson, result["knobs"])


def provenance(lesson: Lesson, knobs: dict) -> dict:
    """Command (with the seed) and versions of a run."""
    versions = {"minires": minires.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"command": command(lesson, knobs), "seed": knobs.get("seed"), "versions": versions}


# the terminal


def run(lesson: Lesson, measure, check, plot, argv: list[str] | None = None) -> int:
    """Run a lesson from the command line. Exit status 0; 1 when a claim fails; 2 for a knob that cannot be."""
    args = vars(parser(lesson, measure).parse_args(argv))
    chosen = {name: value for name, value in args.items() if name in inspect.signature(measure).parameters}
    knobs = default_knobs(measure, lesson if args["quick"] else None) | chosen
    if args["source"]:
        _show_source(lesson)
        return 0
    if not args["json"]:
        _introduce(lesson)
    try:
        with err.status("measuring ..."):
            outcome = conduct(lesson, measure, check, plot, knobs, args["out"])
    except MiniresError as error:
        err.print(f"minires: lesson {lesson.number}: {error}", style="red")
        return 2
    if args["json"]:
        claims = [vars(claim) | {"verdict": claim.verdict} for claim in outcome.claims]
        text = {"lesson": lesson.number, "provenance": provenance(lesson, knobs), "claims": claims}
        print(json.dumps(text | {"result": outcome.result}))
    else:
        _conclude(lesson, outcome, knobs, args["out"] or default_picture(lesson))
    for claim in outcome.failed:
        err.print(f"FAILS: {claim.text}: measured {number(claim.measured)}, bound {claim.bound}", style="red")
    return int(bool(outcome.failed))


def parser(lesson: Lesson, measure) -> argparse.ArgumentParser:
    """The options of a lesson: each knob of `measure`, with its help from `measure`'s docstring."""
    p = argparse.ArgumentParser(
        prog=f"minires lesson {lesson.number}",
        description=f"{lesson.title} {lesson.question}",
        epilog=f"example: {lesson.next_try}",
    )
    hints, helps = get_type_hints(measure), knob_help(measure)
    for name, default in default_knobs(measure).items():
        shown = command(lesson, {name: default}).split(f"--{_dashed(name)} ", 1)[1]
        text = f"{helps.get(name, '')} (default: {shown})".replace("%", "%%")
        option = {"help": text, "default": argparse.SUPPRESS, **_kind(hints[name])}
        p.add_argument(f"--{_dashed(name)}", **option)
    p.add_argument("--quick", action="store_true", help="smaller and faster; knobs that you give count before it")
    p.add_argument("--out", type=Path, metavar="PICTURE.png", help=f"default: {default_picture(lesson)}")
    p.add_argument("--json", action="store_true", help="print the numbers as JSON")
    p.add_argument("--source", action="store_true", help="print the library's functions that the lesson is about")
    return p


def knob_help(measure) -> dict[str, str]:
    """Knob -> its line in the docstring of `measure`: the name, two spaces or a colon, the text."""
    found = re.findall(r"^ *(\w+)(?:: +|  +)(\S.*)$", inspect.getdoc(measure) or "", flags=re.MULTILINE)
    return {name: text for name, text in found if name in inspect.signature(measure).parameters}


def _kind(hint) -> dict:
    """What argparse needs for a knob of this type."""
    if hint is bool:
        return {"type": _switch, "metavar": "on|off"}
    if get_origin(hint) is Literal:
        kinds = {type(choice) for choice in get_args(hint)}
        return {"choices": get_args(hint), "type": kinds.pop() if len(kinds) == 1 else str}
    if get_origin(hint) is tuple:
        return {"type": get_args(hint)[0], "nargs": "+", "metavar": "N"}
    return {"type": hint, "metavar": "N" if hint in (int, float) else "TEXT"}


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"expected on or off, got {text!r}")
    return text == "on"


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def number(value: float | None) -> str:
    """Three digits; '-' for none."""
    return "-" if value is None else f"{value:,.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"


def _say(text: str, style: str = "") -> None:
    lines = paragraphs(readable(text))
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        hanging = 2 if line.startswith("- ") else 0
        wrapped = textwrap.fill(line, min(out.width, WIDTH), subsequent_indent=" " * hanging)
        out.print(wrapped, style=style, end="\n" if following.startswith("- ") else "\n\n")


def _introduce(lesson: Lesson) -> None:
    out.print(f"Lesson {lesson.number}: {lesson.title}", style="bold")
    _say(lesson.question, "italic")
    _say(lesson.idea)


def _conclude(lesson: Lesson, outcome: Outcome, knobs: dict, picture: Path) -> None:
    out.print(claim_table(outcome.claims))
    out.print()
    for reason in dict.fromkeys(claim.skipped for claim in outcome.claims if claim.skipped):
        _say(f"Not judged: {reason}.")
    _say(f"Look for: {lesson.look_for}")
    _say(f"Wrong if: {lesson.wrong_if}")
    _say(f"Exercise: {lesson.exercise}")
    _say("From: " + "; ".join(lesson.sources))
    said = provenance(lesson, knobs)
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    out.print(f"{outcome.seconds:.1f} s, seed {said['seed']}, {versions}\n{said['command']}", style="dim")
    out.print(f"code:    {', '.join(item.__qualname__ for item in lesson.shows)}; --source prints it")
    out.print(f"picture: {picture}\nnext:    {lesson.next_try}")


def claim_table(claims: list[Claim]) -> Table:
    """One row a claim: measured, bound, what five seeds gave when it was set, whether it holds."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for heading, justify in (("claim", "left"), ("measured", "right"), ("bound", "right"), ("five seeds gave", "left")):
        table.add_column(heading, justify=justify, no_wrap=heading in ("measured", "bound"))
    table.add_column("")
    for c in claims:
        style = "red" if c.failed else "dim" if c.skipped else None
        verdict = {"holds": "ok", "not judged": "-"}.get(c.verdict, c.verdict)
        bound, spread = ("", "") if c.skipped else (c.bound, c.spread)
        table.add_row(readable(c.text), number(c.measured), bound, spread, verdict, style=style)
    return table


def _show_source(lesson: Lesson) -> None:
    for item in lesson.shows:
        out.print(f"# {item.__module__}.{item.__qualname__}", style="dim")
        out.print(Syntax(inspect.getsource(item), "python", theme="ansi_light", background_color="default"))
