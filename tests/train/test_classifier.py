"""Classifiers in use: the loss where probabilities saturate, and numbers that are not finite."""

import numpy as np
import pytest
from stripes import TEST, classifier

from minires import ops
from minires.errors import DivergedError
from minires.instruments.maps import gradcam, occlusion
from minires.train import evaluate

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
