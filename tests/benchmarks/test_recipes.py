"""The worth of a recipe's parts, on a small network."""

import pytest
from minires.benchmarks import recipes

from minires.data import Parts, make_signs


@pytest.mark.slow
def test_each_way_is_judged_on_images_that_were_not_trained_on(monkeypatch):
    seen = []
    judged = recipes.judged

    def watched(train, held, recipe, arch):
        seen.append((set(train.index), set(held.index), recipe))
        return judged(train, held, recipe, arch)

    monkeypatch.setattr(recipes, "judged", watched)
    monkeypatch.setattr(recipes, "load_parts", lambda data, size: Parts(make_signs(240, 6, size)[0]))
    rows = recipes.measure("builtin", size=16, arch="resnet8", epochs=1, splits=1)
    assert [(row["augmentation"], row["statistics"]) for row in rows] == [
        (name, statistics) for name in recipes.AUGMENTATIONS for statistics in ("as left", "anew")
    ]
    assert len({row["loss"] for row in rows}) == 4
    for train, held, recipe in seen:
        assert not train & held
        assert len(train | held) == 240
        assert not recipe.precise_bn
