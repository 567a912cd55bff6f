"""Optimisers and schedules: against their definitions, and against PyTorch where it is installed."""

import math

import numpy as np
import pytest

from minires import resnet
from minires.errors import CheckpointError, ConfigError, StateError
from minires.fast.step import make_step
from minires.nn import Param
from minires.train import SGD, Adam, AdamW, Recipe, Schedule


def make_params(dtype=np.float64):
    rng = np.random.default_rng(1)
    return [
        Param("a.w", rng.standard_normal((3, 4)).astype(dtype)),
        Param("a.b", rng.standard_normal(4).astype(dtype), decay=False),
        Param("c.w", rng.standard_normal((2, 2)).astype(dtype)),
    ]


def set_grads(params, step):
    rng = np.random.default_rng([2, step])
    for p in sorted(params, key=lambda p: p.name):
        p.write_grad(rng.standard_normal(p.data.shape).astype(p.data.dtype))


TWINS = [
    (SGD, {"momentum": 0.0}, "SGD", {}),
    (SGD, {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
    (Adam, {}, "Adam", {}),
    (AdamW, {}, "AdamW", {}),
]


@pytest.mark.parametrize(("ours", "options", "theirs", "their_options"), TWINS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [None, 0.5, 100.0])  # some, and a norm that no gradient here has
def test_steps_equal_pytorch(ours, options, theirs, their_options, decay, clip):
    torch = pytest.importorskip("torch")
    params = make_params()
    twins = {p.name: torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in params}
    groups = [
        {"params": [twins["a.w"], twins["c.w"]], "weight_decay": decay},
        {"params": [twins["a.b"]], "weight_decay": 0.0},
    ]
    reference = getattr(torch.optim, theirs)(groups, lr=0.1, **their_options)
    optimizer = ours(params, weight_decay=decay, clip_norm=clip, **options)
    for step in range(5):
        set_grads(params, step)
        for p in params:
            twins[p.name].grad = torch.from_numpy(p.grad.copy())
        if clip:
            torch.nn.utils.clip_grad_norm_(twins.values(), clip)
        optimizer.step(0.1)
        reference.step()
    for p in params:
        np.testing.assert_allclose(p.data, twins[p.name].detach().numpy(), rtol=1e-6, atol=1e-9)


def test_first_adam_step_moves_every_weight_by_the_learning_rate():
    params = make_params()
    before = {p.name: p.data.copy() for p in params}
    optimizer = Adam(params)
    set_grads(params, 0)
    signs = {p.name: np.sign(p.grad) for p in params}
    optimizer.step(0.01)
    for p in params:
        np.testing.assert_allclose(before[p.name] - p.data, 0.01 * signs[p.name], rtol=1e-6)


def test_momentum_adds_up_to_lr_over_one_minus_momentum():
    (p,) = params = [Param("w", np.zeros(3))]
    optimizer = SGD(params, momentum=0.5)
    p.write_grad(np.ones(3))
    for _ in range(60):
        before = p.data.copy()
        optimizer.step(0.1)
    np.testing.assert_allclose(before - p.data, 0.2, rtol=1e-9)


@pytest.mark.parametrize("decay_all", [False, True])
def test_decay_spares_batchnorm_and_biases_unless_told(decay_all):
    model = resnet("resnet8", (8, 8, 3), 4, variant="course")
    before = {p.name: p.data.copy() for p in model.params()}
    optimizer = SGD(model.params(), momentum=0.0, weight_decay=0.5, decay_all=decay_all)
    optimizer.step(0.1)  # gradients are zero: only the decay acts
    for p in model.params():
        factor = 0.95 if decay_all or p.name.endswith(".w") else 1.0
        np.testing.assert_allclose(p.data, before[p.name] * factor, rtol=1e-6)


def test_parameters_are_views_of_one_buffer():
    params = make_params()
    values = [p.data.copy() for p in params]
    optimizer = SGD(params)
    for p, value in zip(params, values, strict=True):
        np.testing.assert_array_equal(p.data, value)
        assert p.data.base is optimizer.weights
        assert p.grad.base is optimizer.grads


def test_clipping_scales_the_whole_gradient_and_reports_the_norm_before():
    params = make_params()
    optimizer = SGD(params, momentum=0.0, clip_norm=1.0)
    set_grads(params, 0)
    true = math.sqrt(sum(float((p.grad**2).sum()) for p in params))
    before = optimizer.weights.copy()
    assert float(optimizer.step(1.0)) == pytest.approx(true)
    assert np.linalg.norm(before - optimizer.weights) == pytest.approx(1.0)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_float32_stays_float32(optimizer):
    params = make_params(np.float32)
    o = optimizer(params, weight_decay=0.1, clip_norm=1.0)
    set_grads(params, 0)
    o.step(0.1)
    assert {p.data.dtype for p in params} == {np.dtype(np.float32)}


def test_a_model_that_was_converted_needs_a_new_optimizer():
    model = resnet("resnet8", (8, 8, 3), 4)
    optimizer = SGD(model.params())
    model.astype(np.float64)
    for use in (lambda: optimizer.step(0.1), lambda: make_step(model, optimizer)):
        with pytest.raises(StateError, match="make a new optimiser"):
            use()


def test_state_travels_and_a_wrong_one_is_refused():
    one, two = make_params(), make_params()
    first, second = Adam(one), Adam(two)
    for step in range(3):
        set_grads(one, step)
        first.step(0.1)
    second.weights[:] = first.weights
    second.load_state(first.named_state(), first.steps)
    for params, optimizer in ((one, first), (two, second)):
        set_grads(params, 9)
        optimizer.step(0.1)
    np.testing.assert_array_equal(first.weights, second.weights)
    with pytest.raises(CheckpointError, match="velocity"):
        SGD(make_params()).load_state(first.named_state(), 3)


def test_no_parameters():
    with pytest.raises(StateError):
        SGD([])


def rates(kind, **options):
    schedule = Schedule(kind, 1.0, 100, **options)
    return [schedule(step) for step in range(100)]


def test_constant_and_its_warmup():
    assert rates("constant") == [1.0] * 100
    warm = rates("constant", warmup=10)
    np.testing.assert_allclose(warm[:10], np.arange(1, 11) / 10)
    assert warm[10:] == [1.0] * 90


def test_step_drops_by_ten():
    values = rates("step")
    np.testing.assert_allclose([values[49], values[50], values[75], values[99]], [1, 0.1, 0.01, 0.01])


def test_cosine_falls_all_the_way_and_spends_no_step_at_zero():
    values = rates("cosine", warmup=5)
    assert values[4] == values[5] == 1.0
    assert values[5:] == sorted(values[5:], reverse=True)
    n = 95  # after the warm-up, as in the docstring: the rate is 0 one step after the last
    np.testing.assert_allclose(values[5:], [(1 + math.cos(math.pi * t / n)) / 2 for t in range(n)])
    assert 0 < values[-1] < 1e-3


@pytest.mark.parametrize("kind", ["constant", "step", "cosine", "onecycle"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 11])
@pytest.mark.parametrize("steps", [1, 2, 3, 34])
def test_a_run_of_any_length_reaches_its_peak_and_ends_low(kind, epochs, steps):
    """The warm-up that nobody asked for is a share of the run at most."""
    schedule = Recipe(epochs=epochs, schedule=kind, lr=1.0).make_schedule(steps)
    values = [schedule(step) for step in range(epochs * steps)]
    assert max(values) == 1.0
    assert values.index(1.0) <= 0.3 * len(values) + 1
    if len(values) > 3:
        assert values[-1] <= {"constant": 1, "step": 0.01, "cosine": 0.5, "onecycle": 1e-4}[kind] * (1 + 1e-9)


def test_the_schedule_of_the_default_recipe():
    """11 epochs of 34 steps, on which the README rests: an epoch up from a twenty-fifth, then the cosine down."""
    schedule = Recipe().make_schedule(34)
    assert schedule == Schedule("onecycle", 2e-3, 374, 34)
    np.testing.assert_allclose([schedule(s) for s in (0, 17, 34, 373)], [8e-5, 1.04e-3, 2e-3, 2e-7], 1e-4)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 1.0), (3, 5), (3, 3.0)])
