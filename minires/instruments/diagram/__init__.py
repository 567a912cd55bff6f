"""A network laid out for drawing, from left to right: every layer, block and shortcut in its place.

    write_text("net.svg", to_svg(diagram(resnet50())))  # to_svg is in svg.py

The layout is read off the modules, so that what is drawn is what runs. A residual block is a card with its layers in
order, an arc for its shortcut (with a box on it where that is a projection) and the add node.
"""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from minires.instruments.diagram.lanes import lanes
from minires.nn import Block, Config, Module, Network, Sequential

# pixels
BAR, STRIP, TALL = 19, 5, 92  # a layer is a bar as tall as this; BN and ReLU are thin ones
ARCH, NAME = 58, 20  # room above the bars for the arc, below them for the block's name
CARD, FLOW = ARCH + TALL + NAME, ARCH + TALL / 2  # height of a card; the line along which x flows
PAD, GAP, CLOSE = 9, 5, 1.5  # a card's inner margin; before a bar; before BN or ReLU, which go with it
FORK, ADD, BOX = 12, 8, 18  # room behind the place where a shortcut leaves; add node's radius; projection's height
RISE = 37.5  # of an arc above the bars; its control points are 4/3 of that up
SPACE, GUTTER, HEADING, MARGIN, TOP, LINE = 10, 26, 22, 34, 78, 24
LETTER = 0.6  # a letter's width over its size, ample for sans-serif fonts
SMALL, TEXT, TITLE = 10.5, 12, 21  # sizes of letters
ASPECT = 1.6  # width over height that the picture comes near to

LEGEND = {
    "identity": "identity block: the shortcut adds x itself",
    "convolutional": "convolutional block: a projection fits x to the new shape",
    "subsampled": "subsampled block: the shortcut takes one pixel of several, without parameters",
    "plain": "plain block: no shortcut",
    "composition": "paths that are joined",
    "conv": "convolution: kernel, channels (groups × each), /stride",
    "norm": "batch normalisation",
    "relu": "ReLU",
    "add": "add",
    "join": "where paths meet",
    "pool": "pooling",
    "dense": "fully connected",
}


@dataclass(frozen=True)
class Part:
    """A layer's rectangle, from its card's upper left corner. kind as in LEGEND, or image, projection, other."""

    kind: str
    name: str
    text: str
    x: float
    w: float
    y: float = ARCH
    h: float = TALL


@dataclass(frozen=True)
class Unit:
    """A card. kind: stem, identity, convolutional, subsampled, plain or head."""

    kind: str
    name: str
    detail: str  # for whoever points at it
    w: float
    parts: tuple[Part, ...]
    fork: float | None = None  # where the shortcut leaves, from the card's left edge
    add: float | None = None  # where it comes in
    wires: tuple[tuple, ...] = ()  # of a composition: from (x, y) to (x, y), and the height above all boxes if any
    heading: str = ""
    x: float = 0  # of the card's upper left corner on the page
    y: float = 0


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    kind: str
    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Diagram:
    """Everything in its place on a page of width x height pixels."""

    title: str
    subtitle: str
    description: str
    width: float
    height: float
    rows: tuple[tuple[Unit, ...], ...]
    legend: tuple[Entry, ...]

    @property
    def units(self) -> list[Unit]:
        """The cards from input to output."""
        return [unit for row in self.rows for unit in row]


