"""The diagram as an SVG file: plain shapes with their colours on them, and a style sheet for dark pages alone.

Viewers that ignore style sheets (slide programs among them) show the light picture.
"""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from minires.instruments.diagram import (
    ADD,
    ARCH,
    BAR,
    CARD,
    FLOW,
    GUTTER,
    HEADING,
    MARGIN,
    RISE,
    SMALL,
    STRIP,
    TALL,
    TEXT,
    TITLE,
    Diagram,
    Entry,
    Part,
    Unit,
    text_width,
)
from minires.instruments.style import AMBER, BLUE, GREEN, INK, MUTED, PAPER

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
RUST, SLATE = "#b84e00", "#52606d"  # dark enough for white letters
FILL = {"conv": BLUE, "projection": RUST, "pool": "#7a4b8f", "dense": SLATE, "other": SLATE}
FILL |= {"norm": AMBER, "relu": GREEN, "image": PAPER, "join": PAPER}
CARDS = {  # kind: (fill, edge, shortcut)
    "identity": ("#ecf5fb", "#a9cfe6", BLUE),
    "convolutional": ("#fdf0e6", "#eebf95", RUST),
    "subsampled": ("#e9f6f1", "#9fd3bf", GREEN),
    "plain": ("#f1f4f8", "#cfd6de", ""),
    "composition": ("#f5f0fa", "#c9b3dd", ""),
    "layers": (PAPER, "#cfd6de", ""),
    "stem": (PAPER, "#cfd6de", ""),
    "head": (PAPER, "#cfd6de", ""),
}
DARK = """
@media (prefers-color-scheme: dark) {
  .page { fill: #14181d } .ink { fill: #e6eaf0 } .muted { fill: #a7b2c0 }
  .flow { stroke: #a7b2c0 } .tip { fill: #a7b2c0 } .node { fill: #14181d; stroke: #e6eaf0 } .plus { stroke: #e6eaf0 }
  .identity .card { fill: #142838; stroke: #2f5f82 } .identity .skip { stroke: #56b4e9 }
  .convolutional .card { fill: #33230f; stroke: #80532b } .convolutional .skip { stroke: #ff9d5c }
  .subsampled .card { fill: #12302a; stroke: #2f6f5c } .subsampled .skip { stroke: #3cc79f }
  .plain .card, .layers .card, .stem .card, .head .card { fill: #1d232b; stroke: #3d4753 }
  .composition .card { fill: #271f33; stroke: #6a5285 } .join { fill: #14181d; stroke: #e6eaf0 }
  .image { fill: #1d232b; stroke: #a7b2c0 } .ink-text { fill: #e6eaf0 } .dot { fill: #e6eaf0 }
}
"""


def to_svg(diagram: Diagram) -> str:
    """The drawing as SVG 1.1 text, with a title and a description for screen readers."""
    width, height = (f"{v:.0f}" for v in (diagram.width, diagram.height))
    svg = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", width=width, height=height, role="img")
    name = re.sub(r"\W+", "-", diagram.title)  # an id that is unique where a page holds several networks
    svg.attrib |= {"viewBox": f"0 0 {width} {height}", "font-family": FONT}
    svg.attrib["aria-labelledby"] = f"{name}title {name}desc"
    ET.SubElement(svg, "title", id=f"{name}title").text = diagram.title
    ET.SubElement(svg, "desc", id=f"{name}desc").text = diagram.description
    ET.SubElement(svg, "style").text = DARK
    _add(svg, "rect", "page", width=width, height=height, fill=PAPER)
    _text(svg, MARGIN, 40, diagram.title, TITLE, "ink", weight="bold", anchor="start")
    _text(svg, MARGIN, 62, diagram.subtitle, TEXT, "muted", anchor="start")
    _wires(svg, diagram)
    for unit in diagram.units:
        _unit(svg, unit)
    for entry in diagram.legend:
        _entry(svg, entry)
    ET.indent(svg, " ")
    return ET.tostring(svg, encoding="unicode") + "\n"


def _add(parent, tag: str, cls: str, **attributes):
    """An element; numbers are rounded, and `stroke_width` is written stroke-width."""
    values = {k.replace("_", "-"): v if isinstance(v, str) else _join(v) for k, v in attributes.items()}
    return ET.SubElement(parent, tag, {"class": cls} | values)


def _join(*parts) -> str:
    """Path commands and rounded numbers, with spaces between."""
    return " ".join(part if isinstance(part, str) else f"{part:.5g}" for part in parts)


def _text(parent, x, y, text, size, cls, *, weight="normal", anchor="middle", turned=False, fill=None):
    """Letters whose middle is at height y; `turned` writes them upwards."""
    if turned:
        place = {"transform": f"translate({_join(x + 0.35 * size, y)}) rotate(-90)"}
    else:
        place = {"x": x, "y": y + 0.35 * size}
    place |= {"font_size": size, "font_weight": weight, "text_anchor": anchor}
    _add(parent, "text", cls, **place, fill=fill or {"ink": INK, "muted": MUTED}[cls]).text = text


