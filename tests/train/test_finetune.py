"""Fine-tuning: what is frozen keeps its bits, groups learn at their rates, runs resume, classes are kept by name."""

import math
from dataclasses import replace

import numpy as np
import pytest
from stripes import RECIPE, TEST, TRAIN, StopAfter, assert_same, classifier, weights

from minires import nn, ops, resnet
from minires.errors import ConfigError, StateError
from minires.fast.step import make_step
from minires.instruments.audit import audit
from minires.instruments.gradcheck import gradcheck
from minires.optim import SGD, Adam, AdamW
from minires.train import Recipe, evaluate, fit, resume, with_classes
from minires.train.checkpoint import load_checkpoint
from minires.train.finetune import describe, describe_classes, make_optimizer, parts

WAYS = {"by_layers": True}, {}, {"recompute": True}
FREEZE = {"stem": None, "stage2": None}
RATES = {"head": 10.0, "stage4": 0.5}
CHOICES = [("stem", "stage2"), ("stage3",), ("stem", "head"), ("layer2.0.bn1",), ("layer2.0.conv1", "layer3.0")]

COURSE = {"layer2.0.bn1": "bn3a_branch2a", "layer2.0.conv1": "res3a_branch2a", "layer3.0": "block4a"}


def network(variant="v1.5", dtype=np.float64, **options):
    return resnet("resnet8", (12, 12, 3), 4, variant=variant, widths=(4, 5, 6), **options).astype(dtype)


def batch(dtype=np.float64):
    rng = np.random.default_rng(3)
    return rng.standard_normal((6, 12, 12, 3)).astype(dtype), np.arange(6) % 4


def state(model):
    return {name: array.copy() for name, array in model.state().items()}


def frozen_names(model, names):
    found = parts(model)
    held = [v for name in names for m in found[name] for v in m.params() + m.buffers()]
    return {v.name for v in held}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("variant", ["v1.5", "course"])
@pytest.mark.parametrize("names", CHOICES, ids=str)
@pytest.mark.parametrize("preact", [False, True])
def test_what_is_frozen_keeps_its_bits_and_the_rest_steps_as_by_the_layers(names, way, variant, preact):
    if variant == "course":
        names = tuple(COURSE.get(name, name) for name in names)
    results = []
    for ways in ({"by_layers": True}, way):
        model = network(variant, preact=preact)
        for b in model.buffers():
            b.data += 0.3
        before = state(model)
        recipe = Recipe(optimizer="sgd", freeze=names, rates={"head": 2.0}, clip_norm=0.5)
        optimizer = make_optimizer(model, recipe)
        step = make_step(model, optimizer, **ways)
        assert ways or step.how.startswith("fused"), step.how
        step.check(*batch())
        with step:
            told = [[float(v) for v in step(*batch(), 0.1)] for _ in range(2)]
        after, rest = state(model), frozen_names(model, names)
        assert {n for n in after if np.array_equal(before[n], after[n])} >= rest
        assert any(not np.array_equal(before[n], after[n]) for n in set(after) - rest)
        results.append((told, after))
    (told, after), (expected_told, expected) = results
    np.testing.assert_allclose(told, expected_told, rtol=1e-9)
    for name in expected:
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_gradients_are_those_of_the_network_that_is_not_frozen_but_normalises_alike(way):
    """Freezing leaves out work, it changes no gradient: the reference computes all of them, its statistics at rest."""
    reference, model = network(), network()
    model.layers[0].freeze()
    model.layers[2].freeze()
    for module in [*reference.layers[0].modules(), *reference.layers[2].modules()]:
        module.training = False
    x, labels = batch()
    probs = ops.softmax_cross_entropy_forward(reference.forward(x), labels)[1]
    reference.backward(ops.softmax_cross_entropy_backward(probs, labels))
    optimizer = SGD(model.params(), momentum=0)
    with make_step(model, optimizer, **way) as step:
        step(x, labels, 0.1)
    for ours, theirs in zip(model.params(), reference.params(), strict=True):
        if ours.trainable:
            np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12, err_msg=ours.name)
        else:
            assert ours.grad is None


