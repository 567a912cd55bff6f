"""Every lesson: the protocol, its claims, its picture, its commands. Then the harness, on a lesson made for it."""

import inspect
import json
import re
from dataclasses import replace
from functools import cache
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from minires.lessons import harness, prose, shown, spreads, table, terminal
from minires.lessons.harness import Claim, ClaimError, Lesson
from PIL import Image

from minires import cli, ops
from minires.errors import ConfigError
from minires.instruments import style

AT_DEFAULTS = {1, 2, 3, 4, 5, 6, 7, 10, 14}  # the others run in their quick form
QUICK = {1, 4, 6, 7}  # measured in under two seconds; the others are for `make test-all`
WITH_ITS_OWN = {14}  # shows functions that the library does not have
every_lesson = pytest.mark.parametrize("n", harness.numbers())


def measuring(*numbers):
    """Over these lessons, a test that measures them."""
    marks = {n: () if n in QUICK else pytest.mark.slow for n in numbers}
    return pytest.mark.parametrize("n", [pytest.param(n, marks=marks[n]) for n in numbers])


def knobs_of(module) -> dict:
    said = module.LESSON
    return harness.default_knobs(module.measure, None if said.number in AT_DEFAULTS else said)


@cache
def measured(n) -> dict:
    """The lesson's result, as it comes out of strict JSON."""
    module = harness.load(n)
    return json.loads(json.dumps(module.measure(**knobs_of(module)), allow_nan=False))


def test_there_are_eighteen():
    assert harness.numbers() == list(range(1, 19))


@every_lesson
def test_a_lesson_says_all_it_should(n):
    said = harness.load(n).LESSON
    for field in ("title", "question", "idea", "look_for", "wrong_if", "exercise", "next_try"):
        assert getattr(said, field).strip(), field
    assert said.sources
    names = [shown.name(item) for item in said.shows]
    assert all(name.startswith("minires.") for name in names)
    own = [name for name in names if "lessons" in name]
    assert bool(own) == (n in WITH_ITS_OWN), "it is the library that a lesson shows"
    assert len(own) < len(names)
    for text in [said.question, said.idea, said.look_for, said.wrong_if, said.exercise]:
        assert text.count("$") % 2 == 0
        assert not re.search(r"[\\$]", prose.readable(text)), "a formula that the terminal cannot show"


@every_lesson
def test_every_knob_has_a_type_a_default_and_help(n):
    module = harness.load(n)
    knobs, helps = inspect.signature(module.measure).parameters, harness.knob_help(module.measure)
    assert "seed" in knobs
    for name, knob in knobs.items():
        assert knob.kind == knob.KEYWORD_ONLY
        assert knob.annotation is not knob.empty
        assert knob.default is not knob.empty
        assert helps.get(name), f"{name}: no line in the docstring of measure"
    assert set(module.LESSON.quick) <= set(knobs)
    terminal.parser(module.LESSON, module.measure).parse_args([])


@every_lesson
def test_the_commands_that_a_lesson_names_exist(n):
    said = harness.load(n).LESSON
    assert said.next_try.startswith("minires ")
    quoted = re.findall(r"`(minires [^`]*)`", " ".join([said.idea, said.look_for, said.exercise]))
    for command in [said.next_try, *quoted]:
        _, name, *words = command.split()
        if name == "lesson" and words and words[0].isdigit():
            module = harness.load(int(words[0]))
            terminal.parser(module.LESSON, module.measure).parse_args(words[1:])
        else:
            cli.parser().parse_args([name, *words])


@pytest.mark.slow
@every_lesson
def test_the_claims_hold(n):
    result = measured(n)
    claims = harness.load(n).check(result)
    assert result["knobs"] == json.loads(json.dumps(knobs_of(harness.load(n))))
    judged = [claim for claim in claims if claim.judged]
    assert judged
    for claim in judged:
        assert claim.spread, f"{claim.text}: what did five seeds give? minires lesson {n} --repeat 5 --keep"


@pytest.mark.slow
@every_lesson
def test_every_bound_was_confirmed_over_five_seeds(n):
    """Whoever moves a bound measures again: `minires lesson N --repeat 5 --keep`, with --quick if it is that form's."""
    module, result, records = harness.load(n), measured(n), spreads.kept(n)["records"]
    changed = spreads.changes(result["knobs"], harness.default_knobs(module.measure))
    kept = next((r for r in records if r["knobs"] == changed), records[0])["claims"]
    for claim in module.check(result):
        if claim.judged:
            assert kept[claim.text]["bound"] == claim.bound, claim.text
            assert len(kept[claim.text]["values"]) >= 5


