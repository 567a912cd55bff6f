"""Lesson 17's own parts: the similarity of features, and a network with another's statistics."""

import numpy as np
import pytest
from minires.lessons import lesson_17_what_finetuning_changes as lesson

from minires.nn import resnet
from minires.train import Classifier, Preprocess

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6)) + 5  # not centred


def test_cka_knows_no_rotation_scale_or_shift_and_is_small_for_strangers():
    turned = X @ np.linalg.qr(RNG.standard_normal((6, 6)))[0]
    assert lesson.cka(X, 3 * turned + 7) == pytest.approx(1)
    assert lesson.cka(X, X * [9, 1, 1, 1, 1, 1]) < 0.9
    assert lesson.cka(X, RNG.standard_normal((40, 6)) - 5) < 0.5


def classifier(seed):
    model = resnet("resnet8", (8, 8, 3), 3, widths=(8, 8, 8), seed=seed)
    return Classifier(model, ("a", "b", "c"), Preprocess())


def test_features_are_what_leaves_each_part_in_evaluation_mode():
    one, images = classifier(0), RNG.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    found = lesson._features(one, images)
    assert list(found) == [name for name in lesson._parts(one.model) if name != "head"]
    last = list(found.values())[-1].reshape(4, 2, 2, 8).mean(axis=(1, 2))
    one.model.eval()
    logits = one.model.forward(one.preprocess(images))
    np.testing.assert_allclose(one.model.layers[-1].forward(last), logits, rtol=1e-4, atol=1e-5)


def test_a_network_with_the_statistics_of_another_keeps_its_weights():
    one, other = classifier(0), classifier(1)
    for buffer in other.model.buffers():
        buffer.data += 1
    mixed = lesson.with_statistics(one, other)
    for ours, theirs in zip(mixed.model.buffers(), other.model.buffers(), strict=True):
        assert np.array_equal(ours.data, theirs.data)
    for ours, theirs in zip(mixed.model.params(), one.model.params(), strict=True):
        assert np.array_equal(ours.data, theirs.data)
    assert not np.array_equal(one.model.buffers()[0].data, mixed.model.buffers()[0].data)
