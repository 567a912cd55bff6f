"""The answer key: every exercise is answered, and every number in an answer was measured and keeps its bounds."""

import re

import pytest
from demand import on_demand
from minires.lessons import harness, notebooks, spreads, terminal
from minires.lessons.answers import ANSWERS, Number, answer, measure
from minires.lessons.prose import readable
from minires.lessons.site.prose import prose

from minires import cli
from minires.errors import ConfigError

QUICK = [1, 2, 3, 4, 5, 6, 7, 10, 11, 14]  # the others' answers rest on minutes of training
every_lesson = pytest.mark.parametrize("n", harness.numbers())


@every_lesson
def test_every_number_of_an_answer_was_measured_and_keeps_its_bounds(n):
    found, kept = ANSWERS[n], spreads.kept(n)["answers"]
    assert set(kept) == set(found.numbers)
    for name, number in found.numbers.items():
        assert f"{{{name}}}" in found.text, f"{name} is not in the text"
        assert len(kept[name]) == found.seeds
        assert [v for v in kept[name] if not number.holds(v)] == []
    for name, number in found.numbers.items():
        assert set(number.knobs) <= set(harness.load(n).measure.__kwdefaults__), name


@pytest.mark.slow
@pytest.mark.parametrize("n", [n if n % 3 == 2 else pytest.param(n, marks=on_demand) for n in QUICK])
def test_the_numbers_come_out_again(n):
    for name, values in measure(n, seeds=1).items():
        assert all(map(ANSWERS[n].numbers[name].holds, values)), f"{name}: {values}"


@every_lesson
def test_an_answer_is_whole_in_the_terminal_and_on_a_page(n, capsys, monkeypatch):
    monkeypatch.setattr(harness.load(n), "measure", harness.load(n).measure)  # nothing is measured: it would take long
    assert cli.main(["lesson", str(n), "--answers"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert " ".join(readable(answer(n)).split())[:60] in said
    assert not re.search(r"\{(" + "|".join(ANSWERS[n].numbers) + r")\}", answer(n))
    drawn = prose(answer(n), harness.numbers())
    assert "$" not in re.sub("<code>.*?</code>", "", drawn)


def test_answering_measures_and_writes_nothing(tmp_path, monkeypatch, capsys):
    def measure(*, depth: int = 50, seed: int = 0):
        raise AssertionError("measured")

    monkeypatch.chdir(tmp_path)
    module = harness.load(3)
    assert terminal.run(module.LESSON, measure, module.check, module.plot, ["--answers"]) == 0
    assert "-15.1" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_number_follows_what_was_measured(monkeypatch):
    kept = {name: [4.5, 5.5] for name in ANSWERS[1].numbers}
    monkeypatch.setattr(spreads, "kept", lambda n: {"answers": kept})
    assert "5 (4.5..5.5)" in answer(1)


def test_a_claim_that_is_not_one_is_refused():
    module = harness.load(1)
    result = module.measure(seeds=1)
    assert Number("cosine of the two").of(module, result) == pytest.approx(0, abs=0.1)
    for text in ("nothing of the kind", "branch of zero"):
        with pytest.raises(ConfigError, match="name one"):
            Number(text).of(module, result)
    assert not Number("it", 0, 1).holds(1.1)
    assert Number("it", low=0).holds(7)


@every_lesson
def test_a_students_notebook_has_no_answers(n, tmp_path):
    text = notebooks.write(n, tmp_path / "lesson.ipynb").read_text(encoding="utf-8")
    first = " ".join(answer(n).split())[:40]
    assert first not in text
    assert notebooks.markdown(first)[:40] not in text
