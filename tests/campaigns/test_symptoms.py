import json
import re
from pathlib import Path

import diagnosis
import numpy as np
import pytest
from symptoms import AREAS, CAUSES, HEALTHY, SYMPTOMS
from symptoms.common import pixels

import minires

ROOT = Path(__file__).parents[2]
BY_NAME = {symptom.name: symptom for symptom in [*SYMPTOMS, *HEALTHY]}


def cause(name, status="fail"):
    return type("Cause", (), {"name": name, "status": status, "evidence": "", "fix": ""})()


def test_there_are_enough_of_every_area_with_names_of_their_own():
    assert len(BY_NAME) == len(SYMPTOMS) + len(HEALTHY)
    assert not [name for name in BY_NAME if "," in name or name != name.strip()], "--only separates names by commas"
    assert len(SYMPTOMS) >= 60
    assert len(HEALTHY) >= 20
    assert all(len(set(symptom.seeds)) == 3 for symptom in HEALTHY)
    counts = {area: sum(symptom.area == area for symptom in SYMPTOMS) for area in AREAS}
    assert counts.keys() == {symptom.area for symptom in SYMPTOMS}
    assert all(counts[area] >= 6 for area in AREAS if area != "speed")


def test_every_cause_is_known_and_nearly_every_one_occurs():
    named = {name for symptom in SYMPTOMS for name in symptom.causes}
    assert named <= CAUSES
    assert CAUSES - named == {"too many threads"}, "which is a matter of the machine"
    assert all(symptom.causes for symptom in SYMPTOMS)
    assert not any(symptom.causes for symptom in HEALTHY)


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.name)
def test_its_source_is_named(symptom):
    assert len(symptom.told) > 40
    if not re.match(r"https?://\S+\.\S+$", symptom.source):
        assert (ROOT / symptom.source).is_file()


def flat(value):
    """What a diagnosis is asked about, as bytes and plain values."""
    if hasattr(value, "fingerprint"):
        return pixels(value).tobytes(), value.labels.tobytes(), value.classes
    if hasattr(value, "model"):
        return flat(value.model), value.classes, value.preprocess
    if hasattr(value, "state"):
        return [(name, array.tobytes()) for name, array in value.state().items()]
    if isinstance(value, Path):
        files = [value] if value.is_file() else sorted(path for path in value.rglob("*") if path.is_file())
        return [(path.name, path.read_bytes()) for path in files if path.suffix != ".jsonl"]
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


@pytest.mark.parametrize("name", ["a table with capitals", "one seed for all layers", "floats in 0..1"])
def test_two_builds_are_equal_and_another_seed_gives_another(name, tmp_path):
    built = []
    for i, seed in enumerate((1, 1, 2)):
        (tmp_path / str(i)).mkdir()
        made = diagnosis.built(BY_NAME[name], tmp_path / str(i), seed)
        built.append({key: flat(value) for key, value in made.items()})
        assert "what" in made
    assert built[0] == built[1]
    assert built[0] != built[2]


def test_what_an_answer_is_worth():
    right, other = cause("leak"), cause("duplicates")
    assert diagnosis.compared(("leak",), (right, other)) == diagnosis.FIRST
    assert diagnosis.compared(("leak", "duplicates"), (other,)) == diagnosis.FIRST
    assert diagnosis.compared(("leak",), (other, other, right)) == diagnosis.THREE
    assert diagnosis.compared(("leak",), (other, other, other, right)) == diagnosis.MISSED
    assert diagnosis.compared(("leak",), ()) == diagnosis.MISSED
    assert diagnosis.compared((), ()) == diagnosis.RIGHT
    assert diagnosis.compared((), (cause("leak", "warn"),)) == diagnosis.WARNED
    assert diagnosis.compared((), (cause("leak", "warn"), right)) == diagnosis.ALARM


def test_a_symptom_that_cannot_be_built_is_told_in_one_line(tmp_path, capsys):
    collection = tmp_path / "broken.py"
    collection.write_text(
        "from symptoms import Symptom\n"
        "def build(folder, seed=0):\n    raise OSError('no\\nspace')\n"
        "SYMPTOMS = [Symptom('broken', 'data', 'told', 'source', ('leak',), build)]\n"
    )
    out = tmp_path / "verdicts.json"
    assert diagnosis.main(["--file", str(collection), "--json", str(out), "--measure"]) == 1
    assert "OSError: no space" in capsys.readouterr().out
    assert [verdict["outcome"] for verdict in json.loads(out.read_text())] == [diagnosis.BROKEN]


def test_the_table_counts_what_was_named(tmp_path, monkeypatch, capsys):
    def diagnose(what, **_):
        if what == "broken":
            raise ValueError("it broke")
        return type("Diagnosis", (), {"causes": tuple(map(cause, what.split("+") if what else ()))})()

    monkeypatch.setattr(minires, "diagnose", diagnose, raising=False)
    collection = tmp_path / "four.py"
    collection.write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Symptom:\n"
        "    name: str\n    area: str\n    causes: tuple\n    answer: str\n"
        "    def build(self, folder):\n        return {'what': self.answer}\n"
        "SYMPTOMS = [\n"
        "    Symptom('a', 'data', ('leak',), 'leak+duplicates'),\n"
        "    Symptom('b', 'data', ('leak',), 'duplicates+leak'),\n"
        "    Symptom('c', 'data', ('leak',), 'duplicates'),\n"
        "    Symptom('d', 'files', ('leak',), 'broken'),\n"
        "    Symptom('e', 'healthy', (), 'leak'),\n"
        "    Symptom('f', 'healthy', (), ''),\n"
        "]\n"
    )
    out = tmp_path / "verdicts.json"
    assert diagnosis.main(["--file", str(collection), "--json", str(out)]) == 1
    outcomes = [verdict["outcome"] for verdict in json.loads(out.read_text())]
    assert outcomes == [getattr(diagnosis, kind) for kind in ("FIRST", "THREE", "MISSED", "BROKEN", "ALARM", "RIGHT")]
    printed = capsys.readouterr().out
    assert "ValueError: it broke" in printed
    cells = ([cell.strip() for cell in re.split("[│|]", line)[1:-1]] for line in printed.splitlines())
    rows = {row[0]: row[1:6] for row in cells if row}
    assert rows["data"] == ["3", "1", "2", "1", "0"]
    assert rows["all"] == ["4", "1", "2", "1", "1"]
    assert "1 false alarms, 0 warned, 1 nothing found" in printed
    assert diagnosis.main(["--file", str(collection), "--only", "a,f"]) == 0
