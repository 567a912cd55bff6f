"""A watched run: the numbers are what they are called, nobody notices the watching, and a resume keeps the records."""

import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from data_helpers import assert_one_line
from stripes import RECIPE, TEST, TRAIN, StopAfter, assert_same, classifier, weights

from minires.errors import ConfigError, DataError
from minires.instruments.gradflow import gradflow
from minires.instruments.watch import FILE, QUANTITIES, Watcher, film, look, read_film
from minires.nn import ReLU
from minires.train import fit, resume
from minires.train.progress import Reporters


def batch(count=16):
    c = classifier()
    images = TRAIN.images(np.arange(count))
    return c.model, c.preprocess(images), TRAIN.labels[:count]


def assert_same_film(a, b):
    assert a.rows == b.rows
    for one, other in ((a.steps, b.steps), (a.losses, b.losses), *((a.values[k], b.values[k]) for k in a.values)):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 15 steps that was watched at every second one."""
    out = tmp_path_factory.mktemp("watched")
    c = classifier()
    fit(c, TRAIN, TEST, RECIPE, out=out, reporter=Watcher(2))
    return out, c


@pytest.mark.parametrize("options", [{}, {"by_layers": True}])
def test_a_watched_run_ends_with_the_bits_of_one_that_is_not(options):
    one, other = classifier(dropout=0.2), classifier(dropout=0.2)
    fit(one, TRAIN, None, RECIPE, **options)
    fit(other, TRAIN, None, RECIPE, reporter=Watcher(1), **options)
    assert_same(weights(one), weights(other))


def test_the_gradients_are_those_of_gradflow():
    model, x, labels = batch()
    loss, values = look(model, x, labels)
    flow = gradflow(model, x, labels)
    assert float(loss) == pytest.approx(flow.loss)
    for layer in flow.layers:
        assert float(values["gradient"][layer.name]) == pytest.approx(layer.dy_rms)
        assert float(values["weight_gradient"][layer.name]) == pytest.approx(layer.dw_norm, rel=1e-5)


def test_dead_channels_are_counted():
    model, x, labels = batch()
    relu = next(m for m in model.modules() if isinstance(m, ReLU))
    norm = next(m for m in model.modules() if m.name == "bn1")
    norm.gamma.data[:], norm.beta.data[:] = 1, (-100, -100, 0, 0)  # of the last two every second value is zero
    _, values = look(model, x, labels)
    assert float(values["dead"][relu.name]) == 0.5


def test_drift_is_the_distance_of_running_from_batch_statistics():
    model, x, labels = batch()
    _, before = look(model, x, labels)
    model.train()
    model.forward(x)
    model.release()
    norms = [m for m in model.modules() if m.name in before["drift_mean"]]
    for norm in norms:  # what a momentum of 0 would have made of them
        norm.mean.data[...] = norm.mean.data / (1 - norm.momentum)
        norm.var.data[...] = (norm.var.data - norm.momentum) / (1 - norm.momentum)
    _, after = look(model, x, labels)
    for name in before["drift_mean"]:
        assert float(before["drift_var"][name]) > 0.05
        assert float(after["drift_mean"][name]) < 1e-3
        assert float(after["drift_var"][name]) < 0.03


def test_the_update_is_what_the_step_did():
    c, watcher = classifier(), Watcher(1)
    before = weights(c)
    fit(c, TRAIN, None, replace(RECIPE, epochs=1, batch_size=72), reporter=watcher)
    after, film = weights(c), watcher.film()
    for row, value in zip(film.rows["update"], film.values["update"][0], strict=True):
        w, now = before[f"{row.name}.w"], after[f"{row.name}.w"]
        assert value == pytest.approx(np.linalg.norm(now - w) / np.linalg.norm(w), rel=1e-4)


def test_every_layer_has_its_row_and_every_record_its_step(whole):
    film = read_film(whole[0])
    assert film.steps.tolist() == list(range(0, 15, 2))
    for name in QUANTITIES:
        assert film.values[name].shape == (8, len(film.rows[name]))
        assert np.isfinite(film.values[name]).all()
    beside = [row.name for row in film.rows["gradient"] if not row.main]
    assert beside == ["layer2.0.downsample.0", "layer3.0.downsample.0"]
    depths = [row.depth for row in film.rows["gradient"] if row.main]
    assert depths == list(range(1, 9))
    assert {row.main for row in film.rows["dead"]} == {True}


@pytest.mark.parametrize("steps", [2, 5, 7])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_resumed_run_has_the_records_of_one_that_was_not_stopped(whole, tmp_path, steps, ahead):
    """ahead: watch.h5 has records of steps that model.h5 has not seen, as a kill between the two leaves it."""
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=Reporters(Watcher(2), StopAfter(steps)))
    assert len(read_film(tmp_path).steps) == (steps + 1) // 2
    if ahead:
        shutil.copy(whole[0] / FILE, tmp_path)
    c, _ = resume(tmp_path, TRAIN, TEST, reporter=Watcher(2))
    assert_same(weights(c), weights(whole[1]))
    assert_same_film(read_film(tmp_path), read_film(whole[0]))


def test_records_of_an_earlier_run_are_not_of_this_one(whole, tmp_path):
    shutil.copy(whole[0] / FILE, tmp_path)
    fit(classifier(), TRAIN, None, replace(RECIPE, epochs=1), out=tmp_path, reporter=Watcher(3))
    assert read_film(tmp_path).steps.tolist() == [0, 3]


def test_a_network_without_normalisation_or_skips():
    for options in ({"norm": False}, {"skip": False}, {"preact": True}):
        watcher = Watcher(2)
        fit(classifier(**options), TRAIN, None, replace(RECIPE, epochs=1), reporter=watcher)
        shown = watcher.film()
        assert bool(shown.rows["drift_mean"]) == ("norm" not in options)
        assert "film-data" in film.section(shown, "about", "")
        film.plot_film(shown)


def test_a_damaged_file_is_refused_in_one_line(whole, tmp_path):
    path = tmp_path / FILE
    content = bytearray((whole[0] / FILE).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="its checksum does not fit") as error:
        read_film(tmp_path)
    assert_one_line(error)
    with h5py.File(path, "w") as file:
        file["step"] = [1]
    with pytest.raises(DataError, match="holds no records of a watched run") as error:
        read_film(tmp_path)
    assert_one_line(error)


def test_the_cost_is_told_and_a_long_film_is_thinned(whole):
    film = read_film(whole[0])
    told = f"watched every 2 steps: 8 records in {film.seconds:.1f} s, 50.0% of the training time"
    assert film.cost(2 * film.seconds) == told
    few = film.shown(3)
    assert few.steps.tolist() == [0, 8, 14]
    assert few.values["gradient"].shape[0] == 3
    assert film.shown(300).steps.tolist() == film.steps.tolist()


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_a_number_of_steps_that_cannot_be(every):
    with pytest.raises(ConfigError, match="watch: expected a whole number from 1"):
        Watcher(every)


def test_a_run_whose_loss_is_no_number_still_has_its_film(whole):
    shown = read_film(whole[0])
    broken = replace(shown, losses=np.where(np.arange(len(shown.losses)) > 3, np.nan, shown.losses))
    page = film.section(broken, "", "")
    data = json.loads(page.split('id="film-data">')[1].split("</script>")[0], parse_constant=pytest.fail)
    assert data["films"][0]["losses"][4:] == [None] * (len(shown.steps) - 4)


def test_films_side_by_side_know_their_epochs(whole):
    shown = read_film(whole[0])
    assert shown.epoch_steps == 5
    page = film.side_by_side({"a </script>": shown, "<b>": shown}, "about", "")
    data = json.loads(page.split('id="film-data">')[1].split("</script>")[0])
    assert [one["name"] for one in data["films"]] == ["a </script>", "<b>"]
    assert data["films"][0]["epoch"] == [step / 5 for step in range(0, 15, 2)]
    assert "<h3>&lt;b&gt;</h3>" in page
    assert page.count('id="film-map-1"') == page.count('id="film-map"') == 1
    assert "{{" not in page.split("<script")[0]
