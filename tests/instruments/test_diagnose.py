"""From a symptom to its cause: some of the collection here, all of it by tests/campaigns/diagnosis.py."""

import json

import numpy as np
import pytest
from symptoms import HEALTHY, SYMPTOMS

import minires
from minires import cli
from minires.data import ArrayDataset, write_signs
from minires.errors import ConfigError
from minires.instruments.diagnose import training
from minires.instruments.diagnose.cause import LIKELY, POSSIBLE, SURE, Cause, ordered
from minires.instruments.diagnose.data import best_order, in_words
from minires.instruments.diagnose.picture import plot_diagnosis
from minires.instruments.style import picture_bytes

# a few of each area, cheap ones
CHOSEN = (
    "bytes of images in 0..1",
    "photos in two classes",
    "test labels from one",
    "Disc and disc",
    "layers in a dictionary",
    "images of another size",
    "batch statistics in use",
    "a thousand classes",
    "AdamW at 2",
)
SOUND = ("He's weights without normalisation", "a head of zeros", "group normalisation", "mildly unbalanced")


def built(name, folder):
    (symptom,) = (s for s in (*SYMPTOMS, *HEALTHY) if s.name == name)
    return symptom, minires.diagnose(**symptom.build(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_the_right_cause_comes_first(name, tmp_path):
    symptom, found = built(name, tmp_path)
    assert found.causes[0].name in symptom.causes
    assert not found.ok
    assert found.causes[0].fix
    assert found.causes[0].evidence


@pytest.mark.slow
@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_is_not_blamed(name, tmp_path):
    _, found = built(name, tmp_path)
    assert found.ok, found


@pytest.fixture(scope="module")
def hands():
    train, test = minires.make_signs(240, 60, size=16)
    turned = ArrayDataset(255 - test.images(range(60)), test.labels, test.classes, source="inverted")
    return train, test, turned


@pytest.mark.slow
def test_data_alone(hands):
    train, test, turned = hands
    assert minires.diagnose(train, test=test).causes == ()
    found = minires.diagnose(train, test=turned)
    assert [c.name for c in found.causes] == ["other images"]
    assert "are inverted" in found.causes[0].evidence
    assert found.as_dict()["causes"][0]["status"] == "fail"
    assert "other images" in str(found)
    assert len(picture_bytes(plot_diagnosis(found))) > 10_000


@pytest.mark.slow
def test_nothing_is_changed(hands):
    train, test, _ = hands
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6), train)
    before = {name: array.copy() for name, array in classifier.model.state().items()}
    minires.diagnose(classifier, data=train, test=test, recipe=minires.Recipe(optimizer="sgd", lr=30.0))
    for name, array in classifier.model.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_layer_by_itself():
    class Twice(minires.Conv2d):
        def backward(self, dy, need_dx=True):
            dx = super().backward(dy, need_dx)
            self.w.grad *= 2
            return dx

    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3))
    found = minires.diagnose(Twice("conv", 3, 4, 3, pad=1), inputs=x)
    assert [c.name for c in found.causes] == ["wrong backward"]
    assert "counted twice" in found.causes[0].evidence
    assert minires.diagnose(minires.Conv2d("conv", 3, 4, 3, pad=1), inputs=x).causes == ()


def test_more_threads_than_cores(hands, monkeypatch):
    train, _, _ = hands
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6), train)
    assert minires.diagnose(classifier).ok
    monkeypatch.setattr(training, "thread_count", lambda: 1000)
    (cause,) = minires.diagnose(classifier).causes
    assert (cause.name, cause.status) == ("too many threads", "fail")
    assert "1000 threads on" in cause.evidence


def test_what_is_neither(tmp_path):
    with pytest.raises(ConfigError, match="got int"):
        minires.diagnose(3)
    with pytest.raises(ConfigError, match="no such file"):
        minires.diagnose(tmp_path / "nothing")


def test_order_of_causes():
    def cause(name, area, level):
        return Cause(name, area, level, "", "")

    given = [
        cause("rate too large", "optimisation", SURE),
        cause("leak", "data", POSSIBLE),
        cause("shuffled labels", "data", SURE),
        cause("overfitting", "optimisation", LIKELY),
        cause("leak", "data", LIKELY),
    ]
    found = ordered(given)
    assert [c.name for c in found] == ["shuffled labels", "rate too large", "leak", "overfitting"]
    assert [c.status for c in found] == ["fail"] * 4
    assert given[1].status == "warn"


def test_labels_in_another_order():
    names = tuple(map(str, range(12)))
    text = sorted(range(12), key=lambda k: names[k])
    said = np.repeat(np.arange(12), 5)
    order, accuracy = best_order(said, np.argsort(text)[said], 12)
    assert accuracy == 1
    assert "as text" in in_words(order, names)
    assert in_words(np.array([1, 0, 2]), ("a", "b", "c")) == "'a' stands for 'b', 'b' stands for 'a'"


@pytest.mark.slow
def test_the_command(hands, tmp_path, monkeypatch, capsys):
    train, _, turned = hands
    monkeypatch.chdir(tmp_path)
    write_signs("hands.h5", train, turned)
    assert cli.main(["diagnose", "hands.h5"]) == 1
    said = capsys.readouterr().out
    assert "1. other images (shown)" in said
    assert "picture: diagnosis.png" in said
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000
    assert cli.main(["diagnose", "resnet8", "--data", "hands.h5", "--json", "--lr", "50", "--optimizer", "sgd"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [c["name"] for c in found["causes"]] == ["other images", "rate too large"]
    assert cli.main(["diagnose", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_run_that_does_not_learn_says_so(hands, tmp_path, capsys):
    train, test, _ = hands
    rng = np.random.default_rng(0)
    noise = ArrayDataset(rng.integers(0, 256, (240, 16, 16, 3), np.uint8), train.labels, train.classes)
    write_signs(tmp_path / "noise.h5", noise, test)
    options = [
        "--arch",
        "resnet8",
        "--epochs",
        "3",
        "--optimizer",
        "sgd",
        "--lr",
        "1e-7",
        "--out",
        str(tmp_path / "run"),
    ]
    assert cli.main(["train", "--data", str(tmp_path / "noise.h5"), *options]) == 0
    said = capsys.readouterr().out
    assert said.count("it does not learn") == 1
    assert f"minires diagnose {tmp_path / 'run'}" in said