def test_a_warmup_as_long_as_the_run_is_refused(epochs, warmup):
    with pytest.raises(ConfigError, match=f"a warm-up of {warmup:g} epochs fills the whole run of {epochs}: shorten"):
        Recipe(epochs=epochs, warmup_epochs=warmup)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD(p, momentum=1.0), "momentum: expected a number of at least 0 and below 1, got 1.0"),
        (lambda p: SGD(p, weight_decay=-5), "weight_decay: expected a finite number of at least 0, got -5"),
        (lambda p: SGD(p, clip_norm=0), "clip_norm: expected a finite number above 0, got 0"),
        (lambda p: Adam(p, betas=(0.9, 1.0)), "betas: expected two numbers, each a number of at least 0 and below 1"),
        (lambda p: Adam(p, betas=0.9), "betas: expected two numbers"),
        (lambda p: Adam(p, epsilon=float("nan")), "epsilon: expected a finite number above 0, got nan"),
        (lambda p: AdamW(p, weight_decay="0.1"), "weight_decay: expected a finite number of at least 0, got '0.1'"),
        (lambda p: AdamW(p, weight_decay=10**400), "weight_decay: expected a finite number"),
    ],
)
def test_numbers_that_no_optimizer_takes(make, message):
    with pytest.raises(ConfigError, match=message):
        make(make_params())


