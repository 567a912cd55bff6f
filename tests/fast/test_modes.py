"""A training step and the modes of its network: what rests stays, and nothing is trained that was not to be."""

from dataclasses import replace

import numpy as np
import pytest
from networks import batch
from stripes import RECIPE, TEST, TRAIN, assert_same, classifier, weights

from minires import resnet
from minires.errors import StateError
from minires.fast.step import make_step
from minires.nn import BatchNorm
from minires.optim import SGD
from minires.train import fit

WAYS = [{}, {"by_layers": True}, {"recompute": True}]


def network():
    model = resnet("resnet8", (16, 16, 3), 4)
    return model, SGD(model.params())


def state(model):
    return {name: array.copy() for name, array in model.state().items()}


@pytest.mark.parametrize("ways", WAYS)
def test_a_network_in_evaluation_mode_is_not_trained(ways):
    model, optimizer = network()
    step, before = make_step(model, optimizer, **ways), state(model)
    model.eval()
    for call in (lambda: make_step(model, optimizer, **ways), lambda: step(*batch((16, 16, 3), dtype="f4"), 0.1)):
        with pytest.raises(StateError, match=r"resnet8 is in evaluation mode: call its \.train\(\) before"):
            call()
    assert_same(state(model), before)
    model.train()
    step(*batch((16, 16, 3), dtype="f4"), 0.1)
    assert not np.array_equal(model.params()[0].data, before["conv1.w"])


@pytest.mark.parametrize("ways", WAYS)
def test_a_layer_in_evaluation_mode_stays_so(ways):
    """Its statistics rest and are what it normalises with; all other layers train, as by the layers."""
    model, optimizer = network()
    norms = [m for m in model.modules() if type(m) is BatchNorm]
    norms[2].eval()
    before, step = state(model), make_step(model, optimizer, **ways)
    assert ("by_layers" in ways) or f"{norms[2].name} is in evaluation mode" in step.how
    step(*batch((16, 16, 3), dtype="f4"), 0.1)
    after = state(model)
    for norm in norms:
        for b in norm.buffers():
            assert np.array_equal(after[b.name], before[b.name]) == (norm is norms[2])


def test_a_layer_that_goes_into_evaluation_mode_later_is_an_error():
    model, optimizer = network()
    step, norm = make_step(model, optimizer), next(m for m in model.modules() if type(m) is BatchNorm)
    norm.eval()
    with pytest.raises(StateError, match=rf"{norm.name} went into evaluation mode"):
        step(*batch((16, 16, 3), dtype="f4"), 0.1)


@pytest.mark.parametrize("ways", WAYS)
def test_running_statistics_that_are_not_to_follow_do_not(ways):
    model, optimizer = network()
    norms = [m for m in model.modules() if type(m) is BatchNorm]
    norms[2].update_running_stats = False
    before = state(model)
    for _ in range(2):
        make_step(model, optimizer, **ways)(*batch((16, 16, 3), dtype="f4"), 0.1)
    after = state(model)
    for norm in norms:
        assert norm.update_running_stats == (norm is not norms[2])
        for b in norm.buffers():
            assert np.array_equal(after[b.name], before[b.name]) == (norm is norms[2])


def test_fit_trains_a_network_that_was_in_evaluation_mode():
    recipe, networks = replace(RECIPE, epochs=1), [classifier(), classifier()]
    networks[1].model.eval()
    ways = [fit(c, TRAIN, TEST, recipe).how for c in networks]
    assert ways[0] == ways[1]
    assert_same(*map(weights, networks))
