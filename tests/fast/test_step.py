"""A step of training in each of its ways: the same numbers, settings obeyed, no update from a broken loss."""

import numpy as np
import pytest
from networks import NETWORKS, batch, network

from minires.fast.step import make_step
from minires.optim import SGD

ARCH, SHAPE, OPTIONS = NETWORKS[0]
WAYS = {"by_layers": True}, {}, {"recompute": True}, {"max_workspace": 1}


def stepped(way, dtype=np.float64, **settings):
    """What two steps tell, and the network after them."""
    model = network(ARCH, SHAPE, OPTIONS, dtype).train()
    with make_step(model, SGD(model.params(), weight_decay=1e-3, clip_norm=0.5), **way, **settings) as step:
        told = [[float(number) for number in step(*batch(SHAPE, dtype=dtype), 0.1)] for _ in range(2)]
    return told, model.state()


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_all_ways_take_the_same_steps(way, smoothing):
    told, state = stepped(way, label_smoothing=smoothing)
    expected_told, expected = stepped({"by_layers": True}, label_smoothing=smoothing)
    np.testing.assert_allclose(told, expected_told, rtol=1e-9)
    for name, array in expected.items():
        np.testing.assert_allclose(state[name], array, rtol=0, atol=1e-9 * max(1, np.abs(array).max()), err_msg=name)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_smoothing_changes_what_is_learnt(way):
    told, _ = stepped(way, label_smoothing=0.3)
    assert told[0][0] != pytest.approx(stepped(way)[0][0][0], rel=1e-3)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("way", WAYS[:2], ids=str)
@pytest.mark.parametrize("broken", [np.inf, np.nan])
def test_a_loss_that_is_not_finite_ends_the_step_before_the_update(way, broken, monkeypatch):
    model = network(ARCH, SHAPE, OPTIONS).train()
    before = [p.data.copy() for p in model.params()]
    forward = "minires.ops.softmax_cross_entropy_forward"
    monkeypatch.setattr(forward, lambda logits, *_, **__: (np.float64(broken), np.full(logits.shape, 0.25)))
    with make_step(model, SGD(model.params(), weight_decay=1e-3), **way) as step:
        loss, _, norm = step(*batch(SHAPE), 0.1)
    np.testing.assert_equal((float(loss), float(norm)), (broken, np.nan))
    for p, array in zip(model.params(), before, strict=True):
        np.testing.assert_array_equal(p.data, array)
