"""Running statistics that are estimated anew at the end of a training, with the last weights."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from stripes import TEST, TRAIN, StopAfter, classifier

from minires.data.batches import Batches
from minires.train import Recipe, evaluate, fit, resume
from minires.train.precise_bn import norms, recalibrate

RECIPE = Recipe(epochs=2, batch_size=16)


def statistics(trained):
    return {b.name: b.data.copy() for b in trained.model.buffers()}


def test_they_are_those_of_the_last_weights_over_augmented_images_of_training():
    precise, usual = classifier(), classifier()
    fit(precise, TRAIN, None, RECIPE)
    fit(usual, TRAIN, None, replace(RECIPE, precise_bn=False))
    for a, b in zip(precise.model.params(), usual.model.params(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    by_hand = copy.deepcopy(usual.model)
    batches = Batches(TRAIN, RECIPE.batch_size, seed=RECIPE.seed, augment=RECIPE.augment)
    recalibrate(by_hand, (usual.preprocess(images) for images, _, _ in batches.epoch(RECIPE.epochs)))
    before = statistics(usual)
    for buffer in by_hand.buffers():
        np.testing.assert_array_equal(statistics(precise)[buffer.name], buffer.data)
        assert np.abs(buffer.data - before[buffer.name]).max() > 1e-4


def test_what_was_tested_and_saved_has_them(tmp_path):
    trained = classifier()
    progress = fit(trained, TRAIN, TEST, RECIPE, out=tmp_path)
    assert progress.history[-1]["test_loss"] == evaluate(trained, TEST).loss
    again, _ = resume(tmp_path, TRAIN, TEST)
    for name, value in statistics(trained).items():
        np.testing.assert_array_equal(statistics(again)[name], value)


@pytest.mark.parametrize("before", [1, 0])
def test_a_stop_at_the_last_steps_changes_nothing(tmp_path, before):
    whole = classifier()
    fit(whole, TRAIN, TEST, RECIPE)
    steps = RECIPE.epochs * -(-len(TRAIN) // RECIPE.batch_size)
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=StopAfter(steps - before))
    again, _ = resume(tmp_path, TRAIN, TEST)
    for name, value in (whole.model.state()).items():
        np.testing.assert_array_equal(again.model.state()[name], value)


def test_what_is_frozen_stays_as_it_is():
    trained = classifier()
    before = statistics(trained)
    fit(trained, TRAIN, None, replace(RECIPE, freeze={"stem": None}))
    after = statistics(trained)
    assert {name for name in before if np.array_equal(before[name], after[name])} == {"bn1.mean", "bn1.var"}


def test_a_network_without_normalisation_has_none_to_estimate():
    trained = classifier(norm=False)
    assert norms(trained.model) == []
    fit(trained, TRAIN, None, replace(RECIPE, epochs=1, lr=1e-4))
