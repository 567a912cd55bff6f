"""Layer normalisation: against the loops, finite differences and torch, over the last one, two or three axes."""

import numpy as np
import pytest
from arrays import assert_gradients, assert_same, frozen, normal
from hypothesis import given
from hypothesis import strategies as st

from minires import ops
from minires.ops import naive

EPSILON = 1e-2


@st.composite
def batches(draw, dtypes=(np.float32, np.float64)):
    """(x, gamma, beta, dy): a batch (N, H, W, C) or (N, C); gamma and beta say over how many axes."""
    maps = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(2, 6))
    shape = draw(st.one_of(maps, st.tuples(st.integers(1, 4), st.integers(2, 8))))
    axes = draw(st.integers(1, len(shape) - 1))
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(dtypes))
    x = frozen((rng.standard_normal(shape) + 3).astype(dtype))
    return x, *(normal(rng, shape[-axes:], dtype) for _ in range(2)), normal(rng, shape, dtype)


def statistics(x, axes):
    mean, var = ops.layernorm_statistics(x, axes)
    return frozen(mean, 1 / np.sqrt(var + EPSILON))


def whole(x, gamma, beta):
    return ops.layernorm_forward(x, gamma, beta, *statistics(x, gamma.ndim))


@given(batches())
def test_layernorm_is_the_loops(case):
    x, gamma, beta, dy = case
    axes = gamma.ndim
    assert_same(ops.layernorm_statistics(x, axes), naive.layernorm_statistics(x, axes))
    for name, arguments in {"layernorm_forward": (x, gamma, beta), "layernorm_backward": (dy, x, gamma)}.items():
        arguments = *arguments, *statistics(x, axes)
        assert_same(getattr(ops, name)(*arguments), getattr(naive, name)(*arguments))


@given(batches(dtypes=(np.float64,)))
def test_gradients(case):
    x, gamma, beta, dy = case
    grads = ops.layernorm_backward(dy, x, gamma, *statistics(x, gamma.ndim))
    assert_gradients(whole, (x, gamma, beta), grads, dy, step=1e-5)  # of two values that lie close it bends sharply


@given(batches())
def test_layernorm_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    x, gamma, beta, dy = case
    tx, tg, tb = (torch.tensor(a, requires_grad=True) for a in (x, gamma, beta))
    ty = torch.nn.functional.layer_norm(tx, gamma.shape, tg, tb, EPSILON)
    ty.backward(torch.tensor(dy))
    assert_same(whole(x, gamma, beta), ty.detach().numpy())
    grads = ops.layernorm_backward(dy, x, gamma, *statistics(x, gamma.ndim))
    assert_same(grads, tuple(t.grad.numpy() for t in (tx, tg, tb)))
