"""The training loop: it learns, it resumes bit for bit, it saves whole files, it stops with a reason."""

import json
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from data_helpers import assert_one_line
from stripes import RECIPE, TEST, TRAIN, StopAfter, assert_same, classifier, stripes, weights

from minires import resnet
from minires.data import ArrayDataset
from minires.errors import CheckpointError, ConfigError, DataError, DivergedError
from minires.fast import cpu
from minires.seal import seal
from minires.train import (
    Classifier,
    Preprocess,
    Recipe,
    evaluate,
    fit,
    load_classifier,
    loop,
    resume,
    save_checkpoint,
)
from minires.train.checkpoint import load_checkpoint
from minires.train.progress import Reporter


def test_it_learns(tmp_path):
    c = classifier()
    progress = fit(c, TRAIN, TEST, Recipe(epochs=8, batch_size=16, lr=0.01, augment=None), out=tmp_path)
    result = evaluate(c, TEST)
    assert result.accuracy >= 0.9
    assert progress.history[-1]["test_accuracy"] == result.accuracy
    assert progress.history[-1]["train_loss"] < progress.history[0]["train_loss"]
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows == progress.history


def test_a_run_says_how_its_steps_were_computed():
    assert fit(classifier(), TRAIN, None, replace(RECIPE, epochs=1)).how == f"fused, {cpu.description()}"
    assert (
        fit(classifier(), TRAIN, None, replace(RECIPE, epochs=1), by_layers=True).how
        == f"layer by layer (asked for), {cpu.description()}"
    )
    with pytest.raises(TypeError, match="fussed"):
        fit(classifier(), TRAIN, None, RECIPE, fussed=False)


def test_the_same_seed_gives_the_same_bits():
    first, second, other = classifier(), classifier(), classifier()
    fit(first, TRAIN, None, RECIPE)
    fit(second, TRAIN, None, RECIPE)
    assert_same(weights(first), weights(second))
    fit(other, TRAIN, None, replace(RECIPE, seed=1))
    assert any(not np.array_equal(a, b) for a, b in zip(weights(first).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stop", [2, 5, 8])  # in the first epoch, at its end, in the second
def test_stop_and_resume_equals_the_uninterrupted_run_bit_for_bit(tmp_path, stop, optimizer):
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01)
    whole = classifier(dropout=0.2)
    expected = fit(whole, TRAIN, TEST, recipe)
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(dropout=0.2), TRAIN, TEST, recipe, out=tmp_path, reporter=StopAfter(stop))
    resumed, progress = resume(tmp_path, TRAIN, TEST)
    assert_same(weights(whole), weights(resumed))
    for a, b in zip(expected.history, progress.history, strict=True):
        for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr", "grad_norm"):
            assert a[key] == b[key], key


def test_ctrl_c_finishes_the_step_and_leaves_the_signal_handlers_alone(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=StopAfter(3))
    assert signal.getsignal(signal.SIGINT) is before
    assert load_classifier(tmp_path).classes == ("rows", "columns")


@pytest.mark.parametrize("epochs", [None, 3])
def test_a_complete_run_comes_back_as_it_is(tmp_path, epochs):
    c = classifier()
    progress = fit(c, TRAIN, TEST, RECIPE, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again, same = resume(tmp_path, TRAIN, TEST, epochs=epochs)
    assert same == progress
    assert_same(weights(again), weights(c))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_complete_run_can_be_extended(tmp_path):
    fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path)
    with pytest.raises(CheckpointError, match=r"has 3 epochs already: give as many or more"):
        resume(tmp_path, TRAIN, TEST, epochs=2)
    _, progress = resume(tmp_path, TRAIN, TEST, epochs=4)
    assert [row["epoch"] for row in progress.history] == [1, 2, 3, 4]


def test_resume_wants_the_same_data(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, None, RECIPE, out=tmp_path, reporter=StopAfter(2))
    with pytest.raises(CheckpointError, match="other data"):
        resume(tmp_path, stripes(72, 5))


def test_resume_needs_a_training_state(tmp_path):
    save_checkpoint(tmp_path / "model.h5", classifier())
    with pytest.raises(CheckpointError, match="no training state"):
        resume(tmp_path, TRAIN)


def test_load_needs_no_code_but_the_file(tmp_path):
    c = classifier(preact=True, skip=False, variant="course", dropout=0.1)
    fit(c, TRAIN, None, RECIPE, out=tmp_path)
    loaded = load_classifier(tmp_path)
    assert loaded.model.config == c.model.config
    assert loaded.preprocess == c.preprocess
    assert_same(weights(c), weights(loaded))
    images = TEST.images(np.arange(20))
    np.testing.assert_array_equal(c.probs(images), loaded.probs(images))


