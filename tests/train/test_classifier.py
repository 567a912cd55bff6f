"""Classifiers in use: the loss where probabilities saturate, and numbers that are not finite."""

import numpy as np
import pytest
from stripes import TEST, classifier

from minires import ops
from minires.data import ArrayDataset
from minires.errors import DivergedError
from minires.instruments.maps import gradcam, occlusion
from minires.train import Preprocess, evaluate

IMAGES = TEST.images(np.arange(3))


def head(c):
    return c.model.params()[-2]


def test_the_loss_of_sure_mistakes_is_that_of_torch():
    """Logits hundreds apart: the probability of the right class is 0 in float32."""
    torch = pytest.importorskip("torch")
    c = classifier()
    head(c).data *= 5000
    result, logits = evaluate(c, TEST), c.logits(TEST.images(np.arange(20)))
    right = torch.nn.functional.cross_entropy(torch.tensor(logits.astype("f8")), torch.tensor(TEST.labels)).item()
    assert result.probs[np.arange(20), TEST.labels].min() == 0
    assert result.loss == pytest.approx(right, rel=1e-6)
    assert result.loss > 100
    assert result.probs.dtype == np.float32
    np.testing.assert_allclose(result.probs, ops.softmax_cross_entropy_forward(logits, TEST.labels)[1], atol=1e-6)
    np.testing.assert_array_equal(result.probs, c.probs(TEST.images(np.arange(20))))


def test_the_probabilities_of_many_images_are_computed_a_part_at_a_time(monkeypatch):
    c = classifier()
    whole = evaluate(c, TEST)
    monkeypatch.setattr("minires.train.classifier._FEW", 7)
    parts = evaluate(c, TEST)
    np.testing.assert_array_equal(parts.probs, whole.probs)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)


@pytest.mark.parametrize(("count", "size"), [(600, (5, 3)), (3, (64, 64)), (1, (1, 1))])
def test_statistics_are_those_of_all_pixels(count, size):
    images = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    images[0] = 255
    found = Preprocess.measure(ArrayDataset(images, np.zeros(count, int), ["a"]))
    pixels = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.std, np.maximum(pixels.std(axis=0), 1e-4), atol=1e-6)


def test_statistics_of_large_bright_images_do_not_overflow():
    """256 images at a time, each sum below 2^32."""
    found = Preprocess.measure(ArrayDataset(np.full((300, 40, 40, 3), 255, np.uint8), np.zeros(300, int), ["a"]))
    assert found.mean == (1, 1, 1)


def spoil_weight(c):
    head(c).data[0, 0] = np.nan
    return r"the parameter fc\.w"


def spoil_variance(c):
    c.model.buffers()[1].data[0] = -1
    return r"the output of bn1 \(BatchNorm\)"


def overflow(c):
    c.model.params()[-1].data[...] = 3e38
    head(c).data[...] = 3e38
    return r"the output of fc \(Dense\)"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("by_layers", [False, True])
@pytest.mark.parametrize("spoil", [spoil_weight, spoil_variance, overflow])
def test_predictions_that_are_not_finite_are_refused(spoil, by_layers):
    c = classifier()
    message = f"the network predicts numbers that are not finite, first in {spoil(c)}: give another checkpoint"
    modes = [m.training for m in c.model.modules()]
    with pytest.raises(DivergedError, match=message):
        evaluate(c, TEST, by_layers=by_layers)
    for predict in (c.probs, c.logits, lambda images: gradcam(c, images), lambda images: occlusion(c, images[0])):
        with pytest.raises(DivergedError, match=message):
            predict(IMAGES)
    assert [m.training for m in c.model.modules()] == modes
