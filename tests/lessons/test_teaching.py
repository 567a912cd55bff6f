"""The teacher's guide: every lesson and exercise is in it, what it says of checks is true, and the file is as made."""

import re
from pathlib import Path

import pytest
from minires.lessons import harness, teaching
from minires.lessons.exercises import exercise, exercises
from minires.lessons.exercises.faults import deck
from minires.lessons.harness import load
from minires.lessons.sources import ADDRESSES, NAMED, address


def test_every_lesson_and_exercise_has_its_row_and_its_week():
    assert list(teaching.LESSONS) == harness.numbers()
    assert list(teaching.EXERCISES) == [task.number for task in exercises()]
    assert sorted(n for _, lessons, _ in teaching.WEEKS for n in lessons) == harness.numbers()
    assert sorted(n for _, _, tasks in teaching.WEEKS for n in tasks) == [task.number for task in exercises()]
    for unit in [*teaching.LESSONS.values(), *teaching.EXERCISES.values()]:
        assert unit.level in teaching.LEVELS
        assert 20 <= unit.minutes <= 90


def test_an_exercise_comes_after_what_it_presumes():
    weeks = {("exercise", n): i for i, (_, _, tasks) in enumerate(teaching.WEEKS) for n in tasks}
    weeks |= {("lesson", n): i for i, (_, lessons, _) in enumerate(teaching.WEEKS) for n in lessons}
    units = {("exercise", n): unit for n, unit in teaching.EXERCISES.items()}
    units |= {("lesson", n): unit for n, unit in teaching.LESSONS.items()}
    for name, unit in units.items():
        for kind, numbers in re.findall(r"(lesson|exercise)s? ([\d, and]+)", unit.presumes):
            for n in map(int, re.findall(r"\d+", numbers)):
                assert weeks[kind, n] <= weeks[name], f"{name} before {kind} {n}"


@pytest.mark.parametrize("n", teaching.EXERCISES)
def test_the_checks_that_a_mistake_is_said_to_fail_exist(n):
    named = re.findall(r"(?:check|:) '([^']+)'", teaching.EXERCISES[n].mistake)
    assert named
    assert set(named) <= set(exercise(n).checks.CHECKS), named


def test_the_file_is_the_guide():
    path = Path(teaching.__file__).with_name("TEACHING.md")
    assert path.read_text(encoding="utf-8") == teaching.markdown(), "python -m minires.lessons.teaching prints it"


@pytest.mark.parametrize("n", harness.numbers())
def test_every_source_has_an_address(n):
    for text in load(n).LESSON.sources:
        found = [address(name) for name in NAMED.findall(text)]
        assert found, f"{text}: name arXiv's number, or give the address in lessons/sources.py"
        assert all(re.fullmatch(r"https://[\w.-]+/\S*", one) for one in found)


def test_every_address_is_named_somewhere():
    texts = [*(s for n in harness.numbers() for s in load(n).LESSON.sources), *(task.statement for task in exercises())]
    for name in ADDRESSES:
        assert any(name in text for text in texts), name


def test_the_number_of_variants_that_the_guide_names_is_that_of_the_deck():
    told = re.search(r"`minires exercise 8 --seed 12` writes one of (\d+)", teaching.GRADING)
    assert int(told[1]) == len(deck(exercise(8)))