def test_best_is_kept_apart_from_last(tmp_path):
    progress = fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path)
    losses = [row["test_loss"] for row in progress.history]
    assert progress.best_epoch == 1 + int(np.argmin(losses))
    assert evaluate(load_classifier(tmp_path / "best.h5"), TEST).loss == min(losses)
    assert evaluate(load_classifier(tmp_path / "model.h5"), TEST).loss == losses[-1]


def test_early_stopping(tmp_path):
    flipped = ArrayDataset(TEST.images(np.arange(20)), 1 - TEST.labels, TEST.classes)  # gets worse as it learns
    recipe = Recipe(epochs=30, batch_size=16, lr=0.01, augment=None, patience=2)
    progress = fit(classifier(), TRAIN, flipped, recipe, out=tmp_path)
    assert progress.epoch < 30
    assert progress.epoch - progress.best_epoch == 2
    assert "no better test loss for 2 epochs" in progress.stopped


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_names_the_layer_and_keeps_the_checkpoint(tmp_path):
    c = classifier()
    fit(c, TRAIN, None, RECIPE, out=tmp_path)
    good = (tmp_path / "model.h5").read_bytes()
    checkpointed, broken = load_classifier(tmp_path), load_classifier(tmp_path)
    assert_same(weights(c), weights(checkpointed))
    layer = broken.model.blocks()[1].branch.layers[0]
    layer.w.data[0, 0, 0, 0] = np.nan
    with pytest.raises(DivergedError, match=layer.name) as caught:
        fit(broken, TRAIN, None, RECIPE)
    assert "epoch 1, batch 1" in str(caught.value)
    assert "learning rate" in str(caught.value)
    assert (tmp_path / "model.h5").read_bytes() == good


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_learning_rate_far_too_high_stops_with_a_reason(tmp_path):
    recipe = Recipe(optimizer="sgd", batch_size=16, lr=1e30, schedule="constant", augment=None)
    with pytest.raises(DivergedError, match=r"lower the learning rate.*still holds epoch 0"):
        fit(classifier(norm=False), TRAIN, None, recipe, out=tmp_path)
    assert all(np.isfinite(a).all() for a in weights(load_classifier(tmp_path)).values())


ONE_STEP = Recipe(epochs=3, optimizer="sgd", batch_size=72, schedule="constant", augment=None)


class Spoil(Reporter):
    """Spoils something after the only step of an epoch, as an update can; then presses Ctrl-C, if asked."""

    def __init__(self, spoil, epoch, press=False):
        self.spoil, self.at, self.press = spoil, epoch, press

    def step(self, progress):
        if progress.epoch + 1 == self.at:
            self.spoil()
            if self.press:
                os.kill(os.getpid(), signal.SIGINT)


def spoilt(c, what):
    """A function that spoils it."""
    if what == "weights":
        return lambda: c.model.params()[3].data.fill(np.nan)
    return lambda: c.model.buffers()[1].data.fill(np.inf)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("press", [False, True])
