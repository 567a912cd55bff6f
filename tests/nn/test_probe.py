"""Looking at a network: it goes on as if nobody had looked, and what is not finite is named where it begins."""

import numpy as np
import pytest

from minires import resnet
from minires.nn.probe import first_nonfinite, probe, untouched


def images():
    return np.random.default_rng(0).standard_normal((3, 16, 16, 3)).astype(np.float32)


def step(model):
    y = model.forward(images())
    model.backward(np.ones_like(y))
    return {"y": y, **{p.name: p.grad for p in model.params()}, **{b.name: b.data for b in model.buffers()}}


@pytest.mark.parametrize("look", [lambda model: first_nonfinite(model, images()), step])
def test_a_network_that_was_looked_at_goes_on_as_if_nobody_had(look):
    """The running statistics, the gradients and dropout's next masks are those of its twin."""
    seen, twin = (resnet("resnet8", (16, 16, 3), dropout=0.5) for _ in range(2))
    step(seen), step(twin)
    with untouched(seen), probe(seen):
        look(seen)
    theirs = step(twin)
    for name, array in step(seen).items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_named_where_it_begins(broken):
    model = resnet("resnet8", (16, 16, 3))
    assert first_nonfinite(model, images()) is None
    assert str(first_nonfinite(model, images() * np.float32(broken))) == "the input"
    block = model.blocks()[1].branch
    for held, kind in ((block.layers[1].mean, "buffer"), (block.layers[0].w, "parameter")):
        held.data.flat[0] = broken
        assert str(first_nonfinite(model, images())) == f"the {kind} {held.name}"
    block.layers[0].w.data[...] = block.layers[1].mean.data[...] = 0
    block.layers[1].beta.data[...] = 1  # so that something meets the large weights
    block.layers[3].w.data[...] = 3e38
    assert str(first_nonfinite(model, images())) == f"the output of {block.layers[3].name} (Conv2d)"
