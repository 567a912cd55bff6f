"""The look of every picture: one palette, one kind of axes, a line of provenance.

Only matplotlib's object interface is used and no global setting is changed, so pictures can be drawn in any
thread and without a display.
"""

import platform
import textwrap
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import minires
from minires.files import write_bytes

# Okabe and Ito's colours, told apart by colour-blind readers; the darker ones first, for thin lines
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
PALETTE = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, MUTED, GRID, BAND, PAPER = "#1f2933", "#5f6b7a", "#e3e7ec", "#f1f4f8", "#ffffff"
TEXT = 12  # points; small print is two less, the title three more
DPI = 160
HEAD, FOOT = 0.5, 0.26  # inches kept for the title and for the provenance


def figure(title: str, *, panels: int = 1, narrow: bool = False, height: float = 4.6, note: str = ""):
    """(figure, list of axes): `panels` side by side, or below each other in a narrow picture for a phone.

    height: of one row of panels, in inches. note: what the picture was made from, such as 'seed 0, minires
    train --arch resnet50'; the versions are added to it, unless it names those of another run.
    """
    width = 4.6 if narrow else (8.6 if panels == 1 else 12.4)
    rows, columns = (panels, 1) if narrow else (1, panels)
    tall = rows * height * (0.8 if narrow else 1) + HEAD + FOOT
    fig = Figure(figsize=(width, tall), dpi=DPI, facecolor=PAPER)
    fig.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1, rect=(0, FOOT / tall, 1, 1 - (HEAD + FOOT) / tall))
    size = TEXT + (2 if narrow else 4)
    fig.text(0.1 / width, 1 - 0.12 / tall, title, ha="left", va="top", fontsize=size, color=INK, fontweight="bold")
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        dress(ax)
    stamp(fig, note)
    return fig, axes


def dress(ax) -> None:
    """Quiet axes: a light grid behind the data, no box."""
    ax.set_axisbelow(True)
    ax.grid(True, color=GRID, linewidth=0.8)
    ax.tick_params(which="both", colors=MUTED, labelsize=TEXT - 1, length=0)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    ax.xaxis.label.set(fontsize=TEXT, color=INK)
    ax.yaxis.label.set(fontsize=TEXT, color=INK)


def legend(ax, heading: str = "", *, columns: int = 3, extra=()) -> None:
    """A legend above the axes, where it cannot cover the data, and the panel's heading above that.

    extra: further handles, each with its label.
    """
    handles = [*ax.get_legend_handles_labels()[0], *extra]
    columns = max(1, min(columns, len(handles)))
    ax.legend(
        handles=handles,
        title=heading or None,
        title_fontsize=TEXT,
        alignment="left",
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        fontsize=TEXT - 1,
        labelcolor=INK,
        borderpad=0.1,
        columnspacing=1.2,
        handlelength=1.6,
    )
    ax.get_legend().get_title().set_color(INK)


def stamp(fig: Figure, note: str) -> None:
    """The provenance, small, in the lower right corner."""
    versions = f"minires {minires.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    parts = [note] if "Python " in note else filter(None, [note, versions])
    lines = textwrap.wrap("  |  ".join(parts), int(fig.get_figwidth() * 17))
    text = "\n".join(lines[:2])  # FOOT holds two
    fig.text(0.995, 0.06 / fig.get_figheight(), text, ha="right", va="bottom", fontsize=7, color=MUTED)


def png_bytes(fig: Figure) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": f"minires, matplotlib {matplotlib.__version__}"})
    return buffer.getvalue()


def save_png(fig: Figure, path: Path) -> Path:
    """Write the picture, whole or not at all; DataError where the system refuses. Returns the path."""
    write_bytes(path, png_bytes(fig))
    return Path(path)
