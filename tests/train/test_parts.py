"""A network that its configuration alone does not build is never rebuilt as another one in silence."""

import numpy as np
import pytest
from data_helpers import assert_one_line
from stripes import RECIPE, TEST, TRAIN, StopAfter, assert_same, classifier, weights

from minires import nn
from minires.errors import CheckpointError
from minires.train import fit, load_classifier, parts, resume, save_checkpoint


class LeakyReLU(nn.Module):
    """y = max(x, slope x)."""

    def __init__(self, name, slope=0.2):
        super().__init__(name)
        self.slope = slope

    def forward(self, x):
        self.save(x)
        return np.where(x > 0, x, np.float32(self.slope) * x)

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        return np.where(x > 0, dy, np.float32(self.slope) * dy)

    def output_shape(self, shape):
        return shape


def leaky(slope=0.2, seed=0):
    c = classifier(seed)
    for block in c.model.blocks():
        block.after = LeakyReLU(block.after.name, slope)
    return c


def refused(path, *words, model=None):
    with pytest.raises(CheckpointError) as error:
        load_classifier(path, model=model)
    assert_one_line(error, path, *words)


def test_a_network_with_layers_of_ones_own(tmp_path):
    c = leaky()
    fit(c, TRAIN, TEST, RECIPE, out=tmp_path)
    first = c.model.blocks()[0].after.name
    refused(tmp_path, first, "LeakyReLU", "minires.ReLU", "load_classifier", "model=")
    again = load_classifier(tmp_path, model=leaky(seed=1).model)
    assert_same(weights(c), weights(again))
    images = TEST.images(np.arange(8))
    np.testing.assert_array_equal(c.probs(images), again.probs(images))
    refused(tmp_path, "had slope 0.2, here it is 0.3", model=leaky(0.3).model)
    refused(tmp_path, "LeakyReLU", "ReLU", model=classifier().model)


def test_its_training_goes_on_as_if_never_stopped(tmp_path):
    whole = leaky()
    fit(whole, TRAIN, TEST, RECIPE)
    with pytest.raises(KeyboardInterrupt):
        fit(leaky(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=StopAfter(7))
    with pytest.raises(CheckpointError, match="LeakyReLU"):
        resume(tmp_path, TRAIN, TEST)
    again, _ = resume(tmp_path, TRAIN, TEST, model=leaky(seed=1).model)
    assert_same(weights(whole), weights(again))


def forward_of_ones_own(self, x):
    return nn.Conv2d.usual(self, x)


def test_a_function_put_in_a_layer_s_place(tmp_path, monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "usual", nn.Conv2d.forward, raising=False)
    with monkeypatch.context() as changed:
        changed.setattr(nn.Conv2d, "forward", forward_of_ones_own)
        save_checkpoint(tmp_path / "model.h5", classifier())
        load_classifier(tmp_path)
    refused(tmp_path, "conv1", "forward_of_ones_own")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m.blocks()[0], "shortcut", None), "had shortcut None, here it is identity"),
        (lambda m: setattr(m.blocks()[0].branch.layers[1], "epsilon", 0.1), "had epsilon 0.1, here it is 1e-05"),
        (lambda m: m.layers.insert(1, LeakyReLU("extra")), "extra"),
        (lambda m: setattr(m.layers[-1], "forward", forward_of_ones_own), "forward_of_ones_own"),
    ],
)
def test_a_network_that_was_changed_after_it_was_built(tmp_path, change, words):
    c = classifier()
    change(c.model)
    save_checkpoint(tmp_path / "model.h5", c)
    refused(tmp_path / "model.h5", words)


def test_modes_make_no_other_network(tmp_path):
    c = classifier(dropout=0.1)
    c.model.eval()
    for m in c.model.modules():
        if isinstance(m, nn.BatchNorm):
            m.update_running_stats = False
    save_checkpoint(tmp_path / "model.h5", c)
    load_classifier(tmp_path)


@pytest.mark.parametrize("arch", ["resnet8", "resnet50"])
@pytest.mark.parametrize("variant", ["course", "v1", "v1.5"])
@pytest.mark.parametrize("options", [{}, {"skip": False}, {"preact": True}, {"norm": False}])
def test_every_network_of_the_family_is_what_its_configuration_builds(arch, variant, options):
    size = (64, 64, 3) if arch == "resnet50" else (16, 16, 3)
    widths = (4, 4, 4, 4) if arch == "resnet50" else (4, 4, 4)
    model = nn.resnet(arch, size, 3, variant=variant, widths=widths, **options)
    assert parts.difference(parts.describe(model), nn.ResNet(model.config)) is None
