"""An exercise as a notebook for nbgrader: its cells' marks are by nbgrader's schema, its checks those of --grade."""

import json
import re

import pytest
from minires.lessons.exercises import exercise, exercises, notebook
from minires.lessons.exercises.worker import LOADS

from minires import cli
from minires.errors import ConfigError

# what nbgrader's schema of a cell's metadata, version 3, allows
TYPES = {"schema_version": int, "grade": bool, "locked": bool, "solution": bool, "task": bool, "grade_id": str}
TYPES |= {"points": int, "checksum": str, "cell_type": str}


def marks(made) -> list[dict]:
    return [cell["metadata"]["nbgrader"] for cell in made["cells"]]


def answer(made) -> dict:
    (found,) = [cell for cell in made["cells"] if cell["metadata"]["nbgrader"]["solution"]]
    return found


@pytest.mark.parametrize("task", [*exercises(), exercise(8, 3)], ids=lambda task: f"{task.number}-{task.seed}")
def test_its_marks_are_by_the_schema(task):
    made = notebook.notebook(task)
    for mark in marks(made):
        assert {"schema_version", "grade", "locked", "solution"} <= set(mark) <= set(TYPES)
        assert all(type(value) is TYPES[key] for key, value in mark.items())
        assert mark["schema_version"] == 3
        assert re.fullmatch(r"[a-zA-Z0-9_\-]+", mark["grade_id"])
        assert ("points" in mark) == mark["grade"]
        assert mark["locked"] != mark["solution"]
    names = [mark["grade_id"] for mark in marks(made)]
    assert len(set(names)) == len(names)
    assert [cell["id"] for cell in made["cells"]] == names
    graded = [cell for cell in made["cells"] if cell["metadata"]["nbgrader"]["grade"]]
    assert {cell["cell_type"] for cell in graded} == {"code"}
    said = [re.search(r'"([^"]+)"\)$', cell["source"])[1] for cell in graded]
    assert said == [LOADS, *task.checks.CHECKS]


def test_nbformat_takes_it():
    nbformat = pytest.importorskip("nbformat", reason="no nbformat: pip install 'minires[notebooks]'")
    nbformat.validate(notebook.notebook(exercise(3)))


def test_nbgrader_takes_it():
    nbgraderformat = pytest.importorskip("nbgrader.nbgraderformat", reason="no nbgrader")
    for task in exercises():
        nbgraderformat.reads(json.dumps(notebook.notebook(task)), as_version=4)


def test_the_answer_s_cell_holds_the_hand_out_and_the_region_that_nbgrader_replaces(tmp_path):
    task = exercise(8, 3)
    first, _, code = answer(notebook.notebook(task))["source"].partition("\n")
    assert first == f"%%writefile {task.path.name}"
    assert "VARIANT = 3" in code
    assert task.text.rstrip().splitlines()[-1] in code.splitlines()
    kept, stub = code.partition("    ### BEGIN SOLUTION")[0], "    # YOUR CODE HERE\n    raise NotImplementedError()\n"
    assert code.count("### END SOLUTION") == 1
    exec(kept + stub, {"__name__": "student"})  # as the students get it: it loads


def test_a_check_s_cell_passes_or_gives_the_hint_of_the_judge(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task, path = exercise(9), tmp_path / "exercise_09_right_alone.py"
    path.write_text(task.text, encoding="utf-8")
    notebook.check(9, path.name, "forward")
    assert capsys.readouterr().out == "forward: pass\n"
    with pytest.raises(AssertionError, match="Who set it to 0"):
        notebook.check(9, path.name, "dx")
    path.write_text("def relu_backward(", encoding="utf-8")
    with pytest.raises(AssertionError, match="never closed"):
        notebook.check(9, path.name, LOADS)
    with pytest.raises(AssertionError, match="dx: not reached"):
        notebook.check(9, path.name, "dx")


def test_the_command_writes_it_once(tmp_path, capsys):
    path = tmp_path / "source" / "week4" / "hunt.ipynb"
    assert cli.main(["exercise", "7", "--seed", "2", "--notebook", str(path)]) == 0
    made = json.loads(path.read_text(encoding="utf-8"))
    assert made == notebook.notebook(exercise(7, 2))
    assert "Exercise 7, variant 2" in made["cells"][0]["source"]
    with pytest.raises(ConfigError, match="is there already"):
        notebook.write(exercise(7), path)
