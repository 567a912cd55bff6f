"""A broken engine fails the lessons that rest on what was broken; a healthy one passes the same measurements."""

import math

import numpy as np
import pytest
from minires.lessons import harness

from minires import ops
from minires.fast import cpu
from minires.nn import init
from minires.ops import conv

pytestmark = pytest.mark.slow


def drop_the_shortcuts_gradient(monkeypatch):
    """The add node hands the shortcut nothing."""
    monkeypatch.setattr(ops, "add_backward", lambda dy: (dy, 0 * dy))


def average_at_the_add(monkeypatch):
    """The add node halves."""
    monkeypatch.setattr(ops, "add_backward", lambda dy: (dy / 2, dy / 2))


def drop_the_mean_term(monkeypatch):
    """BN's backward without what flows through the mean."""
    right = ops.batchnorm_backward

    def wrong(dy, x, gamma, mean, rstd):
        dx, dgamma, dbeta = right(dy, x, gamma, mean, rstd)
        return dx + gamma * rstd * dbeta * (x.shape[-1] / x.size), dgamma, dbeta

    monkeypatch.setattr(ops, "batchnorm_backward", wrong)


def he_times(factor):
    """He's weights, scaled."""
    right = init.INITIALISERS["he"]
    return lambda monkeypatch: monkeypatch.setitem(init.INITIALISERS, "he", lambda *args: factor * right(*args))


def columns_first(monkeypatch):
    """im2col lays out a field of pixels column by column."""
    right = conv.im2col

    def wrong(x, kernel, *options):
        (R, S), columns = kernel, right(x, kernel, *options)
        return columns.reshape(-1, R, S, x.shape[3]).swapaxes(1, 2).reshape(columns.shape)

    monkeypatch.setattr(conv, "im2col", wrong)


def turn_winograds_kernel(monkeypatch):
    """The compiled tiles compute a true convolution, with the kernel turned."""
    kernels = compiled_kernels()
    right = kernels.winograd
    monkeypatch.setattr(kernels, "winograd", lambda x, w, *rest: right(x, w[::-1, ::-1].copy(), *rest))


def never_take_tiles(monkeypatch):
    """Whoever asks for Winograd's tiles gets the direct sum."""
    compiled_kernels()
    right = ops.conv2d_forward

    def wrong(*arrays, algorithm=None, **options):
        return right(*arrays, algorithm="direct" if algorithm == "winograd" else algorithm, **options)

    monkeypatch.setattr(ops, "conv2d_forward", wrong)


def compiled_kernels():
    if not cpu.enabled():
        pytest.skip(cpu.description())
    return cpu._kernels


RESTS_ON = (
    (drop_the_shortcuts_gradient, 1, {}),
    (drop_the_shortcuts_gradient, 2, {}),
    (drop_the_shortcuts_gradient, 3, {"skip": "pre"}),
    (drop_the_shortcuts_gradient, 6, {}),
    (drop_the_shortcuts_gradient, 7, {}),
    (drop_the_shortcuts_gradient, 11, {"steps": 0}),
    (average_at_the_add, 1, {}),
    (average_at_the_add, 3, {"skip": "post"}),
    (drop_the_mean_term, 2, {}),
    (drop_the_mean_term, 4, {"bn": "on"}),
    (drop_the_mean_term, 7, {}),
    (he_times(2), 3, {"skip": "none"}),
    (he_times(1 / 2), 3, {"skip": "none"}),
    (he_times(math.sqrt(2)), 3, {"skip": "none"}),  # the variance wrong by 2
    (he_times(2), 4, {"bn": "off"}),
    (columns_first, 14, {}),
    (turn_winograds_kernel, 14, {}),
    (never_take_tiles, 14, {}),
)


def judge(number, overrides):
    """Measure and check a lesson in its quick form."""
    module = harness.load(number)
    with np.errstate(all="ignore"):
        result = module.measure(**harness.default_knobs(module.measure, module.LESSON) | overrides)
    return module.check(result)


@pytest.mark.parametrize(("bug", "number", "overrides"), RESTS_ON)
def test_a_broken_engine_fails_its_lessons(monkeypatch, bug, number, overrides):
    bug(monkeypatch)
    with pytest.raises(harness.ClaimError):
        judge(number, overrides)


CASES = list(dict.fromkeys((number, tuple(overrides.items())) for _, number, overrides in RESTS_ON))


@pytest.mark.parametrize(("number", "overrides"), CASES)
def test_the_healthy_engine_passes_the_same(number, overrides):
    assert any(claim.judged for claim in judge(number, dict(overrides)))
