"""What a run keeps of itself: the rows of its history, the best epoch, the time left; and when it gives up."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from stripes import RECIPE, TEST, TRAIN, assert_same, classifier, weights

from minires.data import ArrayDataset
from minires.errors import DivergedError
from minires.train import ConsoleReporter, evaluate, fit, load_classifier, loop, progress, resume
from minires.train.progress import Progress

STILL = replace(RECIPE, epochs=1, lr=1e-12, augment=None)  # the network stays where it is
CONSTANT = replace(RECIPE, augment=None, schedule="constant", warmup_epochs=0)  # no epoch knows of those to come


@pytest.fixture
def test_losses(monkeypatch):
    """A function that says which losses the test set will give, epoch after epoch."""

    def expect(*losses):
        coming = iter(losses)
        monkeypatch.setattr(loop, "evaluate", lambda *args, **_: replace(evaluate(*args), loss=next(coming)))

    return expect


def test_the_best_epoch_is_the_best_of_all_before(tmp_path, test_losses):
    test_losses(0.5, 0.9, 0.7)
    recipe = replace(CONSTANT, precise_bn=False)  # which only the last epoch gets
    told = fit(classifier(), TRAIN, TEST, recipe, out=tmp_path)
    assert (told.best_epoch, told.best_loss) == (1, 0.5)
    after_one = classifier()
    fit(after_one, TRAIN, None, replace(recipe, epochs=1))
    assert_same(weights(load_classifier(tmp_path, best=True)), weights(after_one))
    assert not np.array_equal(*(load_classifier(tmp_path, best=b).model.params()[0].data for b in (True, False)))


def test_patience_counts_the_epochs_since_the_best_and_an_extended_run_goes_on(tmp_path, test_losses):
    test_losses(0.5, 0.9, 0.7, 0.4, 0.3)
    recipe = replace(CONSTANT, epochs=9, patience=2)
    assert fit(classifier(), TRAIN, TEST, recipe, out=tmp_path).epoch == 3
    _, told = resume(tmp_path, TRAIN, TEST, epochs=5)
    assert (told.epoch, told.stopped, told.best_epoch) == (5, "", 5)


def test_an_epoch_s_loss_and_accuracy_are_means_over_its_images():
    """The last batch is smaller than the others."""
    c = classifier(norm=False)
    expected = evaluate(c, TRAIN)
    for batch_size in (50, 72):
        (row,) = fit(c, TRAIN, None, replace(STILL, batch_size=batch_size)).history
        assert row["train_loss"] == pytest.approx(expected.loss, rel=1e-5)
        assert row["train_accuracy"] == pytest.approx(expected.accuracy)


def test_each_row_is_of_its_epoch_alone():
    rows = fit(classifier(norm=False), TRAIN, None, replace(STILL, epochs=3)).history
    for key in ("train_loss", "train_accuracy"):
        assert [row[key] for row in rows] == pytest.approx([rows[0][key]] * 3, rel=1e-4), key


@pytest.mark.parametrize("schedule", ["step", "onecycle"])
def test_the_rate_of_a_row_is_that_of_the_epoch_s_last_step(schedule):
    recipe = replace(RECIPE, schedule=schedule, epochs=4)
    rate = recipe.make_schedule(5)
    rows = fit(classifier(), TRAIN, None, recipe).history
    assert [row["lr"] for row in rows] == [rate(5 * epoch - 1) for epoch in (1, 2, 3, 4)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_gradient_that_overflows_is_noticed_at_once():
    """The loss is finite, some 1e25, and so is each gradient; but not their squares."""
    c = classifier(norm=False)
    c.model.params()[0].data *= np.float32(1e25)
    with pytest.raises(DivergedError, match=r"epoch 1, batch 1: .* norm inf"):
        fit(c, TRAIN, None, CONSTANT, check=False)


def test_a_sure_mistake_costs_what_it_should():
    c = classifier()
    c.model.layers[-1].w.data[...] = 0
    c.model.layers[-1].b.data[...] = 40, 0
    wrong = ArrayDataset(TEST.images(np.arange(4)), np.ones(4, int), TEST.classes)
    assert evaluate(c, wrong).loss == pytest.approx(40, rel=1e-5)


@pytest.mark.parametrize("by_layers", [True, False])
def test_a_network_in_evaluation_mode_is_trained_like_any_other(by_layers):
    one, other = classifier(), classifier()
    other.model.eval()
    for c in (one, other):
        fit(c, TRAIN, None, replace(RECIPE, epochs=1), by_layers=by_layers)
    assert_same(weights(one), weights(other))


def test_the_time_left_is_that_of_the_steps_left(monkeypatch):
    """A run that goes on from half its way: 10 of 20 steps are done when it starts, 5 more after 30 s."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    written = io.StringIO()
    reporter = ConsoleReporter(Console(file=written, width=200))
    told = Progress(epoch=2, batch=0, seen=1, seconds=1.0)
    with reporter.running(4, 5, told):
        now[0], told.epoch = 30.0, 3
        reporter.step(told)
    assert "epoch 4/4" in written.getvalue()
    assert "0:30 left" in written.getvalue()
