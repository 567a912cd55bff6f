"""A lesson in the terminal: its options, its story, its table, and the same over several seeds."""

import argparse
import inspect
import textwrap
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from minires.lessons import shown, spreads
from minires.lessons.answers import ANSWERS, answer
from minires.lessons.handout import handout
from minires.lessons.harness import (
    Claim,
    Lesson,
    Outcome,
    apart,
    at_least_one,
    command,
    conduct,
    dashed,
    default_knobs,
    default_picture,
    knob_help,
    number,
    provenance,
    repeat,
    spread,
)
from minires.lessons.prose import paragraphs, readable
from rich import box
from rich.syntax import Syntax
from rich.table import Table

from minires.commands.common import picture
from minires.console import Parser, err, out, print_json
from minires.errors import MiniresError
from minires.instruments.style import save_picture
from minires.ranges import NATURAL, RANGES

WIDTH = 100  # columns of prose at most


def run(lesson: Lesson, measure, check, plot, argv: list[str] | None = None) -> int:
    """Run a lesson from the command line. Exit status 0; 1 when a claim fails; 2 for a knob that cannot be."""
    try:
        args = vars(parser(lesson, measure).parse_args(argv))
        chosen = {name: value for name, value in args.items() if name in inspect.signature(measure).parameters}
        knobs = default_knobs(measure, lesson if args["quick"] else None) | chosen
        if args["source"]:
            _show_source(lesson)
            return 0
        if args["answers"]:
            _answer(lesson)
            return 0
        if args["repeat"] is not None:
            return _repeat(lesson, measure, check, knobs, args)
        if not args["json"]:
            _introduce(lesson)
        with err.status("measuring ..."):
            outcome = conduct(lesson, measure, check, plot, knobs, args["out"])
        if args["handout"]:
            sheet = handout(lesson, outcome, plot(outcome.result), apart(measure, knobs))
            save_picture(sheet, args["handout"])
            err.print(f"handout: {args['handout']}")
    except MiniresError as error:
        err.print(f"minires: lesson {lesson.number}: {error}", style="red")
        return 2
    if args["keep"] and knobs == default_knobs(measure):
        spreads.keep(lesson.number, seconds=outcome.seconds)
    if args["json"]:
        claims = [vars(claim) | {"verdict": claim.verdict} for claim in outcome.claims]
        text = {"lesson": lesson.number, "provenance": provenance(lesson, knobs), "claims": claims}
        print_json(text | {"result": outcome.result})
    else:
        _conclude(lesson, outcome, knobs, args["out"] or default_picture(lesson), apart(measure, knobs))
    for claim in outcome.failed:
        err.print(f"FAILS: {claim.text}: measured {number(claim.measured)}, bound {claim.bound}", style="red")
    return int(bool(outcome.failed))


def _repeat(lesson: Lesson, measure, check, knobs: dict, args: dict) -> int:
    """Print, and keep if asked to, what each claim gave seed by seed; status 1 when a judged one failed in any run."""
    runs = args["repeat"]
    at_least_one(repeat=runs)
    with err.status(f"measuring {runs} seeds ..."):
        claims, seconds = repeat(measure, check, knobs, runs)
    seen = [list(same) for same in zip(*claims, strict=True)]
    defaults = default_knobs(measure)
    said = provenance(lesson, {k: v for k, v in knobs.items() if v != defaults[k]} | {"repeat": runs})
    values = {same[0].text: [c.measured for c in same] for same in seen if all(c.measured is not None for c in same)}
    if args["keep"]:
        digits = {text: [float(f"{v:.8g}") for v in found] for text, found in values.items()}
        claims = {c.text: {"bound": c.bound, "values": digits[c.text]} for c, *_ in seen if c.text in digits}
        record = {"command": said["command"], "versions": said["versions"], "knobs": spreads.changes(knobs, defaults)}
        spreads.keep(lesson.number, record=record | {"claims": claims})
    if args["json"]:
        claims = [{"claim": c.text, "values": values.get(c.text), "low": c.low, "high": c.high} for c, *_ in seen]
        print_json({"lesson": lesson.number, "provenance": said, "claims": claims, "seconds": seconds})
    else:
        out.print(f"Lesson {lesson.number}: {lesson.title}", style="bold")
        out.print(_repeat_table(seen, values))
        out.print()
        _say_skipped([claim for claim, *_ in seen])
        out.print(f"{min(seconds):.1f} to {max(seconds):.1f} s a seed\n{said['command']}", style="dim")
    return int(any(claim.failed for same in seen for claim in same))


