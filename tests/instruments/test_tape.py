"""The tape: numbers worked out by walking through the network by hand, sums to the bit, nothing left behind."""

import math

import numpy as np
import pytest
from small_network import LABELS, batch, small

from minires import ops
from minires.errors import ShapeError
from minires.instruments.step.tape import BINS, CHANNELS, REACH, SIDE, record, summarise
from minires.nn import Block, Module


@pytest.fixture(scope="module")
def tape():
    return record(small(), batch(), LABELS)


def by_hand(model, x, labels):
    """(direction, name) -> (inputs, outputs), every layer called by its own name, without a probe."""
    seen = {}

    def forward(layer, *inputs):
        y = layer.forward(*inputs)
        seen["forward", layer.name] = inputs, (y,)
        return y

    def backward(layer, dy):
        dx = layer.backward(dy)
        seen["backward", layer.name] = (dy,), dx if isinstance(dx, tuple) else (dx,)
        return dx

    def through(layers, value, step):
        for layer in layers:
            value = step(layer, value)
        return value

    stem, *stages, pool, dense = model.layers
    x = through(stem.layers, x, forward)
    blocks = [block for stage in stages for block in stage.layers]
    for block in blocks:
        shortcut = x if block.shortcut == Block.IDENTITY else through(block.shortcut.layers, x, forward)
        x = forward(block.after, forward(block.add, through(block.branch.layers, x, forward), shortcut))
    logits = through([pool, dense], x, forward)
    _, probs = ops.softmax_cross_entropy_forward(logits, labels)
    dlogits = ops.softmax_cross_entropy_backward(probs, labels)
    seen["forward", "loss"], seen["backward", "loss"] = ((logits,), (probs,)), ((probs,), (dlogits,))
    d = through([dense, pool], dlogits, backward)
    for block in reversed(blocks):
        dbranch, dshortcut = backward(block.add, backward(block.after, d))
        via_branch = through(block.branch.layers[::-1], dbranch, backward)
        via_shortcut = dshortcut
        if block.shortcut != Block.IDENTITY:
            via_shortcut = through(block.shortcut.layers[::-1], dshortcut, backward)
        d = via_branch + via_shortcut
        seen["backward", f"{block.name}.fork"] = (via_branch, via_shortcut), (d,)
    through(stem.layers[::-1], d, backward)
    return seen


def assert_describes(tensor, array):
    """The tensor's numbers are those of the array."""
    assert tensor.shape == array.shape
    assert tensor.rms == pytest.approx(math.sqrt(np.mean(array**2)), rel=1e-12)
    assert tensor.mean == pytest.approx(array.mean(), abs=1e-12)
    assert (tensor.low, tensor.high) == (array.min(), array.max())
    assert tensor.zeros == np.count_nonzero(array == 0) / array.size


def test_every_step_equals_a_walk_by_hand(tape):
    expected = by_hand(small(), batch(), LABELS)
    assert {(s.direction, s.name) for s in tape.steps} == set(expected)
    assert len(tape.steps) == len(expected)
    for step in tape.steps:
        for positions, arrays in zip((step.inputs, step.outputs), expected[step.direction, step.name], strict=True):
            for position, array in zip(positions.values(), arrays, strict=True):
                assert_describes(tape.tensors[position], array)


def test_order_and_places(tape):
    names = [s.name for s in tape.steps if s.direction == "forward"]
    back = [s.name for s in tape.steps if s.direction == "backward"]
    assert names[0] == back[-1] == "conv1"
    assert names[-1] == back[0] == "loss"
    assert [s.direction for s in tape.steps] == ["forward"] * len(names) + ["backward"] * len(back)
    steps = {s.name: s for s in tape.steps}
    assert (steps["layer2.0.conv1"].stage, steps["layer2.0.conv1"].block) == ("stage3", "layer2.0")
    assert steps["layer2.0.conv1"].path == "branch"
    assert steps["layer2.0.downsample.0"].path == "shortcut"
    assert steps["layer2.0.add"].path == "main"
    assert steps["fc"].stage == "head"
    assert back.index("layer1.0.fork") > max(i for i, name in enumerate(back) if name.startswith("layer1.0.conv"))