@measuring(9, 12)
def test_every_form_and_photographs_are_judged_by_the_bounds_that_five_seeds_kept(n):
    module, result, records = harness.load(n), measured(n), spreads.kept(n)["records"]
    assert [r["knobs"].get("data") for r in records].count("photographs") == 1
    for record in records:
        knobs = harness.default_knobs(module.measure) | record["knobs"]
        claims = harness.judged(module.check, result | {"knobs": knobs})
        assert [(c.text, c.bound) for c in claims] == [(t, c["bound"]) for t, c in record["claims"].items()]
        assert not any(claim.skipped for claim in claims)
        for claim in claims:
            assert not any(replace(claim, measured=v).failed for v in record["claims"][claim.text]["values"])


def test_the_readme_has_the_table_of_what_is_kept():
    readme = Path(__file__).parents[2] / "lessons/README.md"
    assert table.table() in readme.read_text(encoding="utf-8"), "python -m minires.lessons.table prints it"


@measuring(*harness.numbers())
def test_the_picture_is_drawn_and_says_where_it_is_from(n, tmp_path):
    fig = harness.load(n).plot(measured(n))
    assert isinstance(fig, Figure)
    assert any(f"minires lesson {n}" in text.get_text() for text in fig.texts)
    style.save_picture(fig, tmp_path / "lesson.png")
    assert min(Image.open(tmp_path / "lesson.png").size) > 400


@measuring(*[n for n in harness.numbers() if "narrow" in signature(harness.load(n).plot).parameters])
def test_a_picture_for_a_phone_is_whole(n):
    fig = harness.load(n).plot(measured(n), narrow=True)
    pen = FigureCanvasAgg(fig).get_renderer()
    fig.draw(pen)
    assert fig.get_figwidth() == style.NARROW
    (ax,) = fig.axes
    box = ax.get_tightbbox(pen)
    assert 0 < box.x0 < box.x1 < fig.bbox.x1


# the harness


TINY = Lesson(
    number=7,
    title="Tiny",
    question="Is $1/\\sqrt{2}$ small?",
    idea="One paragraph\n    on two lines.\n\n    - an item\n    - another",
    look_for="the line",
    wrong_if="it were not",
    exercise="none",
    next_try="minires lesson 7 --share 0.2",
    sources=("nobody",),
    shows=(ops.relu_backward,),
    quick={"share": 0.3, "rows": (1,)},
)


def measure(
    *, share: float = 0.5, rows: tuple[int, ...] = (1, 2), bn: bool = True, init: Literal["he", "glorot"] = "he", seed=0
):
    """Nothing much.

    share  how much, in %
    rows   how many
    bn     with or without
    init   which
    """
    knobs = dict(locals())
    harness.at_least_one(rows=min(rows))
    return {"knobs": knobs, "share": share}


measure.__annotations__["seed"] = int


def check(result):
    elsewhere = harness.moved(result["knobs"], {"bn": True})
    return harness.assert_claims(
        [
            Claim("the share", result["share"], 0.25),
            Claim("only with BN", None if elsewhere else 1.0, 0, 2, elsewhere),
        ],
        TINY,
        result,
    )


def plot(result):
    fig, (ax,) = style.figure("Tiny", note=harness.note(TINY, result))
    ax.plot([0, result["share"]])
    return fig


def main(argv=None):
    return terminal.run(TINY, measure, check, plot, argv)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("measured", "low", "high", "failed", "bound"),
    [
        (1, 1, 1, False, "1 .. 1"),
        (1.5, None, 1, True, "<= 1"),
        (1.5, 1, None, False, ">= 1"),
        (0.5, 1, None, True, ">= 1"),
        (None, 0, 1, True, "0 .. 1"),
        (float("nan"), None, 2000, True, "<= 2,000"),
    ],
)
def test_a_claim_holds_within_its_bounds(measured, low, high, failed, bound):
    claim = Claim("it", measured, low, high)
    assert (claim.failed, claim.bound) == (failed, bound)
    assert not Claim("it", measured, low, high, skipped="elsewhere").failed


def test_a_number_without_bounds_is_shown_and_not_judged():
    for claim in (Claim("it", 1), Claim("it", 9, 0, 1, skipped="elsewhere")):
        assert (claim.judged, claim.failed, claim.verdict) == (False, False, "not judged")


