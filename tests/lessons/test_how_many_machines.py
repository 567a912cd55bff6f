"""Lesson 18's own parts: normalisation of several ranks, the noise scale from their gradients, and what is scaled."""

import numpy as np
import pytest
from minires.lessons import lesson_18_how_many_machines as lesson

from minires.errors import ConfigError
from minires.nn import BatchNorm

RANKS = 3


def normalised(norm, x, dy):
    """What a layer makes of x and dy in float64: y, dx, the gradients and the running statistics."""
    norm.astype(np.float64)
    norm.gamma.data[:], norm.beta.data[:] = (1.5, 0.5), (-1, 2)
    return [norm.forward(x), norm.backward(dy), norm.gamma.grad, norm.beta.grad, norm.mean.data, norm.var.data]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 6, 3, 3, 2))
    return x + np.arange(6).reshape(6, 1, 1, 1), dy  # shares with means of their own


def test_together_they_are_one_process(batch):
    shared, one = (normalised(n, *batch) for n in (lesson.Shared("bn", 2, RANKS, True), BatchNorm("bn", 2)))
    for mine, expected in zip(shared, one, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-13)


def test_alone_each_is_a_process_of_its_own(batch):
    y, dx, dgamma, dbeta, mean, var = normalised(lesson.Shared("bn", 2, RANKS, False), *batch)
    shares = zip(*(np.split(array, RANKS) for array in batch), strict=True)
    each = [normalised(BatchNorm("bn", 2), *share) for share in shares]
    np.testing.assert_allclose(y, np.concatenate([e[0] for e in each]))
    np.testing.assert_allclose(dx, np.concatenate([e[1] for e in each]))
    np.testing.assert_allclose([dgamma, dbeta], np.sum([e[2:4] for e in each], axis=0))
    np.testing.assert_allclose([mean, var], each[0][4:])


def test_a_network_alone_has_the_mean_of_its_ranks_gradients():
    rng, shape = np.random.default_rng(1), (8, 8, 3)
    x, labels = rng.standard_normal((8, *shape)), np.arange(8) % 3
    cut = lesson.network("resnet8", shape, 3, 0, 4, together=False).astype(np.float64)
    one = lesson.network("resnet8", shape, 3, 0).astype(np.float64)
    assert sum(isinstance(m, lesson.Shared) for m in cut.modules()) == 9
    ranks = [lesson.gradient(one, x[i : i + 2], labels[i : i + 2]) for i in range(0, 8, 2)]
    np.testing.assert_allclose(lesson.gradient(cut, x, labels), np.mean(ranks, axis=0), rtol=1e-9, atol=1e-12)


def test_the_noise_scale_is_had_from_gradients_alone():
    rng, G, share = np.random.default_rng(2), np.linspace(-1, 1, 50), 4
    spread = np.linspace(0.5, 3, 50)  # standard deviations of one image's gradient
    draws = [lesson.noise_scale(G + spread * rng.standard_normal((8, 50)) / np.sqrt(share), share) for _ in range(2000)]
    assert np.mean(draws, axis=0) == pytest.approx([np.sum(spread**2), G @ G], rel=0.03)


@pytest.mark.slow
def test_what_is_scaled():
    result = lesson.measure(count=64, images=4, epochs=2, seeds=1)
    (run,) = result["runs"]
    for runs in run["scaled"].values():
        assert runs[0] == run["scaled"]["same rate"][0]  # one rank has one rate
        assert [len(one["losses"]) for one in runs] == [2, 2, 2]
        assert all(np.isfinite(one[key]) for one in runs for key in ("loss", "running", "accuracy"))
    assert set(run["own"]) == {"2", "4"}
    assert set(run["high"]) == set(lesson.MORE)
    first = [run["high"][way]["losses"][0] for way in lesson.MORE]
    assert len(set(first)) == 1  # of one step, before any rate was used
    assert all(claim.skipped for claim in lesson.check(result)[1:])


def test_a_batch_that_the_images_do_not_fill_is_refused():
    with pytest.raises(ConfigError, match=r"--count: expected 512 images or more, a batch of 16 ranks, got 500"):
        lesson.measure(images=32, count=500)
