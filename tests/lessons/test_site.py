"""`minires site`: what it writes, and that its numbers are the measured ones."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest
from matplotlib.figure import Figure
from minires.lessons import shown
from minires.lessons.exercises import exercises
from minires.lessons.harness import Claim, ClaimError, apart, discover, load, number, numbers
from minires.lessons.site import build as site_build
from minires.lessons.site import code, grid, pages, results
from minires.lessons.site.formula import formula
from minires.lessons.site.picture import COLOURS, Picture, picture
from minires.lessons.site.prose import inline, prose
from minires.lessons.site.results import Job
from minires.lessons.site.words import change, count, tick
from site_pages import LESSONS, cells, claims, kept, page, small_site

from minires import cli
from minires.errors import ConfigError
from minires.instruments.style import figure

pytestmark = pytest.mark.slow

VOID = {"meta", "link", "img", "input", "br", "hr", "source", "wbr"}


class Page(HTMLParser):
    """A page's tags, checked for balance; its ids, references and tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.rows, self.headings = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID and tag not in ("path", "line"):
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.references += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_all_files_are_there():
    folder = small_site()
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"index.html", "stepper.html"} <= names
    for n in LESSONS:
        assert {f"lesson-{n:02}.html", f"pictures/lesson_{n:02}.svg"} <= names
    assert not [name for name in names if ".tmp" in name]


def test_nothing_comes_from_the_network():
    for path in small_site().rglob("*"):
        if path.suffix in (".html", ".svg"):
            text = re.sub(r"xmlns(:\w+)?=['\"][^'\"]*['\"]", "", path.read_text(encoding="utf-8"))
            text = text.replace("http://www.w3.org/2000/svg", "")  # a name, for createElementNS
            text = re.sub(r'<a href="https://[^"]+">', "", text)  # a source: a reader may go there, the page does not
            assert not re.search(r"https?://|url\(\s*['\"]?//|(src|href)=['\"]?//|@import", text), path.name


def test_pages_are_well_formed_and_every_link_leads_somewhere():
    folder = small_site()
    read = {path.name: Page(path.read_text(encoding="utf-8")) for path in folder.glob("*.html")}
    for name, parsed in read.items():
        assert len(parsed.ids) == len(set(parsed.ids)), f"{name}: an id comes twice"
        for reference in parsed.references:
            if reference.startswith(("data:", "https://")):
                continue
            file, _, anchor = reference.partition("#")
            assert (folder / (file or name)).is_file(), f"{name}: {reference}"
            assert not anchor or anchor in read[file or name].ids
    listed = [reference for reference in read["index.html"].references if reference.startswith("lesson-")]
    assert {f"lesson-{n:02}.html" for n in LESSONS} == set(listed)


@pytest.mark.parametrize("n", LESSONS)
def test_the_claims_are_those_of_check(n):
    expected = [[html.unescape(re.sub("<[^>]+>", "", inline(c.text))), number(c.measured), c.bound] for c in claims(n)]
    rows = Page(page(n)).rows[1:]
    assert [row[:3] for row in rows] == expected
    assert [row[-1] for row in rows] == [c.verdict if c.bound else "reported" for c in claims(n)]
    assert any(c.verdict == "holds" for c in claims(n))


@pytest.mark.parametrize("n", LESSONS)
def test_a_page_says_all_that_a_lesson_does(n):
    lesson, text = load(n).LESSON, page(n)
    for said in (lesson.title, lesson.question, *lesson.sources):
        assert inline(said) in text or inline(said, LESSONS) in text
    for item in lesson.shows:
        assert code.source(item) in text
    assert html.escape(lesson.next_try) in text
    assert Job.of(n, lesson.quick).file in text
    assert f"--seed {load(n).measure.__kwdefaults__['seed']}" in text


def sliders(text) -> dict:
    """The data of a page's sliders."""
    return json.loads(re.search(r'id="grid">(.*?)</script>', text, re.DOTALL)[1])


