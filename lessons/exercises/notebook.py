"""An exercise as a notebook that nbgrader grades: `minires exercise 7 --notebook source/week4/exercise_07.ipynb`.

The statement's cell and the checks' cells are locked, the answer's cell is the student's: running it writes the file
that the checks judge, each in a cell worth a point. They are the checks of `--check` and `--grade`, run by the same
judge. The cells carry nbgrader's metadata, schema version 3; without nbgrader it is a notebook like others.
"""

import json
import re
from functools import cache
from pathlib import Path

from minires.lessons.exercises import Exercise, exercise, judge
from minires.lessons.exercises.worker import LOADS
from minires.lessons.notebooks import INSTALL, as_notebook, cell, escaped

from minires.errors import ConfigError
from minires.files import write_text

SECONDS = 20.0  # for the student's code: nbgrader gives a cell 30
# nbgrader replaces an answer's whole cell by a stub, unless it has a region to replace
REGION = """

if False:  # nbgrader's mark of an answer: nothing of it runs
    ### BEGIN SOLUTION
    pass
    ### END SOLUTION
"""
CHECK = """from minires.lessons.exercises.notebook import check

check({number}, "{file}", "{name}")"""


def write(task: Exercise, path: Path) -> Path:
    """Write the exercise, or the variant of it, as a notebook (nbformat 4.5); ConfigError where a file is there."""
    path = Path(path)
    if path.is_symlink() or path.exists():
        raise ConfigError(f"{path}: is there already, and may be somebody's work: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(notebook(task), indent=1, ensure_ascii=False))
    return path


def notebook(task: Exercise) -> dict:
    """The notebook as JSON data."""
    name, file = f"exercise-{task.number:02}", task.path.name
    start = (
        f"Run this cell to write `{file}`, then the checks below it. `%run {file}` in a cell of your own tries it out."
    )
    cells = [
        cell(f"{name}-task", "markdown", _statement(task.statement), _marks(f"{name}-task", locked=True)),
        cell(f"{name}-install", "code", INSTALL, _marks(f"{name}-install", locked=True)),
        cell(f"{name}-start", "markdown", start, _marks(f"{name}-start", locked=True)),
        cell(
            f"{name}-answer",
            "code",
            f"%%writefile {file}\n{_below(task.text)}{REGION}",
            _marks(f"{name}-answer", solution=True),
        ),
    ]
    for check in (LOADS, *task.checks.CHECKS):
        own = f"{name}-check-{re.sub(r'[^a-zA-Z0-9]+', '-', check)}"
        text = CHECK.format(number=task.number, file=file, name=check)
        cells.append(cell(own, "code", text, _marks(own, locked=True, grade=True, points=1)))
    return as_notebook(cells)


def _marks(name, *, solution=False, locked=False, grade=False, **points) -> dict:
    """nbgrader's metadata of a cell."""
    told = {
        "schema_version": 3,
        "grade_id": name,
        "solution": solution,
        "locked": locked,
        "grade": grade,
        "task": False,
    }
    return {"nbgrader": told | points}


def _statement(text: str) -> str:
    """As Markdown, where an indented line is one of code already."""
    title, _, rest = text.partition("\n")
    lines = (line if line.startswith("    ") else escaped(line) for line in rest.splitlines())
    return "\n".join((f"# {escaped(title)}", *lines))


def _below(text: str) -> str:
    """The file without the statement, which has a cell of its own."""
    return text.split('"""', 2)[2].strip("\n")


def check(number: int, file: str, name: str) -> None:
    """One check of the exercise on a file; AssertionError, with a hint, where it fails or was not reached."""
    verdict = _verdict(number, file, Path(file).read_bytes() if Path(file).is_file() else b"")
    result = next((one for one in verdict.results if one.name == name), None)
    if result is None:
        first = next(one for one in verdict.results if not one.ok)
        raise AssertionError(f"{name}: not reached, for {first.name!r} ended the checks: {first.seen}")
    if not result.ok:
        raise AssertionError(f"{name}: {result.seen}\nhint: {result.hint}") from None
    print(f"{name}: pass")


@cache
def _verdict(number: int, file: str, content: bytes) -> judge.Verdict:
    """One run of the judge for all the checks' cells, until the file changes."""
    return judge.judge(file, exercise(number), SECONDS)
