"""A lesson as a notebook: it brings minires where it is missing, and runs from its first cell to its last."""

import json

import pytest
from demand import on_demand
from minires.lessons import harness, notebooks


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_its_first_cell_installs_what_is_missing(tmp_path):
    notebook = json.loads(notebooks.write(3, tmp_path / "lesson.ipynb").read_text(encoding="utf-8"))
    first = "".join(code(notebook)[0]["source"])
    assert '"pip", "install"' in first
    assert 'find_spec("minires") is None' in first


def test_without_nbclient_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "nbformat", None)
    assert notebooks.main(["1", str(tmp_path / "lesson.ipynb"), "--run"]) == 2
    assert "minires[notebooks]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# of one form: a few stand for all
@pytest.mark.slow
@pytest.mark.parametrize("n", [n if n == 1 else pytest.param(n, marks=on_demand) for n in harness.numbers()])
def test_it_runs_and_keeps_what_it_gave(n, tmp_path):
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason="no nbclient: pip install 'minires[notebooks]'")
    path = notebooks.write(n, tmp_path / "lesson.ipynb", quick=True, run=True)
    cells = code(json.loads(path.read_text(encoding="utf-8")))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs)
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("measured" in "".join(table) for table in tables)
