"""Exercises that grade themselves: functions and blocks to write, and networks with a fault to find.

exercise_NN_name.py   what the student receives: the statement, and below it a hole or a fault
checks/               by the same name: HINTS, CHECKS in the order in which they run, and AFTERWARDS, what to read next
solutions/            by the same name: a reference solution
grading.py            how a check says what it saw; worker.py runs the checks; judge.py watches over the worker;
                      classroom.py judges a folder of submissions
"""

import ast
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from minires.errors import ConfigError


@dataclass(frozen=True)
class Exercise:
    """One exercise, by its student's file."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.stem.split("_")[1])

    @property
    def text(self) -> str:
        """The student's file, as it is handed out."""
        return self.path.read_text(encoding="utf-8")

    @property
    def statement(self) -> str:
        """What to do: the docstring of the student's file."""
        return ast.get_docstring(ast.parse(self.text))

    @property
    def title(self) -> str:
        """The first line of the statement without its number."""
        return self.statement.splitlines()[0].partition(": ")[2]

    @property
    def checks(self) -> ModuleType:
        """The module with HINTS, CHECKS and AFTERWARDS."""
        return import_module(f"{__name__}.checks.{self.path.stem}")

    @property
    def solution(self) -> Path:
        """The reference solution."""
        return self.path.parent / "solutions" / self.path.name


def exercises() -> list[Exercise]:
    """All of them, by number."""
    return [Exercise(path) for path in sorted(Path(__file__).parent.glob("exercise_*.py"))]


def exercise(number: int) -> Exercise:
    """The exercise of this number; ConfigError where there is none."""
    found = {e.number: e for e in exercises()}
    if number not in found:
        raise ConfigError(f"exercise: there is no exercise {number}: choose one of 1 to {max(found)}")
    return found[number]