@pytest.mark.parametrize("tested", [TEST, None])
@pytest.mark.parametrize("what", ["weights", "running statistics"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_what_the_last_update_of_an_epoch_spoilt_replaces_nothing(tmp_path, epoch, what, tested, press):
    c = classifier()
    with pytest.raises(DivergedError) as caught:
        fit(c, TRAIN, tested, ONE_STEP, out=tmp_path, reporter=Spoil(spoilt(c, what), epoch, press))
    name = (c.model.params()[3] if what == "weights" else c.model.buffers()[1]).name
    assert_one_line(
        caught, f"epoch {epoch}, batch 1: ", f"{what} are not finite", name, f"still holds epoch {epoch - 1}"
    )
    kept = load_checkpoint(tmp_path / "model.h5")
    assert kept.training["progress"]["epoch"] == epoch - 1
    assert all(np.isfinite(a).all() for a in weights(kept.classifier).values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_test_loss_that_is_no_number_replaces_nothing(tmp_path, monkeypatch, loss):
    true, seen = loop.evaluate, []

    def evaluated(*args, **options):
        seen.append(true(*args, **options))
        return replace(seen[-1], loss=loss) if len(seen) == 2 else seen[-1]

    monkeypatch.setattr(loop, "evaluate", evaluated)
    with pytest.raises(DivergedError, match=f"epoch 2, .*the test loss is {loss}.*still holds epoch 1"):
        fit(classifier(), TRAIN, TEST, ONE_STEP, out=tmp_path)
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_said_to_be_kept_after_a_stop_in_an_epoch(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=StopAfter(7))
    good = (tmp_path / "model.h5").read_bytes()

    step = loop._Run.step

    def diverge(run, *batch):
        run.model.params()[0].data.fill(np.nan)
        step(run, *batch)

    monkeypatch.setattr(loop._Run, "step", diverge)
    with pytest.raises(DivergedError) as caught:
        resume(tmp_path, TRAIN, TEST)
    assert_one_line(caught, "epoch 2, batch 3", "still holds epoch 1 and 2 batches of the next")
    assert (tmp_path / "model.h5").read_bytes() == good


def test_disk_full_while_saving_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    save_checkpoint(path, classifier(seed=1))
    good = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"model.h5: cannot be written \(No space left"):
        save_checkpoint(path, classifier(seed=2))
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_not_a_checkpoint(tmp_path):
    page = tmp_path / "model.h5"
    page.write_text("<!DOCTYPE html><html><head><title>Sign in</title></head></html>")
    with pytest.raises(CheckpointError, match=r"a web page \(title: 'Sign in'\)"):
        load_classifier(page)
    with pytest.raises(CheckpointError, match="no such file"):
        load_classifier(tmp_path / "absent.h5")
    with pytest.raises(CheckpointError, match=r"no model\.h5 in this folder"):
        load_classifier(tmp_path.parent / tmp_path.name if not page.unlink() else None)


def test_a_truncated_checkpoint(tmp_path):
    path = tmp_path / "model.h5"
    save_checkpoint(path, classifier())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_classifier(path)


def test_other_hdf5_is_not_a_checkpoint(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["train_set_x"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="found a data set"):
        load_classifier(tmp_path / "x.h5")


@pytest.mark.parametrize("what", ["missing", "shape", "extra"])
def test_a_checkpoint_of_another_architecture(tmp_path, what):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "model.h5"
    save_checkpoint(path, classifier())
    with h5py.File(path, "r+") as file:
        folder = file["weights"]
        name = "layer1.0.conv1.w"
        if what == "extra":
            folder["other.w"] = np.zeros(3)
        else:
            del folder[name]
        if what == "shape":
            folder[name] = np.zeros((1, 1, 4, 4), np.float32)
    seal(path)
    expected = {"missing": f"first: {name}", "shape": rf"{name} has shape \(1, 1, 4, 4\)", "extra": "1 are not used"}
    with pytest.raises(CheckpointError, match=f"another architecture: .*{expected[what]}"):
        load_classifier(path)


def test_a_checkpoint_from_a_newer_version(tmp_path, monkeypatch):
    from minires.train import checkpoint

    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    save_checkpoint(tmp_path / "model.h5", classifier())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="newer minires"):
        load_classifier(tmp_path / "model.h5")


def test_preprocessing_is_measured_on_the_training_images():
    c = classifier()
    x = c.preprocess(TRAIN.images(np.arange(len(TRAIN))))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=1e-3)
    assert Preprocess((0.5,) * 3, (0.25,) * 3)(np.full((1, 1, 1, 3), 255, np.uint8)).ravel() == pytest.approx([2.0] * 3)


def test_probabilities_do_not_depend_on_the_batch():
    c = classifier()
    images = TEST.images(np.arange(20))
    together = c.probs(images)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)
    one_by_one = np.concatenate([c.probs(images[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-6)


def test_probs_names_a_wrong_size():
    with pytest.raises(DataError, match=r"expects uint8 images \(8, 8, 3\).*\(9, 9, 3\)"):
        classifier().probs(np.zeros((1, 9, 9, 3), np.uint8))


def test_classes_must_fit():
    with pytest.raises(DataError, match="2 classes, but the network was built for 5"):
        Classifier.for_data(resnet("resnet8", (8, 8, 3), 5), TRAIN)
    other = ArrayDataset(TEST.images(np.arange(20)), TEST.labels, ("up", "down"))
    with pytest.raises(DataError, match="classes are up, down, the network was trained on rows, columns"):
        evaluate(classifier(), other)


def test_evaluation_counts():
    result = evaluate(classifier(), TEST)
    right = result.probs.argmax(axis=1) == TEST.labels
    assert result.accuracy == right.mean()
    assert result.mistakes == (~right).sum()
    assert result.loss == pytest.approx(
        -np.mean([math.log(p[label]) for p, label in zip(result.probs, TEST.labels, strict=True)]), rel=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"optimizer": "lion"}, "unknown optimizer"),
        ({"patience": 0}, "patience"),
    ],
)
def test_wrong_recipes(options, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**options)