def _wires(svg, diagram: Diagram) -> None:
    """The line of x from card to card, and from the end of a row to the start of the next."""
    style = {"fill": "none", "stroke": MUTED, "stroke_width": 1.6}
    for row in diagram.rows:
        for a, b in pairwise(row):
            _add(svg, "path", "flow", d=_join("M", a.x + a.w, a.y + FLOW, "H", b.x), **style)
    for above, below in pairwise(diagram.rows):
        last, first = above[-1], below[0]
        between = first.y - GUTTER / 2 - (HEADING if any(unit.heading for unit in below) else 0)
        end, left, right, r = first.y + FLOW, MARGIN - 16, last.x + last.w + 16, 7
        down = ("M", right - 16, last.y + FLOW, "H", right - r, "q", r, 0, r, r, "V", between - r, "q", 0, r, -r, r)
        back = ("H", left + r, "q", -r, 0, -r, r, "V", end - r, "q", 0, r, r, r, "H", first.x)
        _add(svg, "path", "flow", d=_join(*down, *back), **style)
        _add(svg, "path", "tip", d=_join("M", first.x, end, "l -7 -4 v 8 z"), fill=MUTED)


def _unit(svg, unit: Unit) -> None:
    fill, edge, skip = CARDS[unit.kind]
    group = _add(svg, "g", f"unit {unit.kind}", transform=f"translate({_join(unit.x, unit.y)})")
    ET.SubElement(group, "title").text = unit.detail
    if unit.heading:
        _text(group, 1, -11, unit.heading, TEXT, "ink", weight="bold", anchor="start")
    _add(group, "rect", "card", width=unit.w, height=CARD, rx=7, fill=fill, stroke=edge)
    start = unit.parts[0].x if unit.kind == "stem" else 0
    end = unit.parts[-1].x if unit.kind == "head" else unit.w
    for wire in unit.wires or [(start, FLOW, end, FLOW, None)]:
        _add(group, "path", "flow", d=_join("M", *wire[:2], *_wire(*wire)), fill="none", stroke=MUTED, stroke_width=1.6)
    if unit.fork is not None:
        _skip(group, unit, skip)
    for part in unit.parts:
        _part(group, part)
    if unit.add is not None:
        _node(group, unit.add, FLOW, ADD)
    _text(group, unit.w / 2, ARCH + TALL + 10, unit.name, SMALL, "muted")


def _wire(x1, y1, x2, y2, over):
    """The commands from (x1, y1) to (x2, y2): straight, in a bend, or above all boxes at the height `over`."""
    if over is not None:
        up = "C", x1 + 8, y1, x1 + 1, over, x1 + 10, over
        return (*up, "H", x2 - 10, "C", x2 - 1, over, x2 - 8, y2, x2, y2)
    if y1 == y2:
        return "H", x2
    bend = min(x2 - x1, 14) / 2
    return "C", x1 + bend, y1, x1 + bend, y2, x1 + 2 * bend, y2, "H", x2


def _skip(group, unit: Unit, color: str) -> None:
    """The shortcut: up, over the bars in an arc, and down into the add node."""
    fork, add, high = unit.fork, unit.add, ARCH - 4 / 3 * RISE
    d = _join("M", fork, FLOW, "V", ARCH, "C", fork, high, add, high, add, ARCH, "V", FLOW - ADD)
    _add(group, "path", "skip", d=d, fill="none", stroke=color, stroke_width=2.4)
    _add(group, "circle", "dot", cx=fork, cy=FLOW, r=2.6, fill=INK)


def _part(group, part: Part) -> None:
    box = {"x": part.x, "y": part.y, "width": part.w, "height": part.h, "fill": FILL[part.kind]}
    if part.kind == "image":
        box |= {"stroke": MUTED, "stroke_dasharray": "3 2"}
    if part.kind == "join":
        box |= {"stroke": INK, "stroke_width": 1.4}
    shape = _add(group, "rect", part.kind, **box, rx=2 if part.text else 1)
    ET.SubElement(shape, "title").text = part.name
    if part.text:
        cls, fill = ("ink-text", INK) if part.kind in ("image", "join") else ("label", "#ffffff")
        middle = part.x + part.w / 2, part.y + part.h / 2
        size = min(SMALL, max(part.w, part.h) / text_width(part.text, 1))
        _text(group, *middle, part.text, size, cls, turned=part.h > part.w, fill=fill)


def _node(group, x, y, r) -> None:
    _add(group, "circle", "node", cx=x, cy=y, r=r, fill=PAPER, stroke=INK, stroke_width=1.6)
    d = _join("M", x - r / 2, y, "h", r, "M", x, y - r / 2, "v", r)
    _add(group, "path", "plus", d=d, stroke=INK, stroke_width=1.6)


def _entry(svg, entry: Entry) -> None:
    """A small specimen and what it means."""
    group = _add(svg, "g", f"legend {entry.kind}", transform=f"translate({_join(entry.x, entry.y)})")
    if entry.kind in CARDS:
        fill, edge, skip = CARDS[entry.kind]
        _add(group, "rect", "card", y=1, width=30, height=18, rx=4, fill=fill, stroke=edge)
        if skip:
            _add(group, "path", "skip", d="M6 15V10C6 2 24 2 24 10V15", fill="none", stroke=skip, stroke_width=2.2)
        if entry.kind == "convolutional":
            _add(group, "rect", "projection", x=9, y=2.5, width=12, height=5, rx=1, fill=RUST)
    elif entry.kind == "add":
        _node(group, 22, 10, ADD)
    else:
        w = STRIP if entry.kind in ("norm", "relu") else BAR
        edge = {"stroke": INK, "stroke_width": 1.4} if entry.kind == "join" else {}
        _add(group, "rect", entry.kind, x=30 - w, y=2, width=w, height=16, rx=1, fill=FILL[entry.kind], **edge)
    _text(group, 36, 10, entry.text, SMALL, "muted", anchor="start")
