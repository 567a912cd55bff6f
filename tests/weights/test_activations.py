"""Two networks of ours side by side, layer by layer: they agree, or the first layer that does not is named."""

import numpy as np
import pytest

from minires import resnet
from minires.weights import activations, compare

X = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)


def test_a_network_agrees_with_itself():
    model = resnet("resnet8", (16, 16, 3))
    found = compare(model, activations(model, X), X)
    assert found.first is None
    assert {row.difference for row in found.rows} == {0}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("wrong", [np.nan, np.inf, 3.0])
def test_the_first_layer_that_gives_something_else_is_named(wrong):
    """Also where the other network gives numbers that are not finite, which are unlike any."""
    model = resnet("resnet8", (16, 16, 3))
    other = resnet("resnet8", (16, 16, 3))
    place = other.blocks()[1].branch.layers[0]
    place.w.data[0, 0, 0, 0] = wrong
    assert compare(model, other, X).first == place.name
    assert compare(model, activations(other, X), X).first == place.name
