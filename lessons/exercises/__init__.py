"""Exercises that grade themselves: functions and blocks to write, and networks with a fault to find.

exercise_NN_name.py   what the student receives: the statement, and below it a hole or a fault
checks/               by the same name: HINTS, CHECKS in the order in which they run, and AFTERWARDS, what to read next
solutions/            by the same name: a reference solution
faults/               by the same name: other faults for the same hunt, a variant for each seed
grading.py            how a check says what it saw; worker.py runs the checks; judge.py watches over the worker;
                      classroom.py judges a folder of submissions
"""

import ast
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

from minires.errors import ConfigError


@dataclass(frozen=True)
class Exercise:
    """One exercise, by its student's file. seed: of which variant; None: as the file stands here."""

    path: Path
    seed: int | None = None

    @property
    def number(self) -> int:
        return int(self.path.stem.split("_")[1])

    @property
    def handed_out(self) -> str:
        """The student's file without a seed."""
        return self.path.read_text(encoding="utf-8")

    @property
    def text(self) -> str:
        """The student's file, as it is handed out; ConfigError where a seed has nothing to vary."""
        from minires.lessons.exercises.faults import varied

        return self.handed_out if self.seed is None else varied(self, self.seed)

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


def exercise(number: int, seed: int | None = None) -> Exercise:
    """The exercise of this number, as it stands or a variant of it; ConfigError where there is none."""
    found = {e.number: e for e in exercises()}
    if number not in found:
        raise ConfigError(f"exercise: there is no exercise {number}: choose one of 1 to {max(found)}")
    return replace(found[number], seed=seed)
