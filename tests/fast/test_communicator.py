"""Ranks that share each batch train the network that one would train alone; fits side by side leave one another be."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import threads
from stripes import RECIPE, TEST, TRAIN, assert_same, classifier, weights

from minires.data import ArrayDataset
from minires.errors import DisagreementError
from minires.fast import communicator
from minires.nn import BatchNorm, Conv2d, Module
from minires.train import fit, load_classifier

LONG = replace(RECIPE, epochs=2, batch_size=16, clip_norm=1.0, label_smoothing=0.1)


def wide(**options):
    c = classifier(**options)
    c.model.astype(np.float64)
    return c


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("options", [{}, {"preact": True}, {"norm": False}], ids=str)
def test_ranks_train_the_network_of_one(options, optimizer):
    """Three ranks, whose shares of a batch of 16 and of the last one of 8 differ in size."""
    alone, recipe = wide(**options), replace(LONG, optimizer=optimizer, lr=1e-3)
    expected = fit(alone, TRAIN, TEST, recipe)

    def one(rank):
        c = wide(**options)
        progress = fit(c, TRAIN, TEST, recipe)
        return c.model.state(), progress

    for state, progress in threads.run(3, one):
        for name, value in alone.model.state().items():
            assert np.abs(state[name] - value).max() <= 1e-9 * max(1e-3, np.abs(value).max()), name
        for ours, theirs in zip(progress.history, expected.history, strict=True):
            for key in ("train_loss", "train_accuracy", "grad_norm", "test_loss", "test_accuracy"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-10), key


def test_the_same_ranks_give_the_same_bits():
    def one(rank):
        c = classifier()
        fit(c, TRAIN, None, LONG)
        return weights(c)

    first, second = threads.run(2, one), threads.run(2, one)
    for state in (*first, *second):
        assert_same(state, first[0])


def test_one_of_the_ranks_saves(tmp_path):
    def one(rank):
        c = classifier()
        fit(c, TRAIN, TEST, replace(RECIPE, epochs=1), out=tmp_path)
        return weights(c)

    states = threads.run(2, one)
    assert_same(weights(load_classifier(tmp_path)), states[1])


def test_normalisation_over_ranks_is_that_of_the_batch():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((7, 3, 4, 5)) + 3, rng.standard_normal((7, 3, 4, 5))

    def one(_):
        norm, here = BatchNorm("norm", 5, unbiased=True).astype(np.float64), communicator.share(len(x))
        y = norm.forward(x[here])
        dx = norm.backward(dy[here])
        sums = [communicator.current().all_reduce(p.grad.copy()) for p in norm.params()]
        return y, dx, [b.data for b in norm.buffers()], sums

    whole = one(0)
    parts = threads.run(3, one)
    for i in (0, 1):
        np.testing.assert_allclose(np.concatenate([p[i] for p in parts]), whole[i], rtol=0, atol=1e-13)
    for part in parts:
        for ours, theirs in zip((*part[2], *part[3]), (*whole[2], *whole[3]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_rank_that_fails_ends_the_others():
    def one(rank):
        c = classifier()
        before, calls = c.preprocess, []

        def preprocess(*batch):
            calls.append(batch)
            if rank == 1 and len(calls) > 3:
                raise ArithmeticError("of rank 1")
            return before(*batch)

        c.preprocess = preprocess
        fit(c, TRAIN, None, LONG)

    with pytest.raises(ArithmeticError, match="of rank 1"):
        threads.run(2, one)


def other_weights(c, recipe):
    c.model.blocks()[1].branch.layers[0].w.data += 1
    return c, TRAIN, recipe


def other_labels(c, recipe):
    return c, ArrayDataset(TRAIN.images(range(72)), 1 - TRAIN.labels, TRAIN.classes), recipe


DIFFERENCES = {
    "checksum of the weights": other_weights,
    "training data": other_labels,
    r"recipe \(batch_size\)": lambda c, recipe: (c, TRAIN, replace(recipe, batch_size=8)),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_ranks_that_do_not_mean_the_same_training_are_told_before_it(what):
    def one(rank):
        c, train, recipe = (DIFFERENCES[what] if rank == 1 else lambda c, recipe: (c, TRAIN, recipe))(
            classifier(), LONG
        )
        fit(c, train, None, recipe)

    with pytest.raises(DisagreementError, match=f"rank 1 on this host has another {what} than rank 0"):
        threads.run(3, one)


class Centred(Module):
    """Subtracts the mean of the batch."""

    def forward(self, x):
        return x - x.mean(axis=0) if self.training else x

    def backward(self, dy, need_dx=True):
        return dy - dy.mean(axis=0)

    def output_shape(self, shape):
        return shape


class Halved(Centred):
    """Treats images one by one."""

    def forward(self, x):
        return x / 2

    def backward(self, dy, need_dx=True):
        return dy / 2


@pytest.mark.parametrize("kind", [Centred, Halved])
def test_a_layer_of_ones_own_that_mixes_images_is_named(kind):
    """Each rank would centre its own share, in silence."""

    def one(rank):
        c = classifier()
        c.model.layers.insert(4, kind("mine"))
        fit(c, TRAIN, None, LONG)
        return weights(c)

    if kind is Centred:
        with pytest.raises(DisagreementError, match="mine: what it gives for an image depends on the others"):
            threads.run(2, one)
    else:
        first, second = threads.run(2, one)
        assert_same(first, second)


def test_shares_cover_the_batch():
    def one(rank):
        return [communicator.share(count) for count in (0, 1, 2, 7, 32)]

    for shares in zip(*threads.run(3, one), strict=True):
        numbers = [n for s in shares for n in range(s.start, s.stop)]
        assert numbers == list(range(len(numbers)))
        assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


def test_alone_everything_stays_as_it_is():
    ranks, array = communicator.current(), np.arange(3.0)
    assert (ranks.rank, ranks.size) == (0, 1)
    assert ranks.all_reduce(array) is array is ranks.broadcast(array)
    assert np.array_equal(ranks.all_gather(array), array[None])
    ranks.barrier()


def test_fits_side_by_side_are_those_one_after_the_other():
    """In threads of the user's own, each with its own network, data order and optimiser."""

    def one(seed):
        c = classifier(seed)
        fit(c, TRAIN, TEST, replace(RECIPE, seed=seed, optimizer=["sgd", "adam", "adamw"][seed]))
        return weights(c)

    expected = [one(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for ours, theirs in zip(pool.map(one, range(3)), expected, strict=True):
            assert_same(ours, theirs)


def test_an_error_names_what_it_names_alone():
    def one(rank):
        Conv2d("conv", 3, 4, 3).forward(np.zeros((2, 8, 8, 5), np.float32))

    with pytest.raises(ValueError, match="conv: expected"):
        threads.run(2, one)
