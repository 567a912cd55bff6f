"""Lesson 16's own parts: the rule for Adam's updates on noise."""

import numpy as np
import pytest
from minires.lessons import lesson_16_warm_up as lesson

from minires.nn import Param
from minires.optim import Adam


def test_adams_updates_on_noise_follow_the_rule():
    rng, weights = np.random.default_rng(0), Param("w", np.zeros(20000))
    optimizer, expected = Adam([weights], betas=(0.9, 0.9999)), lesson.noise(30)
    signs = [1, 5, 30]  # gradients of one size: v is that of each, whatever beta2
    for t in range(1, 31):
        optimizer.grads[:] = rng.choice([-1.0, 1.0], weights.data.size)
        before = weights.data.copy()
        optimizer.step(0.01)
        if t in signs:
            moved = np.sqrt(np.mean((weights.data - before) ** 2)) / 0.01
            assert moved == pytest.approx(expected[t - 1], rel=0.03)
    assert expected[0] == pytest.approx(1)


@pytest.mark.slow
def test_the_first_step_of_a_warm_up_of_two_is_half_as_long():
    result = lesson.measure(arch="resnet8", steps=4, warmup=2, seeds=1)
    (run,) = result["runs"]
    for case in run["cases"].values():
        for way in case.values():
            assert len(way["losses"]) == len(way["updates"]) == 4
            assert np.all(np.isfinite(way["losses"]))
    cold = run["cases"]["Adam 0.03, BN"]["cold"]["updates"][0]
    assert cold == pytest.approx(2 * run["cases"]["Adam 0.03, BN"]["warm"]["updates"][0], rel=0.01)
