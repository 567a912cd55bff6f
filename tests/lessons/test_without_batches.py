"""Lesson 15's own parts: what stands in the place of batch normalisation."""

import numpy as np
import pytest
from minires.lessons import lesson_15_without_batches as lesson

from minires.nn import BatchNorm, GroupNorm

SHAPE = (8, 8, 3)


def made(kind, groups=4):
    return lesson.network(kind, "resnet8", SHAPE, 3, groups, seed=0)


def images(count):
    return np.random.default_rng(1).standard_normal((count, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("layer", [lesson.Scale("scale", 0.7), lesson.Shift("shift", 2)])
def test_the_gradients_are_those_of_differences(layer):
    rng, epsilon = np.random.default_rng(0), 1e-6
    layer.astype(np.float64)
    x, dy = rng.standard_normal((2, 3, 4, 4, 2))
    (param,) = layer.params()
    layer.forward(x)
    dx = layer.backward(dy)
    step = rng.standard_normal(x.shape)
    along = [np.vdot(dy, layer.forward(x + way * epsilon * step)) for way in (1, -1)]
    assert np.vdot(dx, step) == pytest.approx((along[0] - along[1]) / (2 * epsilon))
    for i in range(param.data.size):
        start, seen = param.data[i], []
        for way in (1, -1):
            param.data[i] = start + way * epsilon
            seen.append(np.vdot(dy, layer.forward(x)))
        param.data[i] = start
        assert param.grad[i] == pytest.approx((seen[0] - seen[1]) / (2 * epsilon))


def test_all_kinds_have_the_kernels_of_one_network():
    kernels = {kind: [p.data for p in made(kind).params() if p.decay] for kind in lesson.KINDS}
    for kind, found in kernels.items():
        assert [np.array_equal(a, b) for a, b in zip(found, kernels["BN"], strict=True)] == [True] * len(found), kind
    assert any(isinstance(m, BatchNorm) for m in made("BN").modules())
    for kind in ("GN", "SkipInit", "none"):
        assert not any(isinstance(m, BatchNorm) for m in made(kind).modules())
    assert sum(isinstance(m, GroupNorm) for m in made("GN").modules()) == 9


def test_skipinit_begins_without_its_branches():
    model, x = made("SkipInit"), images(2)
    before = model.forward(x)
    for block in model.blocks():
        for p in block.branch.params():
            p.data *= 3 if p.decay else 1
    assert np.array_equal(model.forward(x), before)
    model.blocks()[0].branch.layers[-1].factor.data[:] = 1
    assert not np.array_equal(model.forward(x), before)


def test_neighbours_tell_batch_normalisation_something_and_the_others_nothing():
    x, other = images(4), images(9)[5:]
    for kind, groups in (*((kind, 4) for kind in lesson.KINDS), ("GN", 1), ("GN", 8)):
        model = made(kind, groups)
        alone, beside = (model.forward(np.concatenate([x[:1], rest]))[0] for rest in (x[1:], other[1:]))
        assert np.array_equal(alone, beside) == (kind != "BN"), kind