def test_the_sliders_numbers_are_the_measured_ones():
    embedded = sliders(page(3))
    assert embedded == json.loads(json.dumps(cells(3)))
    (job,) = (job for job in grid.jobs(3, quick=True) if job.knobs["depth"] == 10)
    regime = next(r for r in kept(job)["regimes"] if (r["skip"], r["bn"], r["init"]) == ("none", True, "glorot"))
    cell = embedded["cells"]["10|none|on|glorot"]
    assert cell["numbers"][0][1] == f"{regime['log10_ratio'][0]:.2f}"
    assert "--depth 10" in cell["command"]
    assert "--init glorot" in cell["command"]
    curve = embedded["curves"][cell["show"][0]]
    assert curve["mean"] == pytest.approx(regime["mean"], abs=1e-4)
    assert curve["theory"][1][0] == pytest.approx(10 * 0.0832, abs=0.01)  # log10 of sqrt(pi / (pi - 1)), ten times


def test_sources_are_links():
    for n, address in ((1, "https://arxiv.org/abs/1512.03385"), (3, "https://proceedings.mlr.press/v9/glorot10a.html")):
        assert f'<a href="{address}">' in page(n)


def test_the_answer_is_folded_under_the_exercise():
    found = re.search(r'<details class="answer"><summary>The answer</summary>(.*?)</details>', page(3), re.DOTALL)
    assert "-15.4" in found[1]
    assert page(3).index('id="try"') < found.start() < page(3).index('id="code"')


def test_every_exercise_has_its_page_with_file_hints_and_command():
    folder = small_site()
    listed = (folder / "exercises.html").read_text(encoding="utf-8")
    for task in exercises():
        name = f"exercise-{task.number:02}.html"
        assert name in listed
        text = (folder / name).read_text(encoding="utf-8")
        seen = html.unescape(re.sub("<[^>]+>", "", text))
        assert all(hint.replace("`", "") in seen for hint in task.checks.HINTS)
        assert task.text.split('"""')[-1].strip() in seen
        assert f"minires exercise {task.number} --check {task.path.name}" in seen
        inner = re.search(r"Hint 1 of.*", text, re.DOTALL)[0]
        assert inner.index("Hint 2 of") < inner.index("</details>"), "the second hint is within the first"
        code_of_solution = [line.strip() for line in task.solution.read_text(encoding="utf-8").splitlines()[1:]]
        new = [line for line in code_of_solution if len(line) > 30 and line not in task.text]
        assert not any(line in seen for line in new), "the solution is on the page"
    assert 'href="exercise-05.html"' in page(1)
    assert "The lessons in a class" in (folder / "teachers.html").read_text(encoding="utf-8")


def test_it_says_what_it_does_also_into_a_pipe(copy, capsys):
    assert cli.main(["site", str(copy), "--quick", "--lessons", "3,4"]) == 0
    said = capsys.readouterr().err.splitlines()
    for n in (3, 4):
        assert f"drawing the page of lesson {n}" in said


def test_at_other_knobs_than_the_texts_the_page_says_so():
    measure = load(11).measure
    said = apart(measure, load(11).measure.__kwdefaults__ | load(11).LESSON.quick)
    assert said == "The text speaks of steps 40; this was measured with steps 20."
    assert apart(measure, dict(measure.__kwdefaults__)) == ""
    assert apart(measure, measure.__kwdefaults__ | {"scales": [1.0, 0.9, 0.8, 0.5], "seeds": 1}) == ""
    assert said in pages.figure(load(11).LESSON, Picture("", 8, 3, ((0, 0, 8, 3),), ""), None, (), said)


SMALL = {
    1: [{"block": b, "skip": s, "seeds": 1} for b in (1, 2, 3) for s in (True, False)],
    2: [{"seeds": 2, "directions": 1}],
    7: [{"arch": "resnet8", "batch": 4, "seeds": 2, "each_layer": e} for e in (False, True)],
    8: [{"shallow": 8, "deep": 14, "size": 8, "count": 64, "epochs": 2, "seeds": 2}],
    9: [{"depth": 14, "size": 8, "count": 64, "epochs": 1, "seeds": 2}],
    10: [{"arch": "resnet8", "block": b, "epochs": 0} for b in ("pre", "post")],
    11: [{"scales": (0.5, 1.0), "depth": d, "width": 8, "steps": 0, "seeds": 2} for d in (4, 8)],
    12: [{"depth": 8, "size": 8, "count": 64, "epochs": 1, "batch": 32}],
    14: [{"channels": 16, "size": 8, "images": 1, "rounds": 1, "seeds": 2}],
    3: [{"depth": 4, "width": 8, "seeds": 2}, {"depth": 8, "width": 8, "seeds": 2}],
    4: [{"depth": 4, "width": 8, "seeds": 1, "skip": "all"}],
    5: [{"depth": 20, "width": 8, "seeds": 1, "batches": (4, 8), "arch": "resnet20", "steps": 2}],
    6: [{"depth": 4, "width": 16, "seeds": 2, "points": 32}],
}


