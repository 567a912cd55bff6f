"""A lesson's picture as an SVG file that follows the reader's light or dark preference."""

import io
import re
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from minires.instruments import style

# name -> (as the picture has it, in the dark): the style's colours, bright enough for a dark page
COLOURS = {
    "paper": (style.PAPER, "#1b2026"),
    "ink": (style.INK, "#e8eaed"),
    "muted": (style.MUTED, "#a4adb7"),
    "grid": (style.GRID, "#2e353d"),
    "band": (style.BAND, "#232a31"),
    "blue": (style.BLUE, "#4da9e8"),
    "orange": (style.ORANGE, "#ff8a4c"),
    "green": (style.GREEN, "#2cc295"),
    "pink": (style.PINK, "#e39ac2"),
}


@dataclass(frozen=True)
class Picture:
    """width, height: in CSS pixels. panels: (left, top, width, height) of each column or cell of axes, which a phone
    shows below each other. alt: what the axes show, in words."""

    svg: str
    width: int
    height: int
    panels: tuple[tuple[float, float, float, float], ...]
    alt: str


def picture(fig: Figure) -> Picture:
    """Draw the figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "minires"}):  # the same picture is the same file
        fig.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    width, height = (round(inches * 96) for inches in fig.get_size_inches())
    return Picture(_themed(buffer.getvalue()), width, height, tuple(_panels(fig)), _alt(fig))


def _themed(svg: str) -> str:
    """Colours by name, with two sets of values; without the prologue, which names the address of a DTD."""
    svg = re.sub(r"^.*?(?=<svg)|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, (light, _) in COLOURS.items():
        svg = re.sub(light, f"var(--{name})", svg, flags=re.IGNORECASE)
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in COLOURS.items()) for i in (0, 1))
    rules = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg[^>]*>)", rf"\1{rules}", svg, count=1)


def _panels(fig: Figure) -> list[tuple[float, float, float, float]]:
    """The boxes of the columns of axes, with their legends: axes whose x-ranges overlap stand in one column.

    Columns with equally many axes are a grid, whose cells are panels of their own, row by row.
    """
    boxes = [ax.get_tightbbox() for ax in fig.axes]
    columns: list[list] = []
    for box in sorted((box for box in boxes if box is not None), key=lambda box: box.x0):
        if columns and box.x0 < max(other.x1 for other in columns[-1]):
            columns[-1].append(box)
        else:
            columns.append([box])
    if len(columns) > 1 and len({len(column) for column in columns}) == 1:  # a grid: each cell for itself
        rows = zip(*(sorted(column, key=lambda box: -box.y0) for column in columns), strict=True)
        columns = [[cell] for row in rows for cell in row]
    scale, tall = 96 / fig.dpi, fig.get_figheight() * 96
    found = []
    for column in columns:
        left, right = (scale * limit for limit in (min(b.x0 for b in column), max(b.x1 for b in column)))
        bottom, top = (scale * limit for limit in (min(b.y0 for b in column), max(b.y1 for b in column)))
        box = (left - 4, tall - top - 4, right - left + 8, top - bottom + 8)
        found.append(tuple(round(float(number), 1) for number in box))
    return found


def _alt(fig: Figure) -> str:
    """'Chart. Plain: y against x. Residual: ...'"""
    said = []
    for ax in fig.axes:
        box = ax.get_legend()
        heading = (box.get_title().get_text() if box else "") or ax.get_title(loc="left") or ax.get_title()
        labels = [ax.get_ylabel(), ax.get_xlabel()]
        words = " against ".join(label for label in labels if label)
        if heading or words:
            said.append(": ".join(part for part in (heading, words) if part))
    return " ".join(["Chart.", *(f"{text.rstrip('.:')}." for text in said)])