def diagram(model: Network) -> Diagram:
    """The layout of a network, of any depth; the rows are broken so that the page comes near 16:10."""
    groups, title, kind = _groups(model), model.title, ""
    if isinstance(config := model.config, Config):
        title = f"{config.arch} ({config.variant})"
        kind = "residual" if config.skip else "plain, no shortcuts"
        kind += ", option A" if config.skip and config.shortcut == "A" else ""
        kind += ", pre-activation" if config.preact else ""
        kind += ("" if config.norm else ", no batch normalisation") + ": "
    subtitle = f"{kind}{_shape(model.input_shape)} image, {model.classes} classes, "
    subtitle += f"{sum(model.parameter_count()):,} parameters"
    layouts = [[[unit for group in groups for unit in group]]]  # all in one row, or a new row for each stage
    layouts += [_broken(groups, most) for most in range(1, 1 + max(map(len, groups)))]
    pages = [_page(rows, subtitle) for rows in layouts]
    width, height, rows, legend = min(pages, key=lambda page: abs(np.log(page[0] / page[1] / ASPECT)))
    text = f"{model.name}, {subtitle}, drawn from left to right. {_describe(model)}"
    return Diagram(title, subtitle, text, width, height, rows, legend)


def text_width(text: str, size: float) -> float:
    """An upper estimate, in pixels."""
    return LETTER * size * len(text)


def _groups(model: Network) -> list[list[Unit]]:
    """The cards, a group for each stage; what is before the first stage is with it, the head with the last."""
    shape, groups, runs = model.input_shape, [[]], list(_runs(model.layers))
    for i, (name, layers) in enumerate(runs):
        if any(m.children() for m in layers):
            lines, after = _composed(layers, shape)
            blocks = sum(line.kind != "layers" for line in lines)
            heading = f"{name}{f' · {blocks} blocks' * (blocks > 1)} · {_shape(after)}".removeprefix(" · ")
            if name and any(unit.kind not in ("stem", "layers") for unit in groups[-1]):
                groups.append([])
        else:
            kind = "stem" if i == 0 else "head" if i + 1 == len(runs) else "layers"
            line, after = _layers(kind, name or (layers[0].name if kind == "layers" else kind), layers, shape)
            heading, lines = "head" if kind == "head" else f"{line.name} · {_shape(after)}", [line]
        if i == 0:
            image = _Line("stem", "image", "the image") if lines[0].kind != "stem" else lines.pop(0)
            lines.insert(0, image.before("image", "image", _shape(shape)))
        groups[-1] += _stage(heading, lines)
        shape = after
    return groups


def _runs(modules: list[Module]):
    """(name, modules): each Sequential with what is in it; of all others those of one kind that follow one another."""
    for _, run in groupby(modules, key=lambda m: m if type(m) is Sequential else bool(m.children())):
        first, *others = run
        yield (first.name, first.layers) if type(first) is Sequential else ("", [first, *others])


def _composed(modules: list[Module], shape: tuple) -> tuple[list["_Line"], tuple]:
    """(a card for each block and for the layers between two, the shape that comes out)."""
    lines = []
    for composed, run in groupby(modules, key=lambda m: bool(m.children())):
        run = list(run)
        if not composed:
            line, shape = _layers("layers", run[0].name, run, shape)
            lines.append(line)
            continue
        for module in run:
            after = module.output_shape(shape)
            lines.append(_block(module, shape) if isinstance(module, Block) else _composition(module, shape, after))
            shape = after
    return lines, shape


def _layers(kind: str, name: str, layers: list[Module], shape: tuple) -> tuple["_Line", tuple]:
    """(a card of layers in a row, the shape that comes out)."""
    for layer in layers:
        shape = layer.output_shape(shape)
    told = f"{shape[0]} logits" if kind == "head" else f"output {_shape(shape)}"
    return _Line(kind, name, f"{name}: {told}").layers(layers), shape


def _stage(heading: str, lines: list["_Line"]) -> list[Unit]:
    """Cards under one heading, together at least as wide as that."""
    count = len(lines)
    least = (text_width(heading, TEXT) - SPACE * (count - 1)) / count
    first, *others = (line.unit(least) for line in lines)
    return [replace(first, heading=heading), *others]


