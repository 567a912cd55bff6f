"""The drawn network: what is on the page is what is in the model, nothing overlaps, the file is sound."""

import xml.etree.ElementTree as ET
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from minires import cli, resnet
from minires.instruments.diagram import ADD, ARCH, CARD, FLOW, HEADING, SMALL, TALL, TEXT, TITLE, diagram, text_width
from minires.instruments.diagram.drawn import to_figure
from minires.instruments.diagram.svg import to_svg
from minires.nn import ARCHITECTURES, Block, Conv2d

SVG = "{http://www.w3.org/2000/svg}"
KINDS = {"residual": {}, "plain": {"skip": False}, "preact": {"preact": True}, "no-bn": {"norm": False}}
KINDS |= {"option A": {"shortcut": "A"}}


def small(arch, **options):
    """The architecture with all its blocks and few channels."""
    row = ARCHITECTURES[arch]
    least = max(1, row.groups // row.inner, row.stem_width // 2)
    return resnet(arch, (64, 64, 3), 6, widths=[least * w for w in (2, 3, 4, 5)][: len(row.repeats)], **options)


def groups(root, *classes):
    """The <g> elements that have all these classes."""
    return [g for g in root.iter(f"{SVG}g") if set(classes) <= set(g.get("class").split())]


def overlap(a, b):
    """Whether two boxes (left, top, right, bottom) share more than a line."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_card_for_each_block_with_its_shortcut(arch, kind):
    model = small(arch, **KINDS[kind])
    root = ET.fromstring(to_svg(diagram(model)))
    fitted = "subsampled" if kind == "option A" else "convolutional"
    shortcuts = Counter(
        "plain" if b.shortcut is None else "identity" if b.shortcut == Block.IDENTITY else fitted
        for b in model.blocks()
    )
    for name in ("identity", "convolutional", "subsampled", "plain"):
        cards = groups(root, "unit", name)
        assert len(cards) == shortcuts[name]
        assert len(groups(root, "legend", name)) == bool(shortcuts[name])
        for card in cards:
            drawn = Counter(e.get("class") for e in card)
            assert drawn["skip"] == drawn["node"] == drawn["dot"] == (name != "plain")
            assert drawn["projection"] == (name == "convolutional")
    names = [card.find(f"{SVG}title").text.split(":")[0] for card in groups(root, "unit")]
    assert names == ["stem", *(block.name for block in model.blocks()), "head"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_figure_shows_what_the_svg_says(kind):
    svg = to_svg(diagram(small("resnet50", **KINDS[kind])))
    root = ET.fromstring(svg)
    ax = to_figure(svg).axes[0]
    assert [t.get_text() for t in ax.texts] == [e.text for e in root.iter(f"{SVG}text")]
    shapes = [e for e in root.iter() if e.tag.removeprefix(SVG) in ("rect", "circle", "path")]
    assert len(ax.patches) == len(shapes) > 100
    edge = np.array([float(root.get("width")), float(root.get("height"))])
    for patch in ax.patches:
        box = patch.get_extents().transformed(ax.transData.inverted())
        assert (box.extents.reshape(2, 2) >= -0.01).all()
        assert (box.extents.reshape(2, 2) <= edge + 0.01).all()


@pytest.mark.parametrize("arch", ["resnet8", "resnet50", "resnet152"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_drawn_in_order(arch, kind):
    model = small(arch, variant="v1.5", **KINDS[kind])
    drawn = {part.name for unit in diagram(model).units for part in unit.parts}
    leaves = {m.name for m in model.modules() if not m.children()}
    undrawn = {m.name for m in model.modules() if m.name.endswith(".add")}
    assert drawn - {"image"} == leaves - undrawn
    unit = diagram(model).units[2]
    block = next(b for b in model.blocks() if b.name == unit.name)
    before = [] if block.before is None else block.before.layers
    after = [] if block.after is None else [block.after]
    order = [m.name for m in [*before, *block.branch.layers, *after]]
    on_line = [part for part in unit.parts if part.h == TALL]
    assert [part.name for part in sorted(on_line, key=lambda part: part.x)] == order


def test_texts_tell_kernels_channels_strides_and_shapes():
    units = {unit.name: unit for unit in diagram(resnet("resnet18", (64, 48, 3), 6)).units}
    texts = {part.name: part.text for unit in units.values() for part in unit.parts}
    assert texts["image"] == "64×48×3"
    assert texts["conv1"] == "7×7, 64, /2"
    assert texts["pool1"] == "max 3×3, /2"
    assert texts["res3a_branch2a"] == "3×3, 128, /2"
    assert texts["res3a_branch2b"] == "3×3, 128"
    assert texts["res3a_branch1"] == "1×1, 128, /2"
    assert texts["avg_pool"] == "avg 2×2, /2"
    assert texts["fc6"] == "fc, 6"
    assert units["block3a"].heading == "stage3 · 2 blocks · 8×6×128"
    assert units["block3a"].detail == "block3a: convolutional block, 15×11×64 to 8×6×128"
    assert units["block3b"].detail == "block3b: identity block, 8×6×128 to 8×6×128"


@pytest.mark.parametrize(("variant", "strided"), [("course", "1×1, 128, /2"), ("v1.5", "3×3, 128, /2")])
def test_the_variants_stride_shows(variant, strided):
    unit = diagram(resnet("resnet50", variant=variant)).units[4]
    assert [part.text for part in unit.parts if "/2" in part.text] == [strided, "1×1, 512, /2"]


CASES = [(small, arch, kind) for arch in ARCHITECTURES for kind in KINDS]
CASES += [(resnet, arch, kind) for arch in ("resnet18", "resnet50", "resnet50d") for kind in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "arch", "kind"), CASES)
def test_nothing_overlaps_and_all_is_on_the_page(build, arch, kind):
    page = diagram(build(arch, **KINDS[kind]))
    boxes = []
    for unit in page.units:
        boxes.append((unit.x, unit.y, unit.x + unit.w, unit.y + CARD))
        if unit.heading:
            right = unit.x + text_width(unit.heading, TEXT)
            boxes.append((unit.x, unit.y - HEADING, right, unit.y))
        inside = [(p.x, p.y, p.x + p.w, p.y + p.h) for p in unit.parts]
        if unit.add is not None:
            inside.append((unit.add - ADD, FLOW - ADD, unit.add + ADD, FLOW + ADD))
            legs = [(x - 1.2, ARCH, x + 1.2, FLOW - ADD) for x in (unit.fork, unit.add)]
            assert not any(overlap(leg, bar) for leg in legs for bar in inside)
            assert unit.fork < unit.add
        for box in inside:
            assert box[0] >= 4
            assert box[1] >= 4
            assert box[2] <= unit.w - 4
            assert box[3] <= ARCH + TALL
        assert not any(overlap(a, b) for a, b in combinations(inside, 2)), unit.name
        assert text_width(unit.name, SMALL) <= unit.w
        for part in unit.parts:
            assert text_width(part.text, SMALL) <= max(part.w, part.h)
    for entry in page.legend:
        boxes.append((entry.x, entry.y, entry.x + 36 + text_width(entry.text, SMALL), entry.y + 20))
    boxes.append((34, 30, 34 + text_width(page.title, TITLE), 51))
    boxes.append((34, 56, 34 + text_width(page.subtitle, TEXT), 68))
    array = np.array(boxes)
    left, top, right, bottom = array.T
    shared = (left[:, None] < right) & (left < right[:, None]) & (top[:, None] < bottom) & (top < bottom[:, None])
    assert shared.sum() == len(boxes)  # each with itself alone
    assert left.min() >= 20
    assert right.max() <= page.width
    assert bottom.max() <= page.height


def test_rows_break_at_stages_and_long_stages_evenly():
    page = diagram(small("resnet152"))
    counts = [sum(unit.kind in ("identity", "convolutional") for unit in row) for row in page.rows]
    assert sum(counts) == 50
    for row in page.rows:
        assert len({unit.name[5] for unit in row if unit.name.startswith("block")}) == 1
    long = counts[2:-1]
    assert sum(long) == 36
    assert max(long) - min(long) <= 1
    assert 1 < page.width / page.height < 2.2
    assert len(diagram(small("resnet8")).rows) == 1


def test_the_file_speaks_to_screen_readers_and_to_dark_pages():
    model = resnet("resnet8", (32, 32, 3), 10)
    root = ET.fromstring(to_svg(diagram(model)))
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), desc.get("id")]
    assert title.text == "resnet8 (v1.5)"
    assert "stage3: 1 convolutional block, output 16×16×32." in desc.text
    assert "78,714 parameters" in desc.text
    style = root.find(f"{SVG}style").text
    assert "prefers-color-scheme: dark" in style
    classes = {name for e in root.iter() for name in e.get("class", "").split()}
    for name in ("page", "ink", "muted", "flow", "node", "plus", "dot", "identity", "convolutional", "stem", "head"):
        assert name in classes
        assert f".{name}" in style
    for e in root.iter():  # colours stand on the shapes, for viewers without style sheets
        if e.tag in (f"{SVG}rect", f"{SVG}text", f"{SVG}path", f"{SVG}circle"):
            assert e.get("fill") or e.get("stroke"), e.attrib


def test_names_of_classes_are_escaped():
    model = resnet("resnet8", (16, 16, 3), 3, widths=(2, 3, 4))
    next(m for m in model.modules() if isinstance(m, Conv2d)).name = 'a<b & "c"'
    root = ET.fromstring(to_svg(diagram(model)))
    assert 'a<b & "c"' in {e.text for e in root.iter(f"{SVG}title")}


def test_the_command(tmp_path, capsys):
    out = tmp_path / "net.svg"
    options = ["--input", "32x32x3", "--classes", "10", "--no-skip", "--out", str(out)]
    assert cli.main(["diagram", "resnet20", *options]) == 0
    assert str(out) in capsys.readouterr().out
    root = ET.parse(out).getroot()
    assert len(groups(root, "unit", "plain")) == 9
    assert cli.main(["diagram", "resnet20", "--out", str(tmp_path / "absent" / "net.svg")]) == 2
    assert "create the folder first" in capsys.readouterr().err
