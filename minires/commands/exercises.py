"""exercise: the list, a statement with the file to work in, a check, a hint. Exit status 1 where a check fails."""

import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from minires.console import out
from minires.errors import ConfigError
from minires.files import write_text

SEEN = Path(".minires-hints.json")  # beside the student's files: how many hints of each exercise were given
LINES = 20  # of what the student's file prints


def exercise(args) -> int:
    from minires.lessons.exercises import exercise as find

    if args.number is None:
        if args.check or args.hint:
            raise ConfigError("exercise: say which one, as in `minires exercise 1 --check FILE`")
        return _list()
    task = find(args.number)
    status = _check(task, args.check) if args.check else 0
    if args.hint:
        _hint(task)
    elif not args.check:
        _hand_out(task)
    return status


def _list() -> int:
    from minires.lessons.exercises import exercises

    table = Table(show_edge=False)
    table.add_column("", justify="right")
    table.add_column("exercise")
    for task in exercises():
        table.add_row(str(task.number), task.title)
    out.print(table)
    out.print("\n`minires exercise 1` tells what to do and writes a file to start from.")
    return 0


def _hand_out(task) -> None:
    out.print(task.statement)
    path = Path(task.path.name)
    if path.is_symlink() or path.exists():
        out.print(f"\n{path} is there already, and was left as it is.")
    else:
        write_text(path, task.text)
        out.print(f"\nwrote {path}")
    out.print(f"check it: minires exercise {task.number} --check {path}")


def _check(task, file: str) -> int:
    from minires.lessons.exercises.judge import judge

    verdict = judge(file, task)
    out.print(f"exercise {task.number}: {task.title}", style="bold")
    first = next((r for r in verdict.results if not r.ok), None)
    width = max(len(name) for name in ("file", *task.checks.CHECKS))
    for result in verdict.results:
        mark = Text("pass", "green") if result.ok else Text("FAIL", "bold red")
        # the first fault alone is told in full: the others may follow from it
        told = f"{result.name:{width}}  {result.seen}" if result is first else result.name
        out.print(Text.assemble("  ", mark, f"  {told}"))
    for name in verdict.unreached:
        out.print(f"   --   {name}")
    if verdict.printed.strip():
        lines = verdict.printed.splitlines()
        out.print(f"\n{file} printed:")
        for line in lines[:LINES]:
            out.print(Text(f"  | {line}"))
        if lines[LINES:]:
            out.print(f"  | ... and {len(lines) - LINES} lines more")
    if not verdict.ok:
        _tell(f"\nhint: {first.hint}")
        passed = sum(r.ok for r in verdict.results)
        of = len(verdict.results) + len(verdict.unreached)
        out.print(f"{passed} of {of} checks pass; `minires exercise {task.number} --hint` helps further")
        return 1
    _tell(f"\nall {len(verdict.results)} checks pass. {task.checks.AFTERWARDS}")
    return 0


def _tell(text: str) -> None:
    """Prose, wrapped between words."""
    out.print(text, soft_wrap=False)


def _hint(task) -> None:
    """The next one of the exercise's hints; after the last, the first again."""
    hints = task.checks.HINTS
    try:
        seen = json.loads(SEEN.read_text(encoding="utf-8"))
        given = int(seen.get(str(task.number), 0)) % len(hints)
    except (OSError, ValueError, AttributeError, TypeError):
        seen, given = {}, 0
    _tell(f"hint {given + 1} of {len(hints)}: {hints[given]}")
    if given + 1 == len(hints):
        out.print(f"That was the last one. A reference solution: {task.solution}")
    write_text(SEEN, json.dumps(seen | {str(task.number): given + 1}) + "\n")


def register(commands, command) -> None:
    p = command(
        commands,
        "exercise",
        exercise,
        "Exercises that grade themselves: list them, take one, have a file checked, ask for a hint.",
        "minires exercise 1; minires exercise 1 --check exercise_01_im2col.py",
    )
    p.add_argument("number", nargs="?", type=int, metavar="N", help="which one; without it, the list")
    p.add_argument("--check", metavar="FILE", help="run the checks on this file, in a process of its own")
    p.add_argument("--hint", action="store_true", help="give the next hint")