def _composition(module: Module, shape: tuple, after: tuple) -> "_Line":
    """A card of lanes: every path of a module that is no residual block."""
    line = _Line(
        "composition", module.name, f"{module.name}: {type(module).__name__}, {_shape(shape)} to {_shape(after)}"
    )
    nodes, wires, end = lanes(module)
    high = sum(wire.channel is not None for wire in wires)
    top, count = 10 + 8 * high, 1 + max(node.lane for node in nodes)
    pitch = (ARCH + TALL - 6 - top) / count
    places, x = {nodes[0]: (0.0, 0.0, FLOW)}, PAD + 10
    for column in range(1, 1 + max(node.column for node in nodes)):
        here = [(node, *node.layer.look()) for node in nodes if node.column == column]
        thin = all(kind in ("norm", "relu") for _, kind, _ in here)
        w = STRIP if thin else max(text_width(text, SMALL) + 8 for _, _, text in here)
        x += 8 * any(len(node.inputs) > 1 for node, *_ in here)  # for the wires that come in
        for node, kind, text in here:
            wide, kind = STRIP if kind in ("norm", "relu") else w, "join" if kind == "add" else kind
            y = FLOW if count == 1 else top + pitch * (node.lane + 0.5)
            line.parts.append(Part(kind, node.layer.name, "" if wide == STRIP else text, x, wide, y - BOX / 2, BOX))
            places[node] = x, x + wide, y
        x += w + (CLOSE if thin else GAP) + 4
    line.x = x + 6
    for wire in wires:
        (_, x1, y1), (x2, _, y2) = places[wire.start], places[wire.end]
        line.wires.append((x1, y1, x2, y2, None if wire.channel is None else 8 + 8 * wire.channel))
    _, x, y = places[end]
    line.wires.append((x, y, None, FLOW, None))
    return line


def _block(block: Block, shape: tuple) -> "_Line":
    kind, shapes = block_kind(block), f"{_shape(shape)} to {_shape(block.output_shape(shape))}"
    line = _Line(kind, block.name, f"{block.name}: {kind} block, {shapes}")
    if kind != "plain" and block.from_x:
        line.fork()
    if block.before is not None:
        line.layers(block.before.layers)
    if kind != "plain" and not block.from_x:
        line.fork()
    line.layers(block.branch.layers)
    if kind == "identity":
        line.join(0)
    elif kind != "plain":
        line.projection(block.shortcut.layers)
    if block.after is not None:
        line.layers([block.after])
    return line


def block_kind(block: Block) -> str:
    """'identity', 'convolutional' (a projection shortcut), 'subsampled' (one without parameters) or 'plain'."""
    if block.shortcut is None:
        return "plain"
    if block.shortcut == Block.IDENTITY:
        return "identity"
    return "convolutional" if block.shortcut.params() else "subsampled"


class _Line:
    """A card in the making: parts one after the other, along the line of x."""

    def __init__(self, kind: str, name: str, detail: str):
        self.kind, self.name, self.detail = kind, name, detail
        self.x, self.parts, self.forked, self.joined = PAD, [], None, None
        self.wires: list[tuple] = []

    def part(self, kind: str, name: str, text: str) -> "_Line":
        thin = kind in ("norm", "relu")
        self.x += 0 if not self.parts else CLOSE if thin else GAP
        w = STRIP if thin else BAR
        self.parts.append(Part(kind, name, "" if thin else text, self.x, w))
        self.x += w
        return self

    def layers(self, layers) -> "_Line":
        for layer in layers:
            if (seen := layer.look()) is not None:
                self.part(seen[0], layer.name, seen[1])
        return self

    def before(self, *part: str) -> "_Line":
        """A bar in front of all others."""
        line = _Line(self.kind, self.name, self.detail).part(*part)
        for other in self.parts:
            line.part(other.kind, other.name, other.text)
        return line

    def fork(self) -> None:
        """Leave room for the shortcut to part from the line."""
        gap = GAP if self.parts else 0  # which the next bar will bring
        self.forked = self.x + gap
        self.x = self.forked + FORK - gap

    def join(self, room: float) -> None:
        """The add node, at least this far from the fork."""
        self.joined = max(self.x + GAP + ADD, self.forked + room)
        self.x = self.joined + ADD + 3

    def projection(self, layers) -> None:
        """The shortcut's layers as boxes on the arc, normalisations as thin ones, and the add node."""
        seen = [(layer.name, *layer.look()) for layer in layers]
        widths = [STRIP if kind == "norm" else text_width(text, SMALL) + 8 for _, kind, text in seen]
        whole = sum(widths) + CLOSE * (len(widths) - 1)
        self.join(whole + 4)
        x, y = (self.forked + self.joined - whole) / 2, ARCH - RISE - BOX / 2
        for (name, kind, text), w in zip(seen, widths, strict=True):
            self.parts.append(Part("projection" if kind == "conv" else kind, name, text, x, w, y, BOX))
            x += w + CLOSE

    def unit(self, least: float) -> Unit:
        """The finished card, its parts in the middle, at least this wide."""
        w = max(self.x + PAD, least, text_width(self.name, SMALL) + 8)
        shift = (w - self.x - PAD) / 2
        parts = tuple(replace(part, x=part.x + shift) for part in self.parts)
        fork, add = (None if at is None else at + shift for at in (self.forked, self.joined))
        wires = tuple(
            (0 if x1 == 0 else x1 + shift, y1, w if x2 is None else x2 + shift, y2, over)
            for x1, y1, x2, y2, over in self.wires
        )
        return Unit(self.kind, self.name, self.detail, w, parts, fork, add, wires)


