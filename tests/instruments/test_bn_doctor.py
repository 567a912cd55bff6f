"""The BN doctor: numbers by other means, causes by their names, and a network mended."""

import copy
import json
from argparse import Namespace

import numpy as np
import pytest

from minires import resnet
from minires.commands import checks
from minires.data import write_signs
from minires.data.dataset import ArrayDataset
from minires.errors import ConfigError, DataError, DivergedError
from minires.instruments.bn_doctor import bn_doctor, input_drift, inputs, recalibrate
from minires.nn import BatchNorm, Conv2d, GlobalAvgPool2d, Sequential
from minires.train.checkpoint import save_checkpoint
from minires.train.classifier import Classifier, Preprocess, evaluate
from minires.train.loop import Recipe, fit

RNG = np.random.default_rng(0)


def colours(count, seed=0):
    """Images of three colours in noise, which a few steps of training tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 120, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 60
    return ArrayDataset(images.astype(np.uint8), labels, ("red", "green", "blue"), source="colours")


TRAIN, TEST = colours(96), colours(60, seed=1)


def trained(momentum):
    """A network after 24 steps, with this momentum of the running statistics."""
    model = resnet("resnet8", (8, 8, 3), 3, widths=(6, 8, 10), bn_momentum=momentum)
    classifier = Classifier.for_data(model, TRAIN)
    fit(classifier, TRAIN, recipe=Recipe(epochs=8, batch_size=32, lr=0.01, augment=None, precise_bn=False))
    return classifier


@pytest.fixture(scope="module")
def slow():
    """Momentum .99 after 24 updates: .99^24 = 79 % of the initial statistics remain."""
    return trained(0.99)


@pytest.fixture(scope="module")
def healthy():
    return trained(0.7)


def norms(model):
    return [m for m in model.modules() if isinstance(m, BatchNorm)]


def test_few_updates_are_named_with_the_share_that_remains(slow):
    found = bn_doctor(slow, TEST, train=TRAIN, updates=24)
    assert found.finding.name == "few updates"
    assert "0.99^24 = 78.6% of the initial statistics" in found.finding.detail
    assert "recalibrate" in found.finding.fix
    assert found.remains == pytest.approx(0.99**24)
    assert found.results["running"]["accuracy"] == evaluate(slow, TEST).accuracy
    assert found.results["re-estimated"]["accuracy"] > 0.9 > found.results["running"]["accuracy"] + 0.2
    assert found.results["batch"]["accuracy"] > 0.9
    assert not found.ok


def test_a_healthy_network_is_left_in_peace(healthy):
    found = bn_doctor(healthy, TEST, train=TRAIN, updates=24)
    assert found.ok
    assert found.finding.status == "ok"
    assert max(layer.off for layer in found.layers) < 0.5


def test_the_model_is_left_as_it_was(slow):
    before = {name: a.copy() for name, a in slow.model.state().items()}
    modes = [(m.training, m.save_for_backward) for m in slow.model.modules()]
    bn_doctor(slow, TEST)
    assert all(np.array_equal(slow.model.state()[name], a) for name, a in before.items())
    assert modes == [(m.training, m.save_for_backward) for m in slow.model.modules()]
    assert not any("forward" in vars(m) for m in slow.model.modules())


def test_recalibration_mends_the_network(slow):
    mended = copy.deepcopy(slow)
    assert recalibrate(mended.model, inputs(mended, TRAIN)) is mended.model
    assert evaluate(mended, TEST).accuracy > 0.9
    assert bn_doctor(mended, TEST, train=TRAIN).ok
    weights = zip(mended.model.params(), slow.model.params(), strict=True)
    assert all(np.array_equal(a.data, b.data) for a, b in weights)


@pytest.mark.parametrize("unbiased", [False, True])
def test_recalibration_pools_exactly(unbiased):
    """One layer, batches of unequal size: the statistics of all values at once."""
    norm = BatchNorm("bn", 3, unbiased=unbiased)
    model = Sequential(norm, GlobalAvgPool2d("pool"), name="net").astype(np.float64)
    x = 5 + 3 * RNG.standard_normal((10, 4, 4, 3))
    recalibrate(model, [x[:2], x[2:7], x[7:]])
    np.testing.assert_allclose(norm.mean.data, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(norm.var.data, x.var((0, 1, 2), ddof=int(unbiased)), rtol=1e-12)


def test_statistics_that_were_never_loaded(slow):
    classifier = copy.deepcopy(slow)
    for norm in norms(classifier.model):
        norm.mean.data[...], norm.var.data[...] = 0, 1
    assert bn_doctor(classifier, TEST, train=TRAIN, updates=10000).finding.name == "no statistics"


def test_statistics_of_other_weights_and_the_layer_that_is_furthest_off(healthy):
    classifier = copy.deepcopy(healthy)
    target = norms(classifier.model)[-1]
    target.var.data *= 400
    target.mean.data += 3 * np.sqrt(target.var.data)
    found = bn_doctor(classifier, TEST, train=TRAIN, updates=10000)
    assert found.finding.name == "stale statistics"
    assert "do not belong to these weights" in found.finding.detail
    assert max(found.layers, key=lambda layer: layer.off).name == target.name
    (layer,) = (layer for layer in found.layers if layer.name == target.name)
    assert layer.var_off == pytest.approx(np.log(400), rel=0.2)


def test_images_unlike_those_of_training(healthy):
    pixels = TEST.images(np.arange(60))
    dark = ArrayDataset(pixels // 8, TEST.labels, TEST.classes, source="dark")
    found = bn_doctor(healthy, dark, train=TRAIN)
    assert found.finding.name == "other images"
    assert "unlike those of training" in found.finding.detail


def test_the_diagnosis_is_plain_data_and_a_table(slow):
    found = bn_doctor(slow, TEST)
    assert json.loads(json.dumps(found.as_dict()))["ok"] is False
    assert found.table().row_count == 3 + 1 + 5


def test_errors():
    model = resnet("resnet8", (8, 8, 3), 3, widths=(2, 3, 4), norm=False)
    with pytest.raises(ConfigError, match="resnet8 has no batch normalisation"):
        bn_doctor(Classifier.for_data(model, TRAIN), TEST)
    with pytest.raises(ConfigError, match="saw no batch"):
        recalibrate(resnet("resnet8", (8, 8, 3), 3, widths=(2, 3, 4)), [])
    with pytest.raises(DataError, match="expected"):
        input_drift(Classifier(model, TRAIN.classes, Preprocess()), np.zeros((8, 8, 3)))


IMAGENET = (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]))
FED = {
    "ImageNet's mean and std": lambda u: (u / 255 - IMAGENET[0]) / IMAGENET[1],
    "pixels in 0..255, not scaled": lambda u: u,
    "x / 127.5 - 1": lambda u: u / 127.5 - 1,
    "ImageNet's mean subtracted, BGR": lambda u: u[..., ::-1] - np.array([103.939, 116.779, 123.68]),
}


@pytest.mark.parametrize("fed", FED)
def test_training_on_x_over_255_and_predicting_with_another_preprocessing(fed):
    """The published notebooks' mistake: found from the images alone."""
    classifier = Classifier(Sequential(Conv2d("c", 3, 3, 1)), TRAIN.classes, Preprocess((0.0,) * 3, (1.0,) * 3))
    pixels = TEST.images(np.arange(8)).astype(np.float32)
    finding = input_drift(classifier, FED[fed](pixels).astype(np.float32))
    assert finding.status == "fail"
    assert f"the images come as {fed}" in finding.detail
    assert "was not trained on" in finding.detail
    assert input_drift(classifier, pixels / 255).status == "ok"


