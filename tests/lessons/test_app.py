"""The lessons' widgets for every knob, the app that shows them, and the lessons as Jupyter notebooks."""

import inspect
import json
import sys
from types import SimpleNamespace
from typing import Literal, get_origin, get_type_hints

import pytest
from minires.lessons import harness, knobs, notebooks

from minires.errors import ConfigError

every_lesson = pytest.mark.parametrize("n", harness.numbers())


@every_lesson
def test_every_knob_has_a_widget_that_begins_at_its_default(n):
    measure = harness.load(n).measure
    found = knobs.widgets(measure)
    assert {w.name: w.value for w in found} == harness.default_knobs(measure)
    kinds, hints = {bool: "switch", int: "slider", float: "slider", str: "text"}, get_type_hints(measure)
    for w in found:
        hint = hints[w.name]
        expected = {Literal: "dropdown", tuple: "several"}.get(get_origin(hint)) or kinds[hint]
        assert w.kind == expected
        assert w.help, w.name
        if w.kind == "slider":
            assert w.value in w.choices
            assert len(w.choices) > 1
            assert list(w.choices) == sorted(w.choices)
            assert {type(step) for step in w.choices} == {hint}
        if w.kind == "dropdown":
            assert w.value in w.choices
        if w.kind == "several":
            assert set(w.value) <= set(w.choices)
    assert knobs.arguments(measure, {w.name: w.value for w in found}) == harness.default_knobs(measure)


@every_lesson
def test_the_widgets_can_begin_with_the_quick_form(n):
    module = harness.load(n)
    start = harness.default_knobs(module.measure, module.LESSON)
    found = knobs.widgets(module.measure, start)
    assert {w.name: w.value for w in found} == start
    assert all(w.value in w.choices for w in found if w.kind == "slider")
    assert all(set(w.value) <= set(w.choices) for w in found if w.kind == "several")


def measure(*, share: float = 0.5, steps: int = 3, depth: int = 50, rows: tuple[int, ...] = (1, 2, 4)):
    """Nothing."""


def test_a_slider_steps_by_the_knobs_name_or_by_multiples_of_its_default():
    steps = {w.name: w.choices for w in knobs.widgets(measure)}
    assert steps["share"] == (0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0)
    assert steps["steps"] == (0, 1, 2, 3, 4, 6, 9, 12)
    assert all(depth % 2 == 0 for depth in steps["depth"])


def test_several_choices_come_in_the_lessons_order_and_none_is_refused():
    assert knobs.arguments(measure, {"rows": [4, 1]}) == {"rows": (1, 4)}
    with pytest.raises(ConfigError, match="rows: expected one or more, got none"):
        knobs.arguments(measure, {"rows": []})


# the app


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the app defines after a run without a browser."""
    pytest.importorskip("marimo", reason="needs the extra `lessons`")
    patch = pytest.MonkeyPatch()
    patch.chdir(tmp_path_factory.mktemp("app"))
    from minires.lessons.app import app

    _, defined = app.run()
    yield defined
    patch.undo()


def test_the_app_shows_a_lesson_with_a_widget_for_each_knob(page):
    assert page["lesson"].number == harness.numbers()[0]
    assert page["seen"], "nothing was measured"
    assert "holds" in page["seen"][1].text
    assert dict(page["panel"].value) == harness.default_knobs(page["module"].measure, page["lesson"])


@every_lesson
def test_marimo_has_a_widget_for_every_knob(page, n):
    from minires.lessons.app import element

    chosen = harness.load(n).measure
    values = {w.name: element(w).value for w in knobs.widgets(chosen)}
    assert knobs.arguments(chosen, values) == harness.default_knobs(chosen)


def test_a_claim_that_fails_is_shown(page):
    from minires.lessons.app import claim_table

    text = claim_table([harness.Claim("the <ratio>", 3.0, 0, 2), harness.Claim("it", 1.0, 0, 2)]).text
    assert text.count("FAILS") == text.count("#c0392b") == 1
    assert "the &lt;ratio&gt;" in text


def test_a_knob_that_cannot_be_is_one_line_in_the_app(page):
    from minires.lessons.app import measured

    (seen,) = measured(page["lesson"], page["module"], {"seeds": 0})
    assert "--seeds: expected 1 or more" in seen.text


# the notebooks


def test_markdown_takes_no_sign_of_the_text_for_its_own():
    said = "<w, dw> is 2*3*4 and ~5\n    wide.\n\n    - $a_1 < b^2$\n    - `x_1 < 2`"
    wanted = "&#60;w, dw> is 2&#42;3&#42;4 and &#126;5 wide.\n\n- $a_1 < b^2$\n\n- `x_1 < 2`"
    assert notebooks.markdown(said) == wanted


@every_lesson
def test_a_notebook_has_the_text_the_knobs_and_code_that_compiles(n, tmp_path):
    path = tmp_path / "lesson.ipynb"
    assert notebooks.main([str(n), str(path)]) == 0
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = {}
    exec(code[2], names)  # the knobs
    assert names["knobs"] == harness.default_knobs(harness.load(n).measure)
    for text in code:
        compile(text, "cell", "exec")
    assert harness.load(n).LESSON.question in notebook["cells"][0]["source"]


@pytest.mark.slow
def test_the_cells_of_a_notebook_run(tmp_path, monkeypatch, capsys):
    display = SimpleNamespace(Image=bytes)  # Jupyter's own, which the tests do not need
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    notebook = json.loads(notebooks.write(1, tmp_path / "one.ipynb", quick=True).read_text(encoding="utf-8"))
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(cell["source"], names)
    assert names["claims"] == names["lesson"].check(names["result"])
    assert names["knobs"]["seeds"] == 1
    shown = names["lesson"].LESSON.shows[0]
    assert inspect.getsource(shown).splitlines()[0] in capsys.readouterr().out


def test_a_notebook_of_no_lesson_is_one_line(tmp_path, capsys):
    assert notebooks.main(["99", str(tmp_path / "none.ipynb")]) == 2
    assert "there is no lesson 99" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
