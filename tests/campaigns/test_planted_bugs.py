"""The campaign itself: what it says of a bug is so, and the checkout stays as it is."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

SPEC = spec_from_file_location("planted_bugs", Path(__file__).with_name("planted_bugs.py"))
planted_bugs = sys.modules[SPEC.name] = module_from_spec(SPEC)
SPEC.loader.exec_module(planted_bugs)
Bug = planted_bugs.Bug

CONFTEST = "from hypothesis import settings\nsettings.register_profile('minires')\n"
TESTS = """
from minires.ops.twice import twice

def test_twice():
    assert twice(3) == 6

def test_that_is_broken_anyway():
    assert twice(1) == 2.5
"""


@pytest.fixture
def checkout(tmp_path):
    """A package of one function, which doubles a number, and two tests; the second one always fails."""
    for name, text in {
        "minires/__init__.py": "",
        "minires/ops/__init__.py": "",
        "minires/ops/twice.py": "def twice(x):\n    y = x\n    return y + y\n",
        "tests/conftest.py": CONFTEST,
        "tests/ops/test_twice.py": TESTS,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def judged(checkout, old, new):
    before = {path: path.read_bytes() for path in checkout.rglob("*.py")}
    verdict = planted_bugs.judge(Bug("a slip", "minires/ops/twice.py", old, new, "", "more"), checkout, slow=False)
    assert before == {path: path.read_bytes() for path in checkout.rglob("*.py")}
    return verdict.outcome, verdict.by


def test_a_bug_is_caught_by_the_test_that_fails_with_it_alone(checkout):
    assert judged(checkout, "y + y", "3 * y") == ("caught", "tests/ops/test_twice.py::test_twice")


def test_a_test_that_fails_anyway_catches_nothing(checkout):
    outcome, by = judged(checkout, "y + y", "2 * y")
    assert (outcome, by) == (
        "NOT JUDGED",
        "tests/ops/test_twice.py::test_that_is_broken_anyway fails without it",
    )


def test_a_bug_that_no_test_sees_survives(checkout):
    tests = checkout / "tests/ops/test_twice.py"
    tests.write_text(TESTS.partition("def test_that")[0])
    assert judged(checkout, "y + y", "2 * y") == ("SURVIVED", "")


@pytest.mark.parametrize(("old", "times"), [("y * y", 0), ("y", 3)])
def test_an_anchor_has_to_stand_once(checkout, old, times):
    outcome, by = judged(checkout, old, "z")
    assert outcome == "NOT JUDGED"
    assert by == f"anchor not found: minires/ops/twice.py has its old text {times} times, not once"


def test_the_data_are_whole():
    bugs, root = planted_bugs.read(), planted_bugs.ROOT
    assert len({bug.name for bug in bugs}) == len(bugs) >= 107
    assert all(sum(bug.set == chosen for bug in bugs) == 40 for chosen in ("blind", "blind again", "third"))
    assert {bug.set for bug in bugs} == {"blind", "blind again", "third", "survivor", "more"}
    for bug in bugs:
        assert bug.old != bug.new, bug.name
        assert bug.why, bug.name
        assert (root / bug.file).is_file(), bug.name
        assert list((root / "tests" / bug.home).glob("test_*.py")), bug.name