def test_a_frozen_front_costs_its_forward_pass_alone(monkeypatch):
    """No gradient gets there, nothing is kept there; kernels at rest in the middle have no gradient of their own."""
    seen, backward = [], ops.conv2d_backward
    model = network(dtype=np.float32)
    model.layers[0].freeze()
    model.layers[1].freeze()
    model.layers[3].freeze()
    for by_layers in (False, True):
        optimizer = SGD(model.params())
        step = make_step(model, optimizer, by_layers=by_layers)
        kept = []

        def spy(dy, x, w, *, kept=kept, **options):
            kept.append((w.shape, options["need_dx"], options.get("need_dw", True)))
            return backward(dy, x, w, **options)

        if by_layers:
            monkeypatch.setattr(ops, "conv2d_backward", spy)
        forward = step.net.forward(batch(np.float32)[0])
        if not by_layers:
            assert all(m._slot is None for m in step.net.frozen.modules())
        step.net.backward(np.ones_like(forward), need_dx=False)
        seen.append(kept)
    stage3, stage4 = ([m.w.data.shape for m in model.layers[i].modules() if isinstance(m, nn.Conv2d)] for i in (2, 3))
    assert len(seen[1]) == len(stage3) + len(stage4)
    assert [dw for shape, _, dw in seen[1]] == [False] * len(stage4) + [True] * len(stage3)