def _repeat_table(seen: list[list[Claim]], values: dict) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for heading, justify in (("claim", "left"), ("mean (smallest..largest)", "left"), ("bound", "right"), ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=heading == "bound")
    for first, *others in seen:
        failed = sum(c.failed for c in (first, *others))
        verdict = f"{len(others) + 1 - failed} of {len(others) + 1} hold" if first.judged else "-"
        shown = spread(values[first.text]) if first.text in values else "-"
        table.add_row(readable(first.text), shown, first.bound, verdict, style="red" if failed else None)
    return table


def parser(lesson: Lesson, measure) -> Parser:
    """The options of a lesson: each knob of `measure`, with its help from `measure`'s docstring."""
    p = Parser(
        prog=f"minires lesson {lesson.number}",
        description=f"{lesson.title} {lesson.question}",
        epilog=f"example: {lesson.next_try}",
        ranges=RANGES | dict.fromkeys(("epochs", "steps"), NATURAL),  # 0: as initialised
    )
    hints, helps = get_type_hints(measure), knob_help(measure)
    for name, default in default_knobs(measure).items():
        shown = command(lesson, {name: default}).split(f"--{dashed(name)} ", 1)[1]
        text = f"{helps.get(name, '')} (default: {shown})".replace("%", "%%")
        option = {"help": text, "default": argparse.SUPPRESS, **_kind(hints[name])}
        p.add_argument(f"--{dashed(name)}", **option)
    p.add_argument("--quick", action="store_true", help="smaller and faster; knobs that you give count before it")
    p.add_argument(
        "--out", type=Path, metavar="PICTURE", help=f"PNG, SVG or PDF by its ending; default: {default_picture(lesson)}"
    )
    p.add_argument("--handout", type=picture, metavar="FILE.pdf", help="write a page for a class, to print and fill in")
    p.add_argument("--json", action="store_true", help="print the numbers as JSON")
    p.add_argument("--repeat", type=int, metavar="N", help="measure N seeds one by one: mean (smallest..largest)")
    keep = "note what --repeat gave, or else the seconds of this run, in the package's own table"
    p.add_argument("--keep", action="store_true", help=keep)
    p.add_argument("--source", action="store_true", help="print the code that the lesson is about")
    p.add_argument("--answers", action="store_true", help="print the answers to its exercise, for those who tried it")
    return p


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


def _conclude(lesson: Lesson, outcome: Outcome, knobs: dict, picture: Path, elsewhere: str) -> None:
    out.print(claim_table(outcome.claims))
    out.print()
    _say_skipped(outcome.claims)
    if elsewhere:
        _say(elsewhere, "yellow")
    _say(f"Look for: {lesson.look_for}")
    _say(f"Wrong if: {lesson.wrong_if}")
    _say(f"Exercise: {lesson.exercise}")
    _say("From: " + "; ".join(lesson.sources))
    said = provenance(lesson, knobs)
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    out.print(f"{outcome.seconds:.1f} s, seed {said['seed']}, {versions}\n{said['command']}", style="dim")
    out.print(f"code:    {', '.join(dict.fromkeys(map(shown.short, lesson.shows)))}; --source prints it")
    out.print(f"picture: {picture}\nnext:    {lesson.next_try}")


def _say_skipped(claims: list[Claim]) -> None:
    for reason in dict.fromkeys(claim.skipped for claim in claims if claim.skipped):
        _say(f"Not judged: {reason}.")


def claim_table(claims: list[Claim]) -> Table:
    """One row a claim: measured, bound, what five seeds gave, whether it holds."""
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


def _answer(lesson: Lesson) -> None:
    out.print(f"Lesson {lesson.number}: {lesson.title}", style="bold")
    _say(f"Exercise: {lesson.exercise}", "italic")
    _say(answer(lesson.number))
    out.print(ANSWERS[lesson.number].note, style="dim")


def _show_source(lesson: Lesson) -> None:
    for item in lesson.shows:
        out.print(f"# {shown.name(item)}", style="dim")
        source, language = shown.source(item), shown.language(item)
        out.print(Syntax(source, language, theme="ansi_light", background_color="default"))