@pytest.mark.parametrize("warmup", [0, 10])
def test_onecycle_rises_then_falls(warmup):
    values = rates("onecycle", warmup=warmup)
    peak = int(np.argmax(values))
    assert peak == (warmup or 30)
    assert values[0] == pytest.approx(1 / 25)
    assert values[peak] == 1.0
    assert values[-1] == pytest.approx(1e-4)


def test_onecycle_equals_pytorch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=100, pct_start=0.3, final_div_factor=1e4 / 25
    )
    values = []
    for _ in range(100):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = rates("onecycle")
    np.testing.assert_allclose(max(ours), max(values), rtol=1e-3)
    np.testing.assert_allclose(ours, values, atol=0.03)  # PyTorch puts the peak one step earlier


def test_after_the_end_the_last_rate_holds():
    schedule = Schedule("cosine", 1.0, 10)
    assert schedule(50) == schedule(9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linear", 1.0, 10), "unknown schedule"),
        (("cosine", 0.0, 10), "peak: expected a finite number above 0, got 0.0"),
        (("cosine", float("nan"), 10), "above 0"),
        (("cosine", float("inf"), 10), "above 0"),
        (("cosine", 1.0, 0), "total: expected a whole number from 1"),
        (("cosine", 1.0, 10, -1), "warmup: expected a whole number from 0"),
        (("cosine", 1.0, 10, 9), "a warm-up of 9 steps does not fit into a run of 10"),
    ],
)
def test_wrong_schedules(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Schedule(*arguments)


def test_weights_stay_where_there_is_memory_for_them_alone():
    """Ranks may get memory that all reach for the first array, and none for the second."""
    optimizer = SGD([Param("w", np.ones(3))])
    given = iter([np.empty(3), None])
    before = optimizer.weights
    assert not optimizer.move_to(lambda size, dtype: next(given))
    assert optimizer.weights is before
    assert optimizer.params[0].data.base is before
    assert optimizer.move_to(np.empty)
    assert optimizer.params[0].data.tolist() == [1, 1, 1]
    assert optimizer.params[0].data.base is optimizer.weights
