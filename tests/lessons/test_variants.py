"""Variants of the bug hunts: each is broken, each can be solved, seeds differ, and a class gets one each."""

import ast
import csv
import json
from contextlib import suppress

import pytest
from demand import ALL
from mended import mended
from minires.lessons.exercises import classroom, exercise, exercises
from minires.lessons.exercises.faults import deck, exchanged, number_of
from minires.lessons.exercises.worker import examine

from minires import cli
from minires.errors import ConfigError, DataError

HUNTS = range(7, 14)
LEAST = 10  # variants of each hunt


def faults(text, task, folder):
    path = folder / "mine.py"
    path.write_text(text, encoding="utf-8")
    return [result for result in examine(path, task) if not result.ok], path


def code(text) -> str:
    """What the file does, whatever it says."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    tree.body = [node for node in tree.body if "VARIANT" not in ast.unparse(node)]
    return ast.unparse(tree)


@pytest.mark.parametrize("n", HUNTS)
def test_seeds_differ_in_what_the_file_does_and_repeat_themselves(n):
    count = len(deck(exercise(n)))
    texts = [exercise(n, seed).text for seed in range(count)]
    assert count >= LEAST
    assert len({code(text) for text in texts}) == count
    kinds = [variant.kind for variant in deck(exercise(n))]
    assert len(set(kinds[:LEAST])) >= min(3, len(set(kinds)))
    assert code(exercise(n, count).text) == code(texts[0])
    assert code(exercise(n).text) in {code(text) for text in texts}  # the exercise's own fault is among them
    assert [number_of(text) for text in texts] == list(range(count))


@pytest.mark.parametrize("n", HUNTS)
def test_a_variant_reads_as_an_exercise(n):
    task = exercise(n)
    for seed in range(len(deck(task))):
        own = exercise(n, seed)
        assert own.statement.startswith(f"Exercise {n}, variant {seed}: ")
        assert "\nRead: " in own.statement
        assert max(map(len, own.text.splitlines())) <= 120
        assert "{" not in own.statement


def check_variants(n, seeds, folder):
    """Each is broken in a way that the checks tell, and right once the reference's functions stand in their places."""
    task, solved = exercise(n), {}
    for seed in seeds:
        own = exercise(n, seed)
        found, _ = faults(own.text, task, folder)
        assert found, f"variant {seed} of exercise {n} passes: {deck(task)[seed]}"
        assert "Error" not in found[0].seen, found[0]
        assert found[0].hint
        answer = mended(own.text, task.solution.read_text(encoding="utf-8"))
        assert answer != own.text
        key = code(answer)  # variants of one surrounding have one answer, which is judged once
        if key not in solved:
            solved[key] = faults(answer, task, folder)[0]
        assert solved[key] == [], f"variant {seed} of exercise {n}"


@pytest.mark.parametrize("n", HUNTS)
def test_some_variants_are_broken_and_can_be_solved(n, tmp_path):
    check_variants(n, (0,), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("n", HUNTS)
def test_a_spread_of_variants_is_broken_and_can_be_solved(n, tmp_path):
    """With MINIRES_ALL every one, some minutes for each exercise."""
    check_variants(n, range(0, len(deck(exercise(n))), 1 if ALL else 6), tmp_path)


def test_an_exercise_to_write_has_no_fault_to_vary():
    for task in exercises()[:6]:
        with pytest.raises(ConfigError, match="choose one of 7 to 13"):
            _ = exercise(task.number, 3).text


def test_an_edit_of_what_is_no_longer_there_is_an_error():
    with pytest.raises(ValueError, match="0 times"):
        exchanged("a", [("b", "c")])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("Anna Berg\n\nboris\ncarla\n", encoding="utf-8")
    return tmp_path


def run(*arguments) -> int:
    return cli.main(["exercise", *map(str, arguments)])


def test_a_seed_hands_out_its_variant(here, capsys):
    assert run(9, "--seed", 4) == 0
    assert "Exercise 9, variant 4: " in capsys.readouterr().out
    assert (here / "exercise_09_right_alone.py").read_text(encoding="utf-8") == exercise(9, 4).text
    assert run(9, "--check", "exercise_09_right_alone.py", "--json") == 1
    assert json.loads(capsys.readouterr().out)["variant"] == 4


@pytest.mark.slow
def test_a_class_gets_a_variant_each_and_the_marks_say_which(here, capsys):
    assert run(9, "--class", "names.txt", "--seed", 10) == 0
    files = {name: here / name / "exercise_09_right_alone.py" for name in ("Anna Berg", "boris", "carla")}
    assert [number_of(path.read_text(encoding="utf-8")) for path in files.values()] == [10, 11, 12]
    assert len({code(path.read_text(encoding="utf-8")) for path in files.values()}) == 3
    solution = exercise(9).solution.read_text(encoding="utf-8")
    files["boris"].write_text(mended(files["boris"].read_text(encoding="utf-8"), solution), encoding="utf-8")
    files["carla"].write_text(solution, encoding="utf-8")
    capsys.readouterr()
    assert run("--grade", ".", "--csv", "marks.csv") == 0
    rows = list(csv.DictReader((here / "marks.csv").open(encoding="utf-8")))
    marks = [(row["student"], row["variant"], row["solved"]) for row in rows]
    assert marks == [("Anna Berg", "10", "False"), ("boris", "11", "True"), ("carla", "", "True")]


def test_a_class_is_dealt_to_once_and_whole(here, capsys):
    (here / "boris").mkdir()
    (here / "boris" / "exercise_07_plain_in_disguise.py").write_text("my work", encoding="utf-8")
    assert run(7, "--class", "names.txt") == 2
    assert "nothing was written" in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["boris", "names.txt"]
    assert run(3, "--class", "names.txt") == 2
    assert not (here / "Anna Berg").exists()


def test_more_students_than_variants_is_said(here, capsys):
    count = len(deck(exercise(9)))
    (here / "names.txt").write_text("\n".join(f"s{i}" for i in range(count + 1)), encoding="utf-8")
    assert run(9, "--class", "names.txt") == 0
    assert f"exercise 9 has {count} variants" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("names", ["", "a\nA\n", "../up\n", "..\n", "a/b\n", "tab\tbed\n"])
def test_a_list_that_names_no_folders_is_refused(tmp_path, names):
    path = tmp_path / "names.txt"
    path.write_text(names, encoding="utf-8")
    with pytest.raises(DataError, match=r"names\.txt: "):
        classroom.roster(path)


def test_what_does_not_go_together_is_told_in_one_line(here, capsys):
    for arguments, words in (
        (("--seed", 3), "--seed, --class and --notebook go with"),
        (("--class", "names.txt"), "--seed, --class and --notebook go with"),
        ((9, "--class", "names.txt", "--hint"), "leave out --check, --hint and --notebook"),
        (("--grade", ".", "--class", "names.txt"), "leave out N, --check, --hint and --class"),
        ((9, "--class", "absent.txt"), "absent.txt: expected names of students"),
        ((2, "--seed", 1), "exercise 2: has no fault that a seed could vary"),
        ((9, "--seed", -1), "seed"),
    ):
        with suppress(SystemExit):  # the parser's own way
            assert run(*arguments) == 2
        shown = capsys.readouterr()
        assert words in " ".join(shown.err.split()), shown.err
        assert not (here / "exercise_02_conv_backward.py").exists()
