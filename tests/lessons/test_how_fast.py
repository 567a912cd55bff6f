"""Lesson 14's own parts: its rungs against the loops, its counts, what it leaves out, the C that it shows."""

import json
import re
from importlib.resources import files

import numpy as np
import pytest
from minires.lessons import harness, shown
from minires.lessons import lesson_14_how_fast as lesson
from minires.lessons.shown import CFunction

from minires import ops
from minires.errors import ConfigError
from minires.fast import cpu
from minires.ops import naive

NUMPY = [name for name in lesson.RUNGS if name not in lesson.COMPILED]
FEW = {"channels": 16, "size": 6, "images": 1, "rounds": 1, "seeds": 1}


def numbers(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape)


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize(("H", "W"), [(4, 4), (5, 9), (8, 6), (3, 3)])
@pytest.mark.parametrize("name", NUMPY)
def test_a_rung_is_the_loops(name, H, W, pad):
    x, w = numbers(2, H, W, 3), numbers(3, 3, 3, 2)
    assert lesson.RUNGS[name](x, w, pad=pad) == pytest.approx(naive.conv2d_forward(x, w, pad=pad), abs=1e-12)
    y = lesson.RUNGS[name](x.astype(np.float32), w.astype(np.float32), pad=pad)
    assert y.dtype == np.float32


@pytest.mark.parametrize("kernel", [(1, 1), (5, 3), (2, 4)])
def test_one_copy_a_row_is_for_every_kernel(kernel):
    x, w = numbers(2, 7, 6, 3), numbers(*kernel, 3, 2)
    assert lesson.by_rows(x, w, pad=2) == pytest.approx(naive.conv2d_forward(x, w, pad=2), abs=1e-12)


@pytest.mark.parametrize("points", [*lesson.POINTS.values(), lesson.USUAL, (0, 1, -1, 0.5)])
def test_the_matrices_make_a_correlation(points):
    A, G, BT = lesson.matrices(points)
    n, m = A.shape
    assert (len(points) + 1, m + 2) == (n, n)
    d, g = numbers(n), numbers(3)
    assert A.T @ ((G @ g) * (BT @ d)) == pytest.approx([d[i : i + 3] @ g for i in range(m)], abs=1e-12)


def test_at_the_usual_points_they_are_those_of_the_paper():
    """A. Lavin, S. Gray, arXiv:1509.09308, section 4.3."""
    A, G, BT = lesson.matrices(lesson.USUAL)
    rows = "4 0 -5 0 1 0, 0 -4 -4 1 1 0, 0 4 -4 -1 1 0, 0 -2 -1 2 1 0, 0 2 -1 -2 1 0, 0 4 0 -5 0 1"
    np.testing.assert_allclose(BT, [[*map(int, row.split())] for row in rows.split(", ")], atol=1e-12)
    rows = "6 0 0, -4 -4 -4, -4 4 -4, 1 2 4, 1 -2 4, 0 0 24"
    np.testing.assert_allclose(24 * G, [[*map(int, row.split())] for row in rows.split(", ")], atol=1e-12)
    rows = "1 1 1 1 1 0, 0 1 -1 2 -2 0, 0 1 1 4 4 0, 0 1 -1 8 -8 1"
    np.testing.assert_array_equal(A.T, [[*map(int, row.split())] for row in rows.split(", ")])


@pytest.mark.parametrize("side", [8, 7])  # tiles fit, and stick out
@pytest.mark.parametrize("name", NUMPY)
def test_the_count_is_the_formula(name, side):
    found = lesson.counted(name, numbers(2, side + 2, side + 2, 2), numbers(3, 3, 2, 3))
    formula = lesson.work(name, 2, side, side, 2, 3)
    if side % 4:  # the zeros beyond the map count no multiplications with a constant
        assert found.pop("constants") <= formula["constants"]
    assert found == {key: formula[key] for key in found}


