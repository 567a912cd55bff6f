"""What a teacher needs of the verdicts: as data, over a folder of submissions, in the form that Gradescope reads."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from minires.lessons.exercises import Exercise, exercises, judge
from minires.lessons.exercises.faults import number_of

from minires.errors import ConfigError, DataError
from minires.files import write_text

NAME = re.compile(r"exercise_(\d+)")
STATE = ".minires-exercises.json"  # beside a student's files: hints given of each exercise, and those solved


def state(folder: Path = Path()) -> dict:
    """{"hints": {exercise: how many were given}, "solved": [exercise]}; nothing where the file says something else."""
    try:
        seen = json.loads((folder / STATE).read_text(encoding="utf-8"))
        hints = {str(k): int(v) for k, v in seen["hints"].items()}
        return {"hints": hints, "solved": [int(number) for number in seen["solved"]]}
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {"hints": {}, "solved": []}


@dataclass(frozen=True)
class Submission:
    """A student's file for one exercise, and what the judge found in `seconds`. variant: the seed that it names."""

    student: str
    task: Exercise
    path: Path
    verdict: judge.Verdict
    seconds: float
    variant: int | None

    @property
    def passed(self) -> int:
        return sum(result.ok for result in self.verdict.results)

    @property
    def of(self) -> int:
        return len(self.verdict.results) + len(self.verdict.unreached)

    def as_dict(self) -> dict:
        """As JSON data; `checks` has those that ran, `unreached` the names of the others."""
        return {
            "student": self.student,
            "exercise": self.task.number,
            "variant": self.variant,
            "title": self.task.title,
            "file": str(self.path),
            "solved": self.verdict.ok,
            "passed": self.passed,
            "of": self.of,
            "hints": state(self.path.parent)["hints"].get(str(self.task.number), 0),
            "seconds": round(self.seconds, 2),
            "checks": [{"name": r.name, "ok": r.ok, "seen": r.seen, "hint": r.hint} for r in self.verdict.results],
            "unreached": list(self.verdict.unreached),
            "printed": self.verdict.printed,
        }

    def as_row(self) -> dict:
        """As a line of a table: the first fault in place of the checks."""
        row = {k: v for k, v in self.as_dict().items() if k not in ("checks", "unreached", "printed")}
        faults = [result for result in self.verdict.results if not result.ok]
        first = faults[0] if faults else None
        return row | {
            "first fault": f"{first.name}: {first.seen}" if first else "",
            "hint": first.hint if first else "",
        }


def submit(path: Path, task: Exercise, student: str = "") -> Submission:
    """Judge one file."""
    began = time.perf_counter()
    verdict = judge.judge(path, task)
    variant = number_of(Path(path).read_text(encoding="utf-8", errors="replace"))
    return Submission(student, task, Path(path), verdict, time.perf_counter() - began, variant)


def roster(path: Path) -> list[str]:
    """The students of a file, one a line; DataError where it cannot be read or a line is no name for a folder."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected names of students, one a line ({error})") from None
    names = [line for line in lines if line]
    for name in names:
        if name in (".", "..") or any(c in name for c in '/\\:*?"<>|') or not name.isprintable():
            raise DataError(f"{path}: {name!r} cannot be the name of a folder: write it with letters and digits")
    if not names or len({name.casefold() for name in names}) < len(names):
        raise DataError(f"{path}: {'no name is in it' if not names else 'a name stands twice'}: one student a line")
    return names


def deal(task: Exercise, students: list[str], seed: int = 0, folder: Path = Path()) -> list[tuple[str, Exercise, Path]]:
    """Write STUDENT/exercise_NN_name.py for each of them, a variant each, `seed` and those after it.

    Gives (student, the exercise as they have it, the file). ConfigError where a file is there already: then none is
    written.
    """
    dealt = [(name, replace(task, seed=seed + i), folder / name / task.path.name) for i, name in enumerate(students)]
    for _, _, path in dealt:
        if path.is_symlink() or path.exists():
            raise ConfigError(f"{path}: is there already, and may be somebody's work: nothing was written")
    texts = [own.text for _, own, _ in dealt]  # all of them before the first is written
    for (_, _, path), text in zip(dealt, texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return dealt


def find(folder: Path) -> list[tuple[str, Exercise, Path]]:
    """(student, exercise, file) of every file below the folder whose name holds exercise_NN.

    The student is the first folder below it, or, where files lie in it directly, what their name says besides, as in
    anna_exercise_01_im2col.py. DataError where there is none, or a number that no exercise has.
    """
    folder, tasks = Path(folder), {task.number: task for task in exercises()}
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of submissions, such as anna/exercise_01_im2col.py")
    found = []
    for path in sorted(folder.rglob("*.py")):
        if not (name := NAME.search(path.stem)):
            continue
        if int(name[1]) not in tasks:
            raise DataError(f"{path}: there is no exercise {int(name[1])}: rename it, or leave it out")
        parts = path.relative_to(folder).parts
        student = parts[0] if len(parts) > 1 else path.stem[: name.start()].strip("_- ")
        found.append((student, tasks[int(name[1])], path))
    if not found:
        raise DataError(f"{folder}: no file in it is named like exercise_01_im2col.py: keep the names of the hand-out")
    return found


def grade(found: list[tuple[str, Exercise, Path]], workers: int = 2) -> Iterator[Submission]:
    """Judge what `find` found, `workers` at a time, in its order."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda one: submit(one[2], one[1], one[0]), found)


def gradescope(submissions: list[Submission]) -> dict:
    """The results.json of an autograder on Gradescope: a test for each check, each worth a point."""
    tests = []
    for s in submissions:
        done = [(r.name, r.ok, f"{r.seen}\n{r.hint}".strip()) for r in s.verdict.results]
        for name, ok, output in [*done, *((name, False, "not reached") for name in s.verdict.unreached)]:
            name = f"exercise {s.task.number}: {name}"
            tests.append({"name": name, "score": int(ok), "max_score": 1, "output": output, "visibility": "visible"})
    return {"execution_time": round(sum(s.seconds for s in submissions), 2), "tests": tests}