def test_the_stored_preprocessing_is_recognised(healthy):
    pixels = TEST.images(np.arange(8))
    assert "as in training" in input_drift(healthy, healthy.preprocess(pixels)).detail
    finding = input_drift(healthy, pixels.astype(np.float32) / 255)
    assert "the images come as x / 255" in finding.detail


def test_images_without_whole_pixels_are_judged_by_their_range(healthy):
    smooth = healthy.preprocess(RNG.random((4, 8, 8, 3)) * 200)
    assert input_drift(healthy, smooth).status == "ok"
    assert "lie outside" in input_drift(healthy, smooth * 1000 + 0.123).detail


def test_an_image_of_one_value_says_nothing_about_its_preprocessing(healthy):
    """Zeros are whole numbers under any scale: no reason to accuse somebody of another one."""
    assert input_drift(healthy, np.zeros((2, 8, 8, 3), np.float32)).status == "ok"


def test_the_command(slow, tmp_path, capsys):
    write_signs(tmp_path, TRAIN, TEST)
    save_checkpoint(tmp_path / "model.h5", slow, training={"steps": 24})
    options = {"size": None, "split_seed": 0, "test_fraction": 0.15, "device": "cpu"}
    options |= {"run_folder": str(tmp_path), "data": str(tmp_path), "json": True}
    mended = tmp_path / "mended.h5"
    assert checks.bn_doctor(Namespace(**options, recalibrate=str(mended))) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["finding"]["name"] == "few updates"
    assert found["updates"] == 24
    assert checks.bn_doctor(Namespace(**options | {"run_folder": str(mended), "json": False}, recalibrate=None)) == 0
    assert "they do no harm" in capsys.readouterr().out.replace("\n", " ")


def test_weights_that_are_not_finite_do_harm(healthy):
    broken = copy.deepcopy(healthy)
    broken.model.params()[2].data[0] = np.nan
    found = bn_doctor(broken, TEST, train=TRAIN, updates=24)
    assert not found.ok
    assert found.finding.name == "weights not finite"
    assert broken.model.params()[2].name in found.finding.detail
    assert json.loads(json.dumps(found.as_dict()))["ok"] is False


def test_a_forward_that_is_not_finite_does_harm(healthy):
    class Overflows(BatchNorm):
        def forward(self, x):
            return super().forward(x) * np.float32(np.inf)

    broken = copy.deepcopy(healthy)
    norms(broken.model)[-1].__class__ = Overflows
    with pytest.raises(DivergedError, match="not finite"):
        bn_doctor(broken, TEST, train=TRAIN)


def test_the_advice_is_not_what_the_run_already_has(slow):
    """A momentum of 0.9 that was not given the steps: the same again would not help."""
    classifier = copy.deepcopy(slow)
    for norm in norms(classifier.model):
        norm.momentum = 0.9
    found = bn_doctor(classifier, TEST, train=TRAIN, updates=10)
    assert found.finding.name == "few updates"
    assert "--bn-momentum 0.63" in found.finding.fix  # 0.63^10 = 1 %
    assert "--bn-momentum 0.9" in bn_doctor(slow, TEST, train=TRAIN, updates=60).finding.fix
    assert "minires bn-doctor RUN --recalibrate OUT.h5" in found.finding.fix
