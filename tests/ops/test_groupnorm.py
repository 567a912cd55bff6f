"""Group normalisation: against the loops, finite differences and torch; images stay apart; its precision."""

import numpy as np
import pytest
from arrays import assert_gradients, assert_same, frozen, normal
from hypothesis import given
from hypothesis import strategies as st

from minires import nn, ops
from minires.errors import ConfigError, ShapeError
from minires.ops import naive

EPSILON = 1e-2


@st.composite
def batches(draw, dtypes=(np.float32, np.float64)):
    """(x, gamma, beta, dy, groups): a batch (N, H, W, C) or (N, C), at least four values a group."""
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    C = groups * each
    maps = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(2, 4), st.just(C))
    rows = st.tuples(st.integers(1, 4), st.just(4 * C))
    shape = draw(st.one_of(maps, rows))
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(dtypes))
    x = frozen((rng.standard_normal(shape) + rng.standard_normal(shape[-1]) * 3).astype(dtype))
    return x, normal(rng, shape[-1], dtype), normal(rng, shape[-1], dtype), normal(rng, shape, dtype), groups


def statistics(x, groups):
    mean, var = ops.groupnorm_statistics(x, groups)
    return frozen(mean, 1 / np.sqrt(var + EPSILON))


def whole(x, gamma, beta, groups):
    return ops.groupnorm_forward(x, gamma, beta, *statistics(x, groups))


@given(batches())
def test_groupnorm_is_the_loops(case):
    x, gamma, beta, dy, groups = case
    assert_same(ops.groupnorm_statistics(x, groups), naive.groupnorm_statistics(x, groups))
    for name, arguments in {"groupnorm_forward": (x, gamma, beta), "groupnorm_backward": (dy, x, gamma)}.items():
        arguments = *arguments, *statistics(x, groups)
        assert_same(getattr(ops, name)(*arguments), getattr(naive, name)(*arguments))


@given(batches(dtypes=(np.float64,)))
def test_gradients(case):
    x, gamma, beta, dy, groups = case
    grads = ops.groupnorm_backward(dy, x, gamma, *statistics(x, groups))
    assert_gradients(lambda *a: whole(*a, groups), (x, gamma, beta), grads, dy)


@given(batches(dtypes=(np.float64,)))
def test_an_image_does_not_see_its_neighbours(case):
    x, gamma, beta, _, groups = case
    alone = np.concatenate([whole(x[n : n + 1], gamma, beta, groups) for n in range(len(x))])
    np.testing.assert_allclose(whole(x, gamma, beta, groups), alone, rtol=1e-12, atol=1e-12)


@given(batches())
def test_groupnorm_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    x, gamma, beta, dy, groups = case
    last_to_second, second_to_last = (0, x.ndim - 1, *range(1, x.ndim - 1)), (0, *range(2, x.ndim), 1)
    tx, tg, tb = (torch.tensor(a, requires_grad=True) for a in (x.transpose(last_to_second), gamma, beta))
    ty = torch.nn.functional.group_norm(tx, groups, tg, tb, eps=EPSILON)
    ty.backward(torch.tensor(dy.transpose(last_to_second)))
    dx, dgamma, dbeta = ops.groupnorm_backward(dy, x, gamma, *statistics(x, groups))
    assert_same(whole(x, gamma, beta, groups), ty.detach().numpy().transpose(second_to_last))
    assert_same(dx, tx.grad.numpy().transpose(second_to_last))
    assert_same(dgamma, tg.grad.numpy())
    assert_same(dbeta, tb.grad.numpy())


def test_a_large_mean_costs_no_digits():
    x = 1e4 + np.random.default_rng(0).standard_normal((2, 8, 8, 4))
    _, var = ops.groupnorm_statistics(x.astype(np.float32), 2)
    _, exact = ops.groupnorm_statistics(x.astype(np.float32).astype(np.float64), 2)
    np.testing.assert_allclose(var, exact, rtol=1e-5)


def test_float16_is_summed_in_float32():
    x = frozen(np.full((1, 16, 16, 512), 60, np.float16))
    layer = nn.GroupNorm("groups", 512, 4).astype(np.float16)
    assert np.array_equal(layer(x), np.zeros_like(x))
    assert [a.dtype for a in (layer.backward(x), layer.gamma.grad, layer.beta.grad)] == [np.float16] * 3


def test_groups_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ConfigError, match="mine: 6 channels do not make 4 equal groups"):
        nn.GroupNorm("mine", 6, 4)
    for shape in ((2, 3, 3, 6), (2, 0, 3, 4)):
        for op in (ops.groupnorm_statistics, naive.groupnorm_statistics):
            with pytest.raises(ShapeError, match="groups"):
                op(np.zeros(shape), 4)