def test_the_add_node_hands_the_same_array_to_both_paths(tape):
    for step in tape.steps:
        if step.kind == "Add" and step.direction == "backward":
            (dy,) = step.inputs.values()
            assert step.outputs == {"dF": dy, "dshortcut": dy}


def test_the_fork_sums_to_the_bit(tape):
    expected = by_hand(small(), batch(), LABELS)
    forks = [s for s in tape.steps if s.kind == "Fork"]
    assert len(forks) == 3
    for step in forks:
        (a, b), (total,) = expected["backward", step.name]
        assert step.exact is True
        assert step.cosine == pytest.approx(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
        after = tape.steps[tape.steps.index(step) + 1]
        assert after.inputs["dy"] == step.outputs["dx"]  # the next layer received that sum: one tensor, not two
        assert tape.tensors[step.outputs["dx"]].high == total.max()


def test_an_averaging_block_is_found_out(monkeypatch):
    true = Block.backward
    monkeypatch.setattr(Block, "backward", lambda self, dy, need_dx=True: true(self, dy, need_dx) / 2)
    steps = record(small(), batch(), LABELS).steps
    assert [s.exact for s in steps if s.kind == "Fork"] == [False] * 3


def test_what_is_kept_and_let_go(tape):
    steps = {(s.direction, s.name): s for s in tape.steps}
    conv, norm = steps["forward", "layer1.0.conv1"], steps["forward", "layer1.0.bn1"]
    map_bytes = 4 * 12 * 12 * 4 * 8
    assert [(k.name, k.shape, k.nbytes) for k in conv.kept] == [("x", (4, 12, 12, 4), map_bytes)]
    assert [(k.name, k.nbytes) for k in norm.kept] == [("x", map_bytes), ("mean", 32), ("rstd", 32)]
    assert steps["backward", "layer1.0.bn1"].kept == norm.kept
    assert norm.held_bytes - conv.held_bytes == map_bytes + 64
    # the convolution keeps the array that the ReLU before it kept already: it costs nothing more
    assert conv.held_bytes == steps["forward", "conv1_relu"].held_bytes
    held = [s.held_bytes for s in tape.steps]
    peak = held.index(max(held))
    assert held[: peak + 1] == sorted(held[: peak + 1])
    assert held[peak:] == sorted(held[peak:], reverse=True)
    assert held[-1] == 0


def test_parameters_and_settings(tape):
    model = small()
    logits = model.forward(batch())
    _, probs = ops.softmax_cross_entropy_forward(logits, LABELS)
    model.backward(ops.softmax_cross_entropy_backward(probs, LABELS))
    params = {p.name: p for p in model.params()}
    steps = {(s.direction, s.name): s for s in tape.steps}
    back = steps["backward", "layer2.0.conv1"]
    (w,) = back.params
    assert w.shape == (3, 3, 4, 6)
    assert w.rms == pytest.approx(np.sqrt(np.mean(params["layer2.0.conv1.w"].data ** 2)))
    assert w.grad_rms == pytest.approx(np.sqrt(np.mean(params["layer2.0.conv1.w"].grad ** 2)))
    assert steps["forward", "layer2.0.conv1"].params[0].grad_rms is None
    assert back.settings == {"stride": (2, 2), "pad": 1}


@pytest.mark.parametrize(
    "options",
    [{"skip": False}, {"preact": True}, {"norm": False}, {"dropout": 0.5}, {"variant": "course"}, {"init": "glorot"}],
    ids=lambda o: next(iter(o)),
)
def test_every_variant_can_be_taped(options):
    tape = record(small(**options), batch(), LABELS)
    assert all(s.maths.formula and s.maths.says for s in tape.steps)
    assert all(s.exact is True for s in tape.steps if s.kind == "Fork")
    assert sum(s.kind == "Fork" for s in tape.steps) == (0 if options == {"skip": False} else 3)
    assert tape.steps[-1].held_bytes == 0
    assert tape.sources()["conv2d_backward"].startswith("def conv2d_backward(")
    assert all(tape.sentence(i) for i in range(len(tape.steps)))


def test_every_kind_of_layer_has_its_maths():
    from minires import nn

    kinds = {k for k in vars(nn).values() if isinstance(k, type) and issubclass(k, Module)}
    assert {k for k in kinds if k.maths is None} == {Module} | {k for k in kinds if issubclass(k, nn.Composite)}


class Halve(Module):
    """y = x / 2."""

    def forward(self, x):
        return x / 2

    def backward(self, dy, need_dx=True):
        return dy / 2

    def output_shape(self, shape):
        return shape


def test_a_layer_of_ones_own_shows_its_own_source():
    model = small()
    model.layers[0].layers.append(Halve("halve"))
    tape = record(model, batch(), LABELS)
    step = tape.steps[tape.find("halve")]
    assert step.maths.says == "y = x / 2."
    assert step.maths.sources() == {"Halve.forward": "def forward(self, x):\n    return x / 2\n"}
    out, into = (tape.tensors[i].rms for i in (step.outputs["y"], step.inputs["x"]))
    assert out == into / 2


def test_the_model_is_left_as_it_was():
    model = small(dropout=0.5)
    model.eval()
    before = {name: array.copy() for name, array in model.state().items()}
    record(model, batch(), LABELS)
    with pytest.raises(ShapeError):
        record(model, np.zeros((4, 12, 12, 5)), LABELS)
    assert all((array == before[name]).all() for name, array in model.state().items())
    assert all(p.grad is None for p in model.params())
    assert not any({"forward", "backward"} & set(vars(m)) for m in model.modules())
    assert all(m._slot is None and not m.training for m in model.modules())


def test_tiles_and_histogram_of_known_numbers():
    x = np.zeros((2, 2, 2, 1))
    x[0, :, :, 0] = [[-1.0, 0.0], [0.5, 1.0]]
    x[1, 0, 0, 0] = 1.0
    t = summarise(x)
    assert t.limit == 1.0  # the largest, for 3 rms of the four that are not 0 is more
    assert t.tiles.tolist() == [[[1, 128], [192, 255]]]
    assert t.histogram.sum() == 4
    assert (t.histogram[0], t.histogram[-1]) == (1, 2)
    assert (t.zeros, t.every) == (0.5, 1)


def test_far_values_are_clipped_and_counted_in_the_end_bins():
    x = np.random.default_rng(0).standard_normal((1, 20, 20, 1))
    x[0, 0, 0, 0] = 1000.0
    t = summarise(x)
    assert t.limit == pytest.approx(REACH * math.sqrt(np.mean(x**2)))
    assert t.tiles[0, 0, 0] == 255
    assert t.histogram.sum() == 400
    assert t.histogram[-1] == 1
    assert t.high == 1000.0


def test_what_is_not_finite_is_shown_and_said():
    x = np.ones((1, 2, 2, 1), np.float32)
    x[0, 0, 0, 0], x[0, 0, 1, 0] = np.nan, np.inf
    t = summarise(x)
    assert not t.finite
    assert t.tiles.tolist() == [[[0, 0], [255, 255]]]
    assert t.rms == 1.0
    assert t.histogram.sum() == 2
    assert not summarise(x * np.nan).finite


def test_tiles_of_large_maps_and_of_vectors():
    large = summarise(np.ones((1, 2 * SIDE + 1, 30, 20)))
    assert large.every == 3
    assert large.tiles.shape == (CHANNELS, 27, 10)
    assert summarise(np.ones((2, 6))).tiles.shape == (1, 1, 6)
    assert summarise(np.ones((2, 2048))).tiles.shape == (1, 32, 64)
    assert summarise(np.ones((2, 1, 1, 64))).tiles.shape == (1, 8, 8)
    assert len(summarise(np.zeros((1, 3))).histogram) == BINS
