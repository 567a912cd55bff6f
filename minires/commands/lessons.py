"""lesson: list them, run one with its knobs, run them all. Exit status 1 where a check fails."""

import argparse

from minires.console import Parser, err, out
from minires.errors import ConfigError, MiniresError


def lesson(args) -> int:
    from minires.lessons import harness

    if args.lesson is None:
        return _list(harness)
    if args.lesson == "all":
        return _all(harness, args.knobs)
    if not args.lesson.isdigit():
        raise ConfigError(f"lesson: expected a number or all, got {args.lesson!r}; `minires lesson` lists them")
    return harness.load(int(args.lesson)).main(args.knobs)


def _list(harness) -> int:
    from minires.lessons.prose import readable
    from minires.lessons.spreads import takes

    table, last = _table("lesson", "takes", "last run"), harness.status()
    for module in harness.discover():
        said = module.LESSON
        run = last.get(str(said.number))
        seen = f"{'ok' if run['passed'] else 'FAILS'}, {run['seconds']} s" if run else ""
        text = f"{said.title}\n{readable(said.question)}"
        table.add_row(str(said.number), text, takes(said.number), seen, end_section=True)
    out.print(table)
    out.print("\nrun one: minires lesson 3; all of them: minires lesson all --quick")
    return 0


def _all(harness, argv) -> int:
    from minires.lessons.spreads import keep

    p = Parser(prog="minires lesson all", description="Run every lesson and check its claims.")
    p.add_argument("--quick", action="store_true", help="the quick form of each")
    p.add_argument("--seed", type=int, metavar="N", help="the first seed of each (default: the lesson's)")
    p.add_argument("--repeat", type=int, metavar="N", help="measure N seeds of each one by one: `minires lesson 3 -h`")
    p.add_argument("--keep", action="store_true", help="note what was measured in the package's own table")
    args = p.parse_args(argv)
    if args.repeat is not None:
        return max([module.main(argv) for module in harness.discover()])
    table, failures = _table("lesson", "claims", "time"), 0
    for module in harness.discover():
        said = module.LESSON
        knobs = harness.default_knobs(module.measure, said if args.quick else None)
        knobs |= {} if args.seed is None else {"seed": args.seed}
        try:
            with err.status(f"lesson {said.number}: {said.title}"):
                outcome = harness.conduct(said, module.measure, module.check, module.plot, knobs)
            if args.keep and not args.quick:
                keep(said.number, seconds=outcome.seconds)
        except MiniresError as error:
            table.add_row(str(said.number), said.title, f"error: {error}", "", style="red")
            failures += 1
            continue
        judged = [claim for claim in outcome.claims if claim.judged]
        count = f"{len(judged) - len(outcome.failed)} of {len(judged)} hold"
        texts = "\n".join([count, *(f"FAILS: {claim.text}" for claim in outcome.failed)])
        table.add_row(
            str(said.number), said.title, texts, f"{outcome.seconds:.1f} s", style="red" if outcome.failed else None
        )
        failures += bool(outcome.failed)
    out.print(table)
    out.print(f"\npictures: {harness.FOLDER}")
    return int(failures > 0)


def _table(*headings):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for heading in ("", *headings):
        table.add_column(heading)
    return table


def register(commands, command) -> None:
    p = command(
        commands,
        "lesson",
        lesson,
        "List the lessons, or run one: a question, a measurement, a picture, claims that are checked.",
        "minires lesson 3 --depth 80 --bn off",
    )
    p.add_argument("lesson", nargs="?", metavar="N", help="its number, or `all`; without one: list them")
    p.add_argument("knobs", nargs=argparse.REMAINDER, metavar="...", help="its options: minires lesson N --help")
