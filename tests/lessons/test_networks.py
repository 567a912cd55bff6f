"""The dense networks that lessons 3 to 5 measure on: every kind that the knobs choose, each once."""

import pytest
from minires.lessons.networks import dense_stack, kinds, label

from minires.nn import BatchNorm


@pytest.mark.parametrize(
    ("knobs", "count"), [(("all", "both", "both"), 12), (("none", "both", "he"), 2), (("pre", "on", "both"), 2)]
)
def test_the_knobs_choose_kinds_that_differ(knobs, count):
    chosen = kinds(*knobs)
    assert len({label(**kind) for kind in chosen}) == len(chosen) == count
    for knob, key in zip(knobs, ("skip", "bn", "init"), strict=True):
        several = {"all": {"none", "pre", "post"}, "both": {False, True} if key == "bn" else {"he", "glorot"}}
        assert {kind[key] for kind in chosen} == several.get(knob, {knob == "on" if key == "bn" else knob})


@pytest.mark.parametrize("skip", ["none", "pre", "post"])
def test_with_bn_each_layer_has_one(skip):
    network = dense_stack(6, 4, skip=skip, bn=True)
    assert sum(isinstance(m, BatchNorm) for m in network.modules()) == 6
