"""A lesson's page for a class: one page, everything on it, nothing over its edge."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from minires.lessons import harness, spreads
from minires.lessons.handout import PAGE, handout
from minires.lessons.harness import Claim, Outcome
from pictures import assert_opens

from minires import cli
from minires.errors import ConfigError


def page(n: int, claims=None) -> Figure:
    """The handout of lesson n with its own claims, and a picture in the place of its own."""
    module = harness.load(n)
    kept = spreads.kept(n)["records"][0]["claims"]
    claims = claims or [Claim(text, c["values"][0], -1e9, 1e9) for text, c in kept.items() if c["bound"]]
    outcome = Outcome({"knobs": harness.default_knobs(module.measure)}, claims, 1.0)
    return handout(module.LESSON, outcome, Figure(figsize=(3, 1.3)))


@pytest.mark.parametrize("n", harness.numbers())
def test_every_lesson_fits_one_page(n):
    fig = page(n)
    assert tuple(fig.get_size_inches()) == PAGE
    texts = [text for text in fig.texts if text.get_text()]
    assert min(text.get_position()[1] for text in texts) > 0
    said = " ".join(text.get_text() for text in texts)
    assert harness.load(n).LESSON.title in said
    assert "Before you look" in said
    assert "yours" in said
    lines = [line.get_ydata()[0] for line in fig.artists]
    assert 0.03 < min(lines) < max(lines) < 1
    pen = FigureCanvasAgg(fig).get_renderer()
    assert max(text.get_window_extent(pen).x1 for text in texts) < fig.bbox.x1 - 20


def test_a_page_that_is_too_full_is_refused_in_words():
    with pytest.raises(ConfigError, match="60 claims are too many"):
        page(3, [Claim(f"number {i}", 1.0, 0, 2) for i in range(60)])


@pytest.mark.slow
def test_the_command_writes_it_beside_the_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lesson", "1", "--seeds", "1", "--handout", "paper.pdf"]) == 0
    assert (tmp_path / "paper.pdf").read_bytes().count(b"/Count 1 ") == 1, "one page"
    assert_opens(tmp_path / "paper.pdf")
    assert (tmp_path / "runs/lessons/lesson_01.png").exists()
    assert "handout: paper.pdf" in capsys.readouterr().err
    assert cli.main(["lesson", "1", "--handout", "paper.doc"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert ".pdf" in line
