"""The diagram's SVG (svg.py) as a matplotlib figure, for PNG and PDF files: the few elements that it is made of."""

import re
import xml.etree.ElementTree as ET

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from minires.instruments.style import PAPER

POINTS = 72 / 96  # of a pixel
LETTERS = 0.88  # matplotlib's own letters are this much wider than those that the diagram is laid out for
BEZIER = {"C": (Path.CURVE4, 3), "Q": (Path.CURVE3, 2)}


def to_figure(svg: str) -> Figure:
    """The light picture, as large as the SVG's."""
    root = ET.fromstring(svg)
    width, height = float(root.get("width")), float(root.get("height"))
    fig = Figure(figsize=(width / 96, height / 96), facecolor=PAPER)
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    _draw(ax, root, Affine2D())
    return fig


def _draw(ax, parent, place) -> None:
    for element in parent:
        tag = element.tag.partition("}")[2]
        if tag == "g":
            x, y = _numbers(element.get("transform", "0 0"))
            _draw(ax, element, place.frozen() + Affine2D().translate(x, y))
        elif tag == "text":
            _text(ax, element, place)
        elif tag in SHAPES:
            _shape(ax, SHAPES[tag](element), element, place)


def _shape(ax, shape, element, place) -> None:
    color = {"facecolor": element.get("fill", "none"), "edgecolor": element.get("stroke", "none")}
    dashes = _numbers(element.get("stroke-dasharray", ""))
    shape.set(**color, linewidth=_value(element, "stroke-width", 1) * POINTS, linestyle=(0, dashes) if dashes else "-")
    shape.set_transform(place + ax.transData)
    shape.set_clip_on(False)
    ax.add_patch(shape)


def _rect(element):
    x, y, w, h, r = (_value(element, name) for name in ("x", "y", "width", "height", "rx"))
    return FancyBboxPatch((x, y), w, h, boxstyle=f"round,pad=0,rounding_size={r}")


def _circle(element):
    return Circle((_value(element, "cx"), _value(element, "cy")), _value(element, "r"))


def _path(element):
    """Commands M, H, V, C, h, v, l, q and z, as svg.py writes them: small letters count from where the pen is."""
    points, codes, pen = [], [], (0.0, 0.0)
    for command, text in re.findall(r"([A-Za-z])([^A-Za-z]*)", element.get("d")):
        numbers, (x, y) = _numbers(text), pen if command.islower() else (0, 0)
        kind = command.upper()
        if kind == "Z":
            points.append(pen)
            codes.append(Path.CLOSEPOLY)
            continue
        if kind == "H":
            numbers, kind = [numbers[0], pen[1] - y], "L"
        elif kind == "V":
            numbers, kind = [pen[0] - x, numbers[0]], "L"
        several = [(x + numbers[i], y + numbers[i + 1]) for i in range(0, len(numbers), 2)]
        code, count = BEZIER.get(kind, (Path.MOVETO if kind == "M" else Path.LINETO, 1))
        codes += [code] * count
        points += several
        pen = several[-1]
    return PathPatch(Path(points, codes))


SHAPES = {"rect": _rect, "circle": _circle, "path": _path}
ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def _text(ax, element, place) -> None:
    x, y, turn = _value(element, "x"), _value(element, "y"), 0
    if moved := element.get("transform"):
        x, y, turn = _numbers(moved)
    ax.text(
        *place.transform((x, y)),
        element.text,
        size=_value(element, "font-size") * POINTS * LETTERS,
        weight=element.get("font-weight"),
        color=element.get("fill"),
        ha=ANCHORS[element.get("text-anchor")],
        va="baseline",
        rotation=-turn,
        rotation_mode="anchor",
    )


def _value(element, name, default=0.0) -> float:
    return float(element.get(name, default))


def _numbers(text: str) -> list[float]:
    return [float(v) for v in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]
