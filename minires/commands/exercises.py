"""exercise: the list, a statement with the file to work in, a check, a hint; for teachers, a folder of submissions.

Exit status 1 where a check of one's own file fails.
"""

import csv
import json
from io import StringIO
from pathlib import Path

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from minires.console import err, out, print_json
from minires.errors import ConfigError
from minires.files import write_text

LINES = 20  # of what the student's file prints


def exercise(args) -> int:
    from minires.lessons.exercises import exercise as find

    if args.grade:
        return _grade(args)
    if args.number is None and (args.seed is not None or args.class_list or args.notebook):
        raise ConfigError(
            "exercise: --seed, --class and --notebook go with the number of one, as in `minires exercise 8`"
        )
    if args.csv or args.gradescope:
        raise ConfigError("exercise: --csv and --gradescope go with --grade FOLDER")
    if args.number is None:
        if args.check or args.hint or args.json:
            raise ConfigError("exercise: say which one, as in `minires exercise 1 --check FILE`")
        return _list()
    if args.json and not args.check:
        raise ConfigError("exercise: --json goes with --check FILE or --grade FOLDER")
    task = find(args.number, args.seed)
    if args.class_list:
        return _deal(task, args)
    if args.notebook:
        return _notebook(task, args)
    status = _check(task, args) if args.check else 0
    if args.hint:
        _hint(task)
    elif not args.check:
        _hand_out(task)
    return status


def _list() -> int:
    from minires.lessons.exercises import exercises
    from minires.lessons.exercises.classroom import state

    solved = state()["solved"]
    table = Table(show_edge=False)
    table.add_column("", justify="right")
    table.add_column("exercise")
    table.add_column("")
    for task in exercises():
        table.add_row(str(task.number), task.title, Text("solved", "green") if task.number in solved else "")
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


def _notebook(task, args) -> int:
    from minires.lessons.exercises.notebook import write

    if args.check or args.hint:
        raise ConfigError("exercise: --notebook writes a notebook: leave out --check and --hint")
    out.print(f"wrote {write(task, args.notebook)}")
    return 0


def _deal(task, args) -> int:
    """A variant for each student of a list."""
    from minires.lessons.exercises.classroom import deal, roster
    from minires.lessons.exercises.faults import deck

    if args.check or args.hint or args.notebook:
        raise ConfigError("exercise: --class writes files for a class: leave out --check, --hint and --notebook")
    dealt = deal(task, roster(args.class_list), task.seed or 0)
    table = Table(show_edge=False)
    for heading in ("student", "variant", "file"):
        table.add_column(heading)
    for student, own, path in dealt:
        table.add_row(Text(student), str(own.seed), Text(str(path)))
    out.print(table)
    if len(dealt) > (different := len(deck(task))):
        _tell(
            f"exercise {task.number} has {different} variants: the student {different} lines further down has the same."
        )
    return 0


def _check(task, args) -> int:
    from minires.lessons.exercises.classroom import state, submit

    submission = submit(args.check, task)
    verdict, seen = submission.verdict, state()
    if verdict.ok and task.number not in seen["solved"]:
        _keep(seen | {"solved": sorted([*seen["solved"], task.number])})
    if args.json:
        print_json(submission.as_dict())
    else:
        _show(submission)
    return int(not verdict.ok)


def _show(submission) -> None:
    task, verdict = submission.task, submission.verdict
    which = f"{task.number}" if submission.variant is None else f"{task.number}, variant {submission.variant}"
    out.print(f"exercise {which}: {task.title}", style="bold")
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
        out.print(f"\n{submission.path} printed:")
        for line in lines[:LINES]:
            out.print(Text(f"  | {line}"))
        if lines[LINES:]:
            out.print(f"  | ... and {len(lines) - LINES} lines more")
    if verdict.ok:
        _tell(f"\nall {submission.of} checks pass. {task.checks.AFTERWARDS}")
    else:
        _tell(f"\nhint: {first.hint}")
        helps = f"`minires exercise {task.number} --hint` helps further"
        out.print(f"{submission.passed} of {submission.of} checks pass; {helps}")


def _grade(args) -> int:
    """Status 0 once all were judged, whatever was found."""
    from minires.lessons.exercises.classroom import find, grade, gradescope

    if args.number is not None or args.check or args.hint or args.class_list:
        raise ConfigError(
            "exercise: --grade FOLDER judges all exercises in it: leave out N, --check, --hint and --class"
        )
    found, submissions = find(args.grade), []
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("judging", total=len(found))
        for submission in grade(found):
            submissions.append(submission)
            bar.advance(task)
    rows = [s.as_row() for s in submissions]
    if args.csv:
        text = StringIO()
        table = csv.DictWriter(text, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(args.csv, text.getvalue())
    if args.gradescope:
        write_text(args.gradescope, json.dumps(gradescope(submissions), indent=1))
    if args.json:
        print_json([s.as_dict() for s in submissions])
        return 0
    table = Table(show_edge=False)
    for heading in ("student", "exercise", "variant", "checks", "first fault"):
        table.add_column(heading)
    for s, row in zip(submissions, rows, strict=True):
        count = Text(f"{s.passed} of {s.of}", "green" if s.verdict.ok else "red")
        told = f"{s.task.number} {s.task.title}", "" if s.variant is None else str(s.variant)
        table.add_row(Text(s.student), *told, count, Text(row["first fault"]))
    out.print(table)
    return 0


def _tell(text: str) -> None:
    """Prose, wrapped between words."""
    out.print(text, soft_wrap=False)


def _hint(task) -> None:
    """The next one of the exercise's hints; after the last, the first again."""
    from minires.lessons.exercises.classroom import state

    hints, seen = task.checks.HINTS, state()
    given = seen["hints"].get(str(task.number), 0) % len(hints)
    _tell(f"hint {given + 1} of {len(hints)}: {hints[given]}")
    if given + 1 == len(hints):
        where = (
            task.solution if task.solution.exists() else f"lessons/exercises/solutions/{task.path.name} in the sources"
        )
        out.print(f"That was the last one. A reference solution: {where}")
        _tell("In Python, `minires.diagnose(layer, inputs=x)` says what a layer of yours gets wrong, and where.")
    _keep(seen | {"hints": seen["hints"] | {str(task.number): given + 1}})


def _keep(kept: dict) -> None:
    from minires.lessons.exercises.classroom import STATE

    write_text(STATE, json.dumps(kept) + "\n")


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
    p.add_argument("--seed", type=int, metavar="SEED", help="of 7 to 13: another fault for each number")
    p.add_argument(
        "--class",
        dest="class_list",
        metavar="FILE",
        help="write STUDENT/exercise_NN.py for each student in this list, one a line, each with another fault",
    )
    p.add_argument(
        "--notebook", metavar="FILE.ipynb", help="write it as a notebook, with nbgrader's marks in its cells"
    )
    p.add_argument("--json", action="store_true", help="of --check and --grade: print the verdicts as JSON")
    p.add_argument("--grade", metavar="FOLDER", help="check all files below it: STUDENT/exercise_01_im2col.py ...")
    p.add_argument("--csv", metavar="FILE", help="of --grade: write the table to this file")
    p.add_argument("--gradescope", metavar="FILE", help="of --grade: write results.json for Gradescope's autograder")
