"""The range test: it finds rates that learn, leaves the network as it was, says where there is nothing to find."""

import json

import numpy as np
import pytest
from data_helpers import random_set, write_image
from stripes import classifier, stripes

from minires import cli
from minires.errors import ConfigError
from minires.instruments.rate_test import rate_test
from minires.train import Recipe, fit

TRAIN = stripes(96, 0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_suggestion_learns_and_far_from_it_nothing_does(optimizer):
    recipe = Recipe(epochs=3, batch_size=16, optimizer=optimizer, augment=None, schedule="constant", warmup_epochs=0)
    test = rate_test(classifier(), TRAIN, recipe)
    assert test.rates[0] < test.suggestion <= test.largest <= test.rates[-1]
    losses = {}
    for factor in (1e-3, 1):
        one = classifier()
        losses[factor] = fit(one, TRAIN, recipe=Recipe(**vars(recipe) | {"lr": test.suggestion * factor})).history[-1]
    assert losses[1]["train_loss"] < 0.8 * losses[1e-3]["train_loss"]


def test_the_network_is_left_as_it_was():
    one = classifier()
    one.model.train()
    before = {name: array.copy() for name, array in one.model.state().items()}
    arrays = [p.data for p in one.model.params()]
    first, second = (rate_test(one, TRAIN, Recipe(batch_size=16), steps=30) for _ in range(2))
    assert first == second
    assert all(np.array_equal(before[name], array) for name, array in one.model.state().items())
    assert all(p.data is array for p, array in zip(one.model.params(), arrays, strict=True))


def test_it_ends_where_the_loss_rises():
    test = rate_test(classifier(), TRAIN, Recipe(batch_size=16, optimizer="sgd"), lowest=1e-3, highest=1e9, steps=120)
    assert len(test.losses) < 120
    assert np.isfinite(test.losses).all()


def test_labels_without_a_pattern_are_said_to_teach_nothing():
    noise = random_set(64, classes=("a", "b"))
    test = rate_test(classifier(), noise, Recipe(batch_size=16), lowest=1e-8, highest=1e-6)
    assert test.suggestion is None
    assert "fell at no rate" in str(test)


@pytest.mark.parametrize("wrong", [{"lowest": 0}, {"lowest": 2, "highest": 1}, {"highest": np.inf}, {"steps": 3}])
def test_rates_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="0 < lowest < highest"):
        rate_test(classifier(), TRAIN, **wrong)


def test_the_command_draws_it(tmp_path, capsys, monkeypatch):
    for i in range(12):
        write_image(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", i)
    monkeypatch.chdir(tmp_path)
    line = "lr-find --data photos --arch resnet8 --size 16 --batch-size 4 --steps 30 --json"
    assert cli.main(line.split()) in (0, 1)
    told = json.loads(capsys.readouterr().out)
    assert len(told["rates"]) == len(told["losses"]) <= 30
    assert (tmp_path / "lr-find.png").stat().st_size > 10_000
    assert cli.main([*line.split(), "--lowest", "2"]) == 2
    assert "lowest < highest" in capsys.readouterr().err