def test_claims_that_fail_are_named_together():
    good, bad, worse = Claim("a", 1, 0, 2), Claim("b", 3, 0, 2), Claim("c", None, 0)
    result = {"knobs": {}}
    assert harness.assert_claims([good], TINY, result) == [good]
    with pytest.raises(ClaimError, match=r"b: measured 3, bound 0 \.\. 2; c: measured -, bound >= 0") as caught:
        harness.assert_claims([good, bad, worse], TINY, result)
    assert caught.value.claims == [good, bad, worse]

    def check(result):
        raise caught.value

    assert harness.judged(check, result) == [good, bad, worse]


def test_a_run_tells_its_story_and_saves_its_picture(folder, capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    for words in (
        "Lesson 7: Tiny",
        "Is 1/√2 small?",
        "One paragraph on two lines.\n- an item\n- another\n",
        "the share",
    ):
        assert words in said
    assert "minires lesson 7 --share 0.5 --rows 1 2 --bn on --init he --seed 0" in said
    assert TINY.next_try in said
    assert Image.open(folder / "runs/lessons/lesson_07.png").size[0] > 600
    assert json.loads((folder / "runs/lessons/status.json").read_text())["7"]["passed"] is True


def test_a_failed_claim_is_named_and_gives_status_1(folder, capsys):
    assert main(["--share", "0.1"]) == 1
    streams = capsys.readouterr()
    assert "FAILS: the share: measured 0.1, bound >= 0.25" in streams.err
    assert "FAILS" in streams.out
    assert harness.status()["7"]["passed"] is False


def test_knobs_that_were_given_count_before_quick(folder, capsys):
    assert main(["--quick", "--rows", "3", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["knobs"] == {
        "share": 0.3,
        "rows": [3, 4],
        "bn": True,
        "init": "he",
        "seed": 0,
    }


def test_a_claim_that_is_not_about_these_knobs_is_shown_but_not_judged(folder, capsys):
    assert main(["--bn", "off"]) == 0
    assert "Not judged: bn True, not False." in capsys.readouterr().out


def test_json_is_all_that_stdout_gets(folder, capsys):
    assert main(["--json", "--out", "here.png", "--init", "glorot"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [claim["verdict"] for claim in said["claims"]] == ["holds", "holds"]
    assert said["provenance"]["command"].endswith("--init glorot --seed 0")
    assert (folder / "here.png").exists()


def test_source_prints_the_library(folder, capsys):
    assert main(["--source"]) == 0
    assert "return dy * (y > 0)" in capsys.readouterr().out
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("words", [["--rows", "0"], ["--out", "no/such/folder.png"]])
def test_what_cannot_be_is_one_line(folder, capsys, words):
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("minires: lesson 7: ")


@pytest.mark.parametrize("words", [["--bn", "maybe"], ["--init", "zeros"], ["--depth", "3"], ["--share", "much"]])
def test_options_are_checked(folder, capsys, words):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("minires: lesson 7: ")
    assert words[0] in line


def test_help_has_each_knob_with_its_default(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "how much, in % (default: 0.5)" in said
    assert "how many (default: 1 2)" in said
    assert "with or without (default: on)" in said


# several seeds, one by one


@pytest.fixture
def by_seed(folder, monkeypatch):
    """The lesson's share is that of its seed; what is kept goes to a file of its own."""
    monkeypatch.setattr(spreads, "FILE", folder / "spreads.json")
    spreads._read.cache_clear()

    def measured(*, share: float = 0.5, seeds: int = 3, seed: int = 0):
        """Nothing much.

        share  how much
        seeds  how many
        seed   the first of them
        """
        assert seeds == 1, "one by one"
        return {"knobs": dict(share=share, seeds=seeds, seed=seed, bn=True), "share": share + seed / 10}

    yield lambda *words: terminal.run(TINY, measured, check, plot, list(words))
    spreads._read.cache_clear()


def test_seeds_one_by_one(by_seed, capsys):
    assert by_seed("--repeat", "3") == 0
    said = capsys.readouterr().out
    assert re.search(r"the share +0\.6 \(0\.5\.\.0\.7\) +>= 0\.25 +3 of 3 hold", said)
    assert "minires lesson 7 --repeat 3" in said
    assert by_seed("--repeat", "3", "--share", "0.1") == 1
    assert "1 of 3 hold" in capsys.readouterr().out
    assert not spreads.FILE.exists()
    assert by_seed("--repeat", "0") == 2
    assert "--repeat: expected a whole number from 1 to 1,000,000, got 0" in capsys.readouterr().err
    assert by_seed("--repeat", "2", "--seed", "1", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["provenance"]["command"] == "minires lesson 7 --seed 1 --repeat 2"
    assert said["claims"][0] == {"claim": "the share", "values": [0.6, 0.7], "low": 0.25, "high": None}


def test_what_seeds_gave_is_kept_by_knobs_and_shown_beside_the_bound(by_seed, capsys):
    defaults = {"share": 0.5, "seeds": 3, "seed": 0}
    assert by_seed("--repeat", "2", "--keep") == 0
    assert by_seed("--repeat", "2", "--keep", "--share", "0.3") == 0
    assert by_seed("--repeat", "3", "--keep") == 0  # in place of the first
    records = spreads.kept(7)["records"]
    assert [record["knobs"] for record in records] == [{}, {"share": 0.3}]
    assert records[0]["command"] == "minires lesson 7 --repeat 3"
    for share, values in ((0.5, [0.5, 0.6, 0.7]), (0.3, [0.3, 0.4]), (0.9, [0.5, 0.6, 0.7])):
        assert spreads.values(7, defaults | {"share": share, "seed": 8}, defaults)["the share"] == pytest.approx(values)
    spreads.keep(7, seconds=1.23)
    assert spreads.kept(7) == {"records": records, "seconds": 1.2}
    assert harness.spread([0.5, 0.6, 0.7]) == "0.6 (0.5..0.7)"
    assert harness.spread([0, 0]) == "0"


# the command


@pytest.fixture
def tiny_alone(folder, monkeypatch):
    """A world with one lesson."""
    module = SimpleNamespace(LESSON=TINY, measure=measure, check=check, plot=plot, main=main)
    monkeypatch.setattr(harness, "discover", lambda: [module])
    return module


def test_the_list_says_what_ran(tiny_alone, capsys):
    assert cli.main(["lesson"]) == 0
    assert "Tiny" in capsys.readouterr().out
    main([])
    capsys.readouterr()
    assert cli.main(["lesson"]) == 0
    assert "ok, 0.0 s" in capsys.readouterr().out


def test_all_of_them_run_together_and_fail_together(tiny_alone, folder, capsys, monkeypatch):
    assert cli.main(["lesson", "all", "--quick"]) == 0
    assert "2 of 2 hold" in capsys.readouterr().out
    tiny_alone.check = lambda result: harness.assert_claims([Claim("too much", 3, 0, 2)], TINY, result)
    assert cli.main(["lesson", "all", "--seed", "3"]) == 1
    said = capsys.readouterr().out
    assert "0 of 1 hold" in said
    assert "FAILS: too much" in said
    assert "--seed 3" in harness.status()["7"]["command"]

    monkeypatch.setattr(spreads, "FILE", folder / "spreads.json")
    spreads._read.cache_clear()
    tiny_alone.check = check
    assert cli.main(["lesson", "all", "--keep"]) == 0
    assert set(spreads.kept(7)) == {"records", "seconds"}
    assert cli.main(["lesson", "all", "--keep", "--repeat", "2"]) == 0
    assert spreads.kept(7)["records"][0]["claims"]["the share"] == {"bound": ">= 0.25", "values": [0.5, 0.5]}
    spreads._read.cache_clear()

    def refuse(result):
        raise ConfigError("no such thing")

    tiny_alone.check = refuse
    assert cli.main(["lesson", "all"]) == 1
    assert "no such thing" in capsys.readouterr().out


def test_a_lesson_by_its_number(folder, capsys):
    assert cli.main(["lesson", "4", "--depth", "6", "--width", "8", "--bn", "off", "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    assert "Lesson 4" in said
    assert "Not judged: the bounds on slopes are for depth 50, not 6, width 128, not 8." in said


@pytest.mark.parametrize("word", ["99", "three", "-"])
def test_no_such_lesson(folder, capsys, word):
    assert cli.main(["lesson", word]) == 2
    assert "minires lesson" in capsys.readouterr().err


def test_formulas_in_plain_characters():
    text = r"a $\frac{1}{2}$ of $\sqrt{\pi/(\pi-1)}$, $10^{-7.5}$, $\langle w, dw \rangle$, $dy\, w^T$, $\hat{x}$"
    assert prose.readable(text) == "a 1/2 of √(π/(π-1)), 10^-7.5, <w, dw>, dy wᵀ, x_hat"
    assert prose.paragraphs("one\n  two\n\n- a\n- b\n  c") == ["one two", "- a", "- b c"]