def _shape(shape: tuple) -> str:
    return "×".join(map(str, shape))


def _width(units) -> float:
    return sum(unit.w for unit in units) + SPACE * (len(units) - 1)


def _broken(groups: list[list[Unit]], most: int) -> list[list[Unit]]:
    """A row for each stage; one of more than `most` blocks is broken evenly."""
    rows = []
    for group in groups:
        blocks = [unit for unit in group if unit.kind not in ("stem", "head")]
        ends = np.linspace(0, len(blocks), max(1, -(-len(blocks) // most)) + 1).round().astype(int)
        parts = [blocks[a:b] for a, b in pairwise(ends)]
        parts[0] = [unit for unit in group if unit.kind == "stem"] + parts[0]
        parts[-1] += [unit for unit in group if unit.kind == "head"]
        rows += parts
    return rows


def _page(rows: list[list[Unit]], subtitle: str):
    """(width, height, rows with their units in place, legend)."""
    width = 2 * MARGIN + max(*map(_width, rows), text_width(subtitle, TEXT))
    y, placed = TOP, []
    for row in rows:
        y += HEADING if any(unit.heading for unit in row) else 0
        x, cards = MARGIN, []
        for unit in row:
            cards.append(replace(unit, x=x, y=y))
            x += unit.w + SPACE
        placed.append(tuple(cards))
        y += CARD + GUTTER
    units = [unit for row in rows for unit in row]
    kinds = {unit.kind for unit in units} | {part.kind for unit in units for part in unit.parts}
    kinds |= {"add" for unit in units if unit.add is not None}
    legend, x = [], MARGIN
    for kind, text in LEGEND.items():
        w = 36 + text_width(text, SMALL) + 6
        if kind in kinds:
            if legend and x + w > width - MARGIN + 6:
                x, y = MARGIN, y + LINE
            legend.append(Entry(kind, text, x, y))
            x += w
    return width, y + LINE + 10, tuple(placed), tuple(legend)


def _describe(model: Network) -> str:
    """A sentence for each part of the row, for those who do not see the picture."""
    shape, sentences = model.input_shape, []
    for layer in model.layers:
        shape = layer.output_shape(shape)
        if layer.children():
            kinds = Counter(block_kind(m) for m in layer.modules() if isinstance(m, Block))
            blocks = " and ".join(f"{n} {kind} block{'s' if n > 1 else ''}" for kind, n in kinds.items())
            sentences.append(f"{layer.name}: {blocks}{', ' if blocks else ''}output {_shape(shape)}.")
    return " ".join(sentences)