def test_groups_step_as_pytorchs_do():
    torch = pytest.importorskip("torch")
    for ours, theirs, options in (
        (SGD, torch.optim.SGD, {"momentum": 0.9}),
        (Adam, torch.optim.Adam, {}),
        (AdamW, torch.optim.AdamW, {}),
    ):
        rng = np.random.default_rng(1)
        params = [
            nn.module.Param(n, rng.standard_normal(s), decay=len(s) > 1)
            for n, s in (("a", (3, 4)), ("b", (4,)), ("c", (2, 2)))
        ]
        twins = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in params]
        a, b, c = params
        optimizer = ours(
            [{"params": [b, a], "lr_scale": 0.1}, {"params": [c], "weight_decay": 0.3}],
            weight_decay=0.2,
            clip_norm=1.0,
            **options,
        )
        groups = [
            {"params": twins[:1], "lr": 0.01, "weight_decay": 0.2},
            {"params": twins[1:2], "lr": 0.01, "weight_decay": 0.0},
            {"params": twins[2:], "lr": 0.1, "weight_decay": 0.3},
        ]
        reference = theirs(groups, **options)
        for _ in range(4):
            for p, twin in zip(params, twins, strict=True):
                p.write_grad(rng.standard_normal(p.data.shape))
                twin.grad = torch.from_numpy(p.grad.copy())
            torch.nn.utils.clip_grad_norm_(twins, 1.0)
            optimizer.step(0.1)
            reference.step()
        for p, twin in zip(params, twins, strict=True):
            np.testing.assert_allclose(p.data, twin.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_a_group_that_joins_later_counts_its_own_steps():
    """Adam's first step moves each weight by the rate, whenever that is; the others go on with what they have."""
    a, b = (nn.module.Param(n, np.zeros(3)) for n in "ab")
    first, alone = Adam([a]), Adam([nn.module.Param("a", np.zeros(3))])
    for _ in range(5):
        for o in (first, alone):
            o.params[0].write_grad(np.full(3, 2.0))
            o.step(0.1)
    both = Adam([{"params": [b], "began": 5}, {"params": [a]}])
    both.take_over(first)
    for o in (both, alone):
        for p in o.params:
            p.write_grad(np.full(3, 2.0))
        o.step(0.1)
    np.testing.assert_allclose(b.data, -0.1, rtol=1e-6)
    np.testing.assert_array_equal(a.data, alone.params[0].data)


def test_groups_that_cannot_be():
    a, b = (nn.module.Param(n, np.zeros(3)) for n in "ab")
    with pytest.raises(ConfigError, match="unexpected keyword argument 'lr': it has params, lr_scale"):
        SGD([{"params": [a], "lr": 0.1}])
    with pytest.raises(ConfigError, match="lr_scale: expected a finite number above 0, got 0"):
        SGD([{"params": [a], "lr_scale": 0}])
    with pytest.raises(ConfigError, match="a is in two groups of parameters"):
        SGD([{"params": [a, b]}, {"params": [a]}])
    b.trainable = False
    with pytest.raises(StateError, match="at least one parameter that is not frozen"):
        SGD([{"params": [b]}])


RECIPES = {
    "groups": replace(RECIPE, freeze=FREEZE, rates=RATES),
    "unfreezing": replace(RECIPE, freeze={"stem": 2, "stage2": 1}, rates={"stage2": 0.1, "head": 3.0}, epochs=4),
    "adam": replace(RECIPE, freeze={"stem": 1}, rates={"head": 3.0}, optimizer="adam", lr=0.01, clip_norm=1.0),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop", [2, 5, 7])  # in the first epoch, at its end, in the second
def test_a_run_with_groups_resumes_to_the_bit(tmp_path, stop, recipe):
    whole = classifier()
    expected = fit(whole, TRAIN, TEST, recipe)
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, recipe, out=tmp_path, reporter=StopAfter(stop))
    resumed, progress = resume(tmp_path, TRAIN, TEST)
    assert_same(weights(whole), weights(resumed))
    assert [row["test_loss"] for row in progress.history] == [row["test_loss"] for row in expected.history]
    kept = Recipe(**load_checkpoint(tmp_path / "model.h5").training["recipe"])
    assert (kept.freeze, kept.rates) == (recipe.freeze, recipe.rates)


def test_frozen_for_some_epochs_then_trained():
    one = classifier()
    before, seen = weights(one), {}

    class Look(type(StopAfter(0)).__mro__[1]):
        def epoch(self, row, progress):
            seen[progress.epoch] = weights(one)

    recipe = RECIPES["unfreezing"]
    progress = fit(one, TRAIN, TEST, recipe, reporter=Look())
    stem, stage2 = (frozen_names(one.model, [name]) for name in ("stem", "stage2"))
    assert all(np.array_equal(seen[2][n], before[n]) for n in stem)
    assert any(not np.array_equal(seen[3][n], before[n]) for n in stem)
    assert all(np.array_equal(seen[1][n], before[n]) for n in stage2)
    assert all(not np.array_equal(seen[2][n], seen[1][n]) for n in stage2)
    assert all(m.training and not m.frozen for m in one.model.modules())  # as it was
    assert progress.check["skipped"] == ""


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_whole_run_leaves_frozen_weights_to_the_bit(optimizer):
    one = classifier()
    before = weights(one)
    fit(one, TRAIN, TEST, replace(RECIPE, freeze=FREEZE, rates=RATES, optimizer=optimizer, lr=None, weight_decay=0.1))
    rest = frozen_names(one.model, FREEZE)
    assert {n for n in before if np.array_equal(before[n], weights(one)[n])} == rest


def test_a_network_frozen_by_hand_stays_so():
    one = classifier()
    one.model.layers[0].freeze()
    before = weights(one)
    fit(one, TRAIN, None, RECIPE)
    assert_same(
        {n: weights(one)[n] for n in frozen_names(one.model, ["stem"])},
        {n: before[n] for n in frozen_names(one.model, ["stem"])},
    )
    assert not one.model.layers[0].is_trainable()
    one.model.layers[0].freeze(False)
    fit(one, TRAIN, None, RECIPE)
    assert not np.array_equal(weights(one)["conv1.w"], before["conv1.w"])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"freeze": ("stage1",)},
            r"stage1: resnet8 has no such part: choose of stem, stage2, stage3, stage4, head, or",
        ),
        ({"rates": {"tail": 2.0}}, "tail: resnet8 has no such part"),
        ({"freeze": ("stem", "stage2", "stage3", "stage4", "head")}, "every part is frozen: leave one to train"),
    ],
)
def test_parts_that_cannot_be(settings, line):
    one = classifier()
    with pytest.raises(ConfigError, match=line):
        fit(one, TRAIN, None, replace(RECIPE, **settings))
    assert one.model.is_trainable()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"rates": {"head": 0}}, "rates: head: expected a finite number above 0, got 0: or freeze that part"),
        ({"rates": {"head": math.nan}}, "rates: head: expected a finite number above 0"),
        ({"freeze": {"stem": 0}}, "freeze: stem: expected epochs, a whole number from 1"),
        ({"freeze": {"stem": 1.5}}, "freeze: stem: expected epochs"),
    ],
)
def test_numbers_that_no_recipe_takes(settings, line):
    with pytest.raises(ConfigError, match=line):
        Recipe(**settings)


