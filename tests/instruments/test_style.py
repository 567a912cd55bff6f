"""The small print below every picture: whole, inside the picture, below the axes; with versions or those of a run."""

import platform

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minires.instruments import style

LONG = "minires train --data /home/somebody/photographs/hands " + " ".join(f"--option-{n} {n}" for n in range(60))
VERSIONS = f"NumPy {np.__version__}, Python {platform.python_version()}"
WIDTHS = [{"narrow": True}, {}, {"panels": 3}]


def small_print(fig):
    return next(text for text in fig.texts if text.get_fontsize() == style.SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("note", ["seed 0", LONG, LONG.replace(" ", "W" * 9), "$W_" * 90])
def test_nothing_is_cut_off_or_covered(size, note):
    fig, axes = style.figure("Title", **size, note=note)
    for ax in axes:
        ax.set_xlabel("below the axes")
    pen = FigureCanvasAgg(fig).get_renderer()
    fig.draw(pen)
    text = small_print(fig)
    together = "".join(text.get_text().replace("|", " ").split())
    assert "".join(note.split()) in together
    assert "".join(VERSIONS.split()) in together
    box = text.get_window_extent(pen)
    assert box.x0 > 0
    assert box.y0 > 0
    assert box.x1 < fig.bbox.x1
    assert box.y1 < min(ax.get_tightbbox(pen).y0 for ax in axes)


@pytest.mark.slow
@pytest.mark.parametrize("size", WIDTHS)
def test_a_long_note_takes_nothing_from_the_axes(size):
    short, tall = (style.figure("Title", **size, note=note)[0] for note in ("seed 0", LONG))
    drawn = []
    for fig in (short, tall):
        fig.draw(FigureCanvasAgg(fig).get_renderer())
        drawn.append([ax.get_window_extent().height for ax in fig.axes])
    assert tall.get_figheight() > short.get_figheight()
    assert drawn[0] == pytest.approx(drawn[1], abs=1)


def test_a_short_note_stands_on_one_line_with_the_versions():
    text = small_print(style.figure("Title", note="seed 0")[0]).get_text()
    assert text.startswith("seed 0  |  minires ")
    assert text.endswith(VERSIONS)


def test_the_argument_decides_whether_versions_are_added():
    other = "measured with NumPy 1.0, Python 2.7"
    assert small_print(style.figure("Title", note=other, versions=False)[0]).get_text() == other
    assert VERSIONS in small_print(style.figure("Title", note=other)[0]).get_text()