BANDS = (3, 5, 6, 7, 8, 9, 11)


def test_every_lesson_has_a_slider():
    for n in numbers():
        assert grid.jobs(n, quick=True)
    for n in SMALL:
        measured = [json.loads(json.dumps(load(n).measure(**knobs))) for knobs in SMALL[n][:6]]
        assert any(control["slider"] for control in grid.view(n, measured)["controls"])


@pytest.mark.parametrize("n", SMALL)
def test_every_setting_has_its_curves(n):
    measured = [json.loads(json.dumps(load(n).measure(**knobs))) for knobs in SMALL[n]]
    data = json.loads(json.dumps(grid.view(n, measured), allow_nan=False))
    settings = ["|".join(values) for values in product(*(control["values"] for control in data["controls"]))]
    assert sorted(settings) == sorted(data["cells"])
    for cell in data["cells"].values():
        assert len(cell["show"]) == len(cell["faint"]) == len(data["charts"])
        for name in [*cell["show"], *(name for names in cell["faint"] for name in names)]:
            curve = data["curves"][name]
            assert len(curve["at"]) == len(curve["mean"])
            if n in BANDS:
                several = SMALL[n][0]["seeds"] > 1
                assert [len(curve[side] or ()) for side in ("low", "high")] == [several * len(curve["at"])] * 2
        assert cell["says"].endswith(".")
        assert cell["command"].startswith(f"minires lesson {n} ")
    for index, chart in enumerate(data["charts"]):
        low, high = chart["range"]
        ends = [v for cell in data["cells"].values() for v in data["curves"][cell["show"][index]]["mean"]]
        assert low <= min(ends) < max(ends) <= high
        assert all(low <= place <= high for place, _ in chart["yticks"])
        assert 2 <= len(chart["yticks"]) <= 10
    assert bool(data["strips"]) == (n == 6)
    assert load(n).LESSON.title in pages.explore(data) or 'id="knobs"' in pages.explore(data)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the site to build again, without what takes long: the stepper, and drawing the pictures."""
    monkeypatch.setattr(site_build, "_write_stepper", lambda path, arch: None)
    drawn = Picture("<svg/>", 400, 300, ((0, 0, 400, 300),), "Chart.")
    monkeypatch.setattr(site_build, "picture", lambda fig: drawn)
    return shutil.copytree(small_site(), tmp_path / "copy")


def test_a_second_build_measures_nothing(copy, monkeypatch, capsys):
    monkeypatch.setattr(results, "ProcessPoolExecutor", None)  # calling it would raise
    assert cli.main(["site", str(copy), "--quick", "--lessons", "3,4"]) == 0
    assert str(copy / "index.html") in capsys.readouterr().out
    again = (copy / "lesson-03.html").read_text(encoding="utf-8")
    assert Page(again).rows == Page(page(3)).rows
    assert sliders(again) == sliders(page(3))
    assert 'rel="prev"' in page(3)
    assert 'rel="prev"' not in again  # lesson 1 is no longer among them


def test_results_of_other_source_and_damaged_files_are_measured_again(tmp_path, monkeypatch):
    job = Job.of(1, load(1).LESSON.quick)
    whole = (small_site() / "data" / job.file).read_text(encoding="utf-8")
    path = tmp_path / job.file
    path.write_text(whole)
    assert results._kept(path)["result"] == kept(job)
    path.write_text(whole[: len(whole) // 2])
    assert results._kept(path) is None
    path.write_text(whole)
    monkeypatch.setattr(results, "_fingerprint", lambda: "other")
    assert results._kept(path) is None


def test_the_kernels_in_c_are_part_of_what_a_measurement_rests_on(monkeypatch):
    read = results.Path.read_bytes
    monkeypatch.setattr(results.Path, "read_bytes", lambda path: read(path) + b" " * (path.suffix == ".c"))
    assert results._fingerprint.__wrapped__() != results._fingerprint()


def test_another_numpy_measures_again(monkeypatch):
    monkeypatch.setattr(np, "__version__", "9.9")
    assert results._fingerprint.__wrapped__() != results._fingerprint()


def test_a_claim_that_fails_is_shown_and_told(copy, monkeypatch, capsys):
    held = claims(1)
    failed = [Claim("the broken one", 2.0, 0, 1), *held[1:]]

    def check(result):
        raise ClaimError(failed)

    monkeypatch.setattr(load(1), "check", check)
    assert cli.main(["site", str(copy), "--quick", "--lessons", "1"]) == 1
    assert "the broken one: 2.0, bound 0 .. 1" in capsys.readouterr().err.replace("\n", " ")
    rows = Page((copy / "lesson-01.html").read_text(encoding="utf-8")).rows
    assert ["the broken one", "2", "0 .. 1", "", "FAILS"] in rows


def test_errors_are_one_line(tmp_path, capsys):
    def fails(*arguments):
        assert cli.main(["site", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "there is no lesson 99" in fails(tmp_path / "new", "--lessons", "99")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("mine")
    assert "cannot be used" in fails(tmp_path / "file", "--lessons", "1")
    (tmp_path / "index.html").write_text("<title>my own page</title>")
    assert "choose an empty folder" in fails(tmp_path, "--lessons", "1")
    assert (tmp_path / "index.html").read_text() == "<title>my own page</title>"
    assert cli.main(["site", str(tmp_path), "--lessons", "three"]) == 2
    assert "3,5" in capsys.readouterr().err


# the parts


def test_formulas_are_drawn_with_their_words():
    drawn = formula(r"\sqrt{\pi/(\pi-1)} = 1.21")
    assert 'aria-label="√(π/(π-1)) = 1.21"' in drawn
    assert len(re.search(r' d="([^"]+)"', drawn)[1]) > 500
    assert formula("x") != formula("y")
    with pytest.raises(ConfigError, match="cannot be drawn"):
        formula(r"\nosuchcommand{x}")


@pytest.mark.parametrize("module", discover(), ids=lambda module: f"lesson {module.LESSON.number}")
def test_every_lessons_text_can_be_set(module):
    lesson = module.LESSON
    for text in (lesson.idea, lesson.look_for, lesson.wrong_if, lesson.exercise, lesson.question):
        drawn = prose(text, range(1, 19))
        assert "$" not in re.sub("<code>.*?</code>", "", drawn)
        Page(drawn)


def test_prose_has_lists_displays_commands_and_links():
    drawn = prose("One, see lesson 4:\n\n- a `x < 1`\n- b\n  goes on\n\n$\\frac{a}{b}$\n\nNo lesson 99.", {4})
    assert '<a href="lesson-04.html">lesson 4</a>' in drawn
    assert "<ul><li>a <code>x &lt; 1</code></li><li>b goes on</li></ul>" in drawn
    assert '<p class="displayed"><svg' in drawn
    assert "<p>No lesson 99.</p>" in drawn


@pytest.mark.parametrize("module", discover(), ids=lambda module: f"lesson {module.LESSON.number}")
def test_coloured_source_is_the_source(module):
    for item in module.LESSON.shows:
        read = html.unescape(re.sub(r"</?span[^>]*>", "", code.source(item)))
        assert read == shown.source(item).rstrip("\n")
        assert re.search(r'<span class="d">\w+</span>', code.source(item))


def test_c_is_coloured_too():
    function = code.coloured_c(
        "/* a < b */\nvoid NAME(f)(const int n, T *x) {\n#pragma GCC unroll 4\n    x[0] = NAME(g)(n);\n}"
    )
    assert function == (
        '<span class="c">/* a &lt; b */</span>\n<span class="k">void</span> NAME(<span class="d">f</span>)'
        '(<span class="k">const</span> <span class="k">int</span> n, T *x) {\n'
        '<span class="k">#pragma</span> GCC unroll <span class="n">4</span>\n'
        '    x[<span class="n">0</span>] = NAME(g)(n);\n}'
    )


def test_a_picture_follows_the_theme_and_gives_its_panels():
    def draw():
        fig, axes = figure("Title", panels=2, note="a note")
        for ax, name in zip(axes, ("left", "right"), strict=True):
            ax.plot([0, 1], [1, 2], color=COLOURS["blue"][0])
            ax.set_xlabel(f"{name} x")
            ax.set_ylabel("y")
        return picture(fig)

    drawn = draw()
    assert drawn.svg == draw().svg
    assert "var(--blue)" in drawn.svg
    assert "prefers-color-scheme:dark" in drawn.svg
    assert "DOCTYPE" not in drawn.svg
    (one, two), total = drawn.panels, drawn.width
    assert one[0] < two[0]
    assert one[0] + one[2] <= two[0] + 8  # each has four pixels around it
    assert two[0] + two[2] <= total + 8
    assert drawn.alt == "Chart. y against left x. y against right x."


def test_a_narrow_screen_gets_the_picture_drawn_for_it_or_its_panels_or_scrolls():
    lesson, box = load(8).LESSON, (0, 0, 400, 300)
    one, two = (Picture("<svg/>", 800, 300, (box,) * n, "Chart.") for n in (1, 2))
    narrow = Picture("<svg/>", 440, 400, (box,), "Chart.")
    drawn = pages.figure(lesson, one, narrow, ())
    assert '<source media="(max-width: 46rem)" srcset="pictures/lesson_08_phone.svg" width="440" height="400">' in drawn
    assert f"@media {pages.NARROW}" in page(3)
    assert "scrolls" not in drawn
    assert "divided" not in drawn
    assert pages.figure(lesson, one, None, ()).count("scrolls") == 1
    assert pages.figure(lesson, two, None, ()).count('class="panel"') == 2


def test_a_lesson_that_can_is_drawn_for_a_phone(monkeypatch):
    asked = []

    def plot(result, *, narrow=False):
        asked.append(narrow)
        return Figure()

    assert site_build._for_phone(plot, {}).panels == ()
    assert asked == [True]
    assert site_build._for_phone(load(1).plot, {}) is None


def test_hyphened_names_and_the_parts_of_a_dotted_one_stay_whole():
    assert inline("ResNet-50 at 1e-5") == '<span class="glued">ResNet-50</span> at <span class="glued">1e-5</span>'
    assert "minires.<wbr>nn.<wbr>blocks.<wbr>Block</code>" in page(1)


def test_the_panels_of_a_grid_are_its_cells_and_of_unequal_columns_the_columns():
    fig = Figure(figsize=(8, 6), layout="constrained")
    fig.subplots(2, 2)
    first, second, third, fourth = picture(fig).panels
    assert first[0] == third[0] < second[0] == fourth[0]
    assert first[1] == second[1] < third[1] == fourth[1]
    fig = Figure(figsize=(8, 6), layout="constrained")
    fig.subplot_mosaic([["a", "b"], ["c", "b"]])
    (_, _, _, left), (_, _, _, right) = picture(fig).panels
    assert left == pytest.approx(right, abs=2)


def test_powers_of_ten_in_words():
    assert [tick(0), tick(-8), tick(12)] == ["1", "10⁻⁸", "10¹²"]
    assert [count(0.15), count(3.92), count(7.55), count(9.3), count(15.4)] == [
        "1.4", "8,300", "35 million", "2.0 billion", "2.5 × 10¹⁵"
    ]  # fmt: skip
    assert change(3.92) == "grows 8,300 times"
    assert change(-7.55) == "shrinks 35 million times"
    assert change(-0.01) == "keeps its size (0.98 times)"


def test_the_gallery_can_count_all_lessons():
    entries = [
        (module.LESSON, [Claim("it", 1.0, 0, 2)], Picture("", 4, 3, ((0, 0, 4, 3),), "")) for module in discover()
    ]
    text = pages.gallery(entries)
    assert f"<h1>{pages.NUMBERS[len(entries)]} lessons on what goes on" in text
    assert text.count('class="kicker"') == len(entries)


def test_the_gallerys_headlines_are_claims():
    for n in LESSONS:
        chosen = pages.headlines(n, claims(n))
        assert len(chosen) == 2
        for claim in chosen:
            assert f"<dd>{number(claim.measured)}</dd>" in (small_site() / "index.html").read_text(encoding="utf-8")