def test_a_recipe_says_what_rests_and_how_fast_the_rest_learns():
    model, recipe = network(), Recipe(freeze={"stem": None, "stage4": 2}, rates={"head": 10}, lr=0.01)
    assert describe(model, recipe) == [
        "frozen, batch normalisation in evaluation mode: stem, stage4 for 2 epochs",
        "learning rates: head 10x, all else 0.01",
    ]
    assert describe(model, Recipe()) == []


def test_classes_are_kept_by_name():
    source = classifier()
    new = with_classes(source, ("columns", "dots", "rows"))
    ours, theirs = new.model.layers[-1], source.model.layers[-1]
    np.testing.assert_array_equal(ours.w.data[:, [2, 0]], theirs.w.data)
    np.testing.assert_array_equal(ours.b.data[[2, 0]], theirs.b.data)
    assert ours.w.data[:, 1].any()
    head = {p.name for p in ours.params()}
    assert_same(*({n: a for n, a in c.model.state().items() if n not in head} for c in (source, new)))
    assert (new.preprocess, new.model.config.classes) == (source.preprocess, 3)
    assert describe_classes(source.classes, new.classes) == "the classifier's classes: kept: columns, rows; new: dots"
    assert "all 2 classes are those of the weights" in describe_classes(source.classes, source.classes)
    assert "not used any more: columns" in describe_classes(source.classes, ("rows", "dots"))
    same = with_classes(source, source.classes)
    assert evaluate(same, TEST).loss == evaluate(source, TEST).loss


def test_another_size_keeps_what_it_can():
    source = classifier()
    assert with_classes(source, source.classes, input_shape=(16, 16, 3)).model.config.input_shape == (16, 16, 3)
    flat = nn.resnet("resnet18", (64, 64, 3), 2)
    source = type(source)(flat, source.classes, source.preprocess)
    larger = with_classes(source, source.classes, input_shape=(128, 128, 3))
    assert larger.model.layers[-1].w.data.shape == (4 * 512, 2)
    assert larger.model.layers[-1].name == "fc2"


def test_the_instruments_find_no_fault_in_what_is_frozen():
    model = network()
    model.layers[0].freeze()
    model.layers[2].freeze()
    assert audit(model).ok
    assert gradcheck(model, batch()[0][:2], coordinates=0).ok
    assert not model.layers[0].is_trainable()


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_parts_the_one_inside_has_the_last_word(turned):
    """In whichever order they are named: a stage, a block of it, a layer of that."""
    rates = {"stage3": 0.5, "layer2.0": 2.0, "layer2.0.conv1": 7.0}
    recipe = Recipe(rates=dict(reversed(rates.items())) if turned else rates)
    groups = make_optimizer(network(), recipe).groups
    scale = {param.name: group.lr_scale for group in groups for param in group.params}
    assert (scale["layer2.0.conv1.w"], scale["layer2.0.conv2.w"], scale["layer3.0.conv1.w"]) == (7.0, 2.0, 1.0)