def test_the_count_leaves_everything_as_it_was():
    before = ops.conv.im2col, lesson.both_ways
    with pytest.raises(ValueError, match="matmul"):  # weights for other channels
        lesson.counted("F(2x2)", numbers(1, 4, 4, 2), numbers(3, 3, 3, 3))
    assert (ops.conv.im2col, lesson.both_ways) == before


def test_the_formula_knows_the_price_of_winograd():
    direct, *tiles = (lesson.work(name, 1, 12, 12, 5, 7) for name in ("C, direct", "F(2x2)", "F(4x4)", "C, F(4x4)"))
    assert [direct["products"] / each["products"] for each in tiles] == [36 / 16, 144 / 36, 144 / 36]
    assert direct["products"] == 9 * 144 * 5 * 7


@pytest.fixture
def no_compiler(monkeypatch):
    """As installed where there was none."""
    monkeypatch.setattr(cpu.engine, "_kernels", None)
    monkeypatch.setattr(cpu._State, "enabled", None)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_rungs_in_c_are_left_out_in_a_line_and_the_rest_holds():
    result = json.loads(json.dumps(lesson.measure(**FEW)))
    claims = lesson.check(result)
    reasons = {claim.skipped for claim in claims if claim.skipped}
    assert reasons == {"the kernels in C are left out: NumPy: the kernels were not compiled"}
    assert {claim.text.partition(" C, ")[0] for claim in claims if claim.skipped} >= {"GFLOP/s of the sum:"}
    assert sum(claim.judged for claim in claims) == 10
    drawn = [text.get_text() for text in lesson.plot(result).axes[0].get_yticklabels()]
    assert drawn == [f"{i}  {name}" for i, name in enumerate(NUMPY, 1)]


def test_channels_that_make_no_vectors_leave_out_the_compiled_tiles_alone():
    if not cpu.enabled():
        pytest.skip(cpu.description())
    result = lesson.measure(**FEW | {"channels": 12})
    assert list(result["absent"]) == ["C, F(4x4)"]
    assert set(result["rates"]) == set(lesson.RUNGS) - {"C, F(4x4)"}
    assert sum(claim.judged for claim in lesson.check(result)) == 12  # what is judged is on a map of its own
    lesson.plot(result)


def test_nothing_is_asserted_about_seconds():
    result = lesson.measure(**FEW)
    for rates in (result["rates"], result["roof"]):
        rates.update(dict.fromkeys(rates, 1.0))
    seen = [claim for claim in lesson.check(result) if "FLOP/s" in claim.text or "GB/s" in claim.text]
    assert len(seen) == 2 + len(lesson.RUNGS)
    assert not any(claim.judged for claim in seen)


@pytest.mark.parametrize("knob", ["channels", "size", "images", "rounds", "seeds"])
def test_knobs_are_checked(knob):
    with pytest.raises(ConfigError, match=f"--{knob}: expected 1 or more, got 0"):
        lesson.measure(**{knob: 0})


# the C that is shown


def c_functions():
    return [item for item in lesson.LESSON.shows if isinstance(item, CFunction)]


@pytest.mark.parametrize("item", c_functions(), ids=shown.name)
def test_a_function_of_c_is_cut_whole_from_the_file_that_is_compiled(item):
    text = files("minires.fast.cpu").joinpath(item.file).read_text(encoding="utf-8")
    assert text.count(item.source) == 1
    assert item.source.count("{") == item.source.count("}")
    assert len(re.findall(r"^\}", item.source, re.MULTILINE)) == 1, "one function alone"
    assert (shown.short(item), shown.language(item)) == (item.name, "c")
    assert shown.name(item) == f"minires.fast.cpu/{item.file}: {item.name}"


def test_a_function_of_c_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"kernels\.c: expected one function nothing, found 0"):
        shown.source(CFunction("nothing"))


def test_the_source_of_every_rung_is_printed(capsys):
    assert lesson.main(["--source"]) == 0
    said = capsys.readouterr().out
    for words in ("def im2col", "def by_rows", "def winograd", "acc[j][0] += p[j][k] * v0;", "minires.ops.naive"):
        assert words in said
    assert harness.load(14) is lesson
