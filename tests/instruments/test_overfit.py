"""One batch by heart: sound networks manage it, every planted fault gets its name, the network is left as it was."""

import json

import numpy as np
import planted
import pytest
from data_helpers import random_set, write_image

from minires import cli, nn, resnet
from minires.data import ArrayDataset
from minires.errors import ConfigError
from minires.instruments.overfit import overfit
from minires.train import Classifier, Preprocess, Recipe

CLASSES = tuple("abcd")
TRAIN = random_set(24, classes=CLASSES)
SHAPE = TRAIN.shape
QUICK = {"images": 6, "steps": 60}


def classifier(arch="resnet8", **options):
    options = {"widths": (6, 8, 12)} | options
    return Classifier(resnet(arch, SHAPE, 4, **options), CLASSES, Preprocess())


def names(result):
    return {f.name for f in result.findings if f.status == "fail"}


SOUND = {
    "resnet8": {},
    "resnet20": {"arch": "resnet20"},
    "plain": {"skip": False},
    "preact": {"preact": True},
    "dropout": {"dropout": 0.5},
    "course": {"variant": "course"},
    "no BN": {"norm": False},
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", pytest.param("adamw", marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", SOUND.values(), ids=SOUND)
def test_sound_networks_learn_it(options, optimizer):
    lr = 0.05 if optimizer == "sgd" else 0.01
    result = overfit(classifier(**options), TRAIN, Recipe(optimizer=optimizer, lr=lr), images=8)
    assert result.ok, str(result)
    assert result.losses[-1] < 0.01 <= min(result.losses[:-1])
    assert result.findings == ()
    assert "learned 8 images by heart" in str(result)


# what each bug in planted.py is called by the instrument that finds it
BUGS = {
    "dead skip": "dead skip",
    "averaged": "averaged at the add",
    "averaging add": "averaged at the add",
    "branch only": "one path at the add",
    "no mean term": "mean term",
    "no variance term": "variance term",
    "constant statistics": "mean and variance terms",
    "same seed": "same seed",
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_named_even_where_the_batch_was_learned(bug):
    one = classifier()
    planted.plant(one.model, bug)
    result = overfit(one, TRAIN, images=4, steps=20)
    assert names(result) == {BUGS[bug]}
    assert not result.ok


LAYERS = {
    "kernel order": planted.FlippedKernel,
    "mean for sum": planted.MeanBias,
}


@pytest.mark.parametrize("cause", LAYERS)
def test_a_layer_with_a_wrong_gradient_is_named(cause):
    one = classifier(variant="course", norm=False)
    for module in one.model.modules():
        if type(module) is nn.Conv2d and (cause != "kernel order" or module.w.data.shape[0] == 3):
            module.__class__ = LAYERS[cause]
    assert cause in names(overfit(one, TRAIN, **QUICK))


def test_dead_relus():
    one = classifier()
    norm = next(m for m in one.model.modules() if isinstance(m, nn.BatchNorm))
    norm.beta.data[...] = -20
    result = overfit(one, TRAIN, **QUICK)
    assert names(result) <= {"dead ReLUs", "no use"}
    assert "100.0% of its outputs are 0" in result.findings[0].detail
    assert result.findings[0].detail.startswith("conv1_relu")


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "name"), [(1e-4, "rate too small"), (30.0, "rate too large")])
def test_a_rate_far_off(lr, name):
    result = overfit(classifier(), TRAIN, Recipe(optimizer="sgd", lr=lr), **QUICK)
    assert not result.fitted
    assert result.findings[0].name == name
    assert names(result) <= {name, "dead ReLUs"}


def data(images, labels):
    return ArrayDataset(images, labels, CLASSES, source="here")


@pytest.mark.slow
def test_what_is_wrong_with_the_batch():
    images = TRAIN.images(np.arange(8))
    for dataset, name in (
        (data(images, np.full(8, 2)), "constant labels"),
        (data(np.repeat(images[:1], 8, axis=0), np.arange(8) % 4), "constant images"),
        (data(np.repeat(images[:4], 2, axis=0), np.arange(8) % 4), "contradicting labels"),
    ):
        result = overfit(classifier(), dataset, **QUICK)
        assert names(result) == {name}
        assert not result.ok


@pytest.mark.slow
def test_the_network_is_left_as_it_was():
    one = classifier(dropout=0.3)
    one.model.train()
    before = {name: array.copy() for name, array in one.model.state().items()}
    first, second = (overfit(one, TRAIN, **QUICK) for _ in range(2))
    assert first == second
    assert all(np.array_equal(before[name], array) for name, array in one.model.state().items())
    assert not any(m.frozen for m in one.model.modules())


def test_the_batch_holds_every_class():
    labels = np.sort(np.arange(24) % 4)
    result = overfit(classifier(), data(TRAIN.images(np.arange(24)), labels), images=4, steps=1)
    assert "constant labels" not in names(result)
    assert result.images == 4


@pytest.mark.parametrize("wrong", [{"images": 0}, {"steps": 0}, {"target": 0.0}, {"images": 1}])
def test_numbers_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}|two images"):
        overfit(classifier(), TRAIN, **wrong)


def test_the_command(tmp_path, capsys):
    for i in range(12):
        write_image(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", i)
    line = ["overfit", "--data", str(tmp_path / "photos"), *["--arch", "resnet8", "--size", "16", "--images", "6"]]
    assert cli.main(line) == 0
    assert "learned 6 images by heart" in capsys.readouterr().out
    assert cli.main([*line, "--steps", "3", "--optimizer", "sgd", "--lr", "1e-9", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["steps"]) == (False, 3)
    assert told["findings"][0]["name"] == "not learned"
