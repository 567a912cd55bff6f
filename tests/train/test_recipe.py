"""A recipe: each of its settings takes effect, in what is trained and not in the record of it alone."""

from dataclasses import fields, replace

import numpy as np
import pytest
from stripes import TRAIN, classifier

from minires.nn import Param
from minires.optim import SGD, Adam, AdamW
from minires.train import Recipe, fit

# for each setting the optimiser with which it matters, and another value than its usual one
OTHER = {
    "epochs": ("sgd", 3),
    "batch_size": ("sgd", 20),
    "optimizer": ("sgd", "adam"),
    "lr": ("sgd", 0.05),
    "momentum": ("sgd", 0.5),
    "nesterov": ("sgd", False),
    "betas": ("adamw", (0.8, 0.9)),
    "weight_decay": ("sgd", 0.1),
    "decay_all": ("sgd", True),
    "clip_norm": ("sgd", 0.1),
    "schedule": ("sgd", "constant"),
    "warmup_epochs": ("sgd", 0.5),
    "label_smoothing": ("sgd", 0.2),
    "augment": ("sgd", None),
    "freeze": ("sgd", {"stage2": 1}),
    "rates": ("sgd", {"head": 3.0}),
    "seed": ("sgd", 1),
}


def trained(recipe):
    model = classifier()
    fit(model, TRAIN, None, recipe, check=False)
    return np.concatenate([p.data.ravel() for p in model.model.params()])


@pytest.fixture(scope="module")
def usual():
    """The weights that each optimiser gives with its usual settings."""
    return {name: trained(Recipe(epochs=2, batch_size=16, optimizer=name)) for name in ("sgd", "adamw")}


@pytest.mark.parametrize("setting", OTHER)
def test_a_setting_changes_what_is_trained(setting, usual):
    optimizer, value = OTHER[setting]
    recipe = Recipe(epochs=2, batch_size=16, optimizer=optimizer)
    assert getattr(recipe, setting) != value
    assert np.abs(trained(replace(recipe, **{setting: value})) - usual[optimizer]).max() > 1e-6


def test_every_setting_is_among_them():
    elsewhere = {
        "patience",
        "precise_bn",
    }  # one ends training, one comes after it
    assert {field.name for field in fields(Recipe)} == set(OTHER) | elsewhere


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        (SGD, "sgd", {"momentum": 0.5, "nesterov": False}),
        (SGD, "sgd", {"momentum": 0.8, "nesterov": True}),
        (Adam, "adam", {"betas": (0.7, 0.8)}),
        (AdamW, "adamw", {"betas": (0.7, 0.8)}),
    ],
)
def test_its_optimiser_is_the_one_of_these_settings(kind, name, settings):
    settings |= {"weight_decay": 0.1, "decay_all": True, "clip_norm": 0.5}
    steps = []
    for make in (Recipe(optimizer=name, **settings).make_optimizer, lambda params: kind(params, **settings)):
        params = [Param("w", np.ones((2, 3))), Param("b", np.ones(3), decay=False)]
        optimizer = make(params)
        assert type(optimizer) is kind
        for step in range(3):
            for p in params:
                p.write_grad(np.arange(p.data.size, dtype=float).reshape(p.data.shape) - step)
            optimizer.step(0.1)
        steps.append(optimizer.weights.copy())
    np.testing.assert_array_equal(*steps)


def test_none_is_the_usual_value_and_zero_is_zero():
    assert Recipe().weight_decay > 0
    assert Recipe(weight_decay=0).weight_decay == 0


def test_a_part_of_an_epoch_warms_up():
    recipe = Recipe(schedule="constant", lr=1.0, warmup_epochs=0.5)
    assert [recipe.make_schedule(10)(step) for step in (0, 4, 5)] == pytest.approx([0.2, 1.0, 1.0])
