"""Add, concatenation and multiplication: against the loops, finite differences and torch."""

import numpy as np
import pytest
from arrays import assert_gradients, assert_same, normal
from hypothesis import given
from hypothesis import strategies as st

from minires import ops
from minires.ops import naive

SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.tuples(st.integers(1, 5), st.integers(1, 6)),
)
DTYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32)


@given(SHAPES, DTYPES, SEEDS)
def test_add(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    branch, shortcut, dy = (normal(rng, shape, dtype) for _ in range(3))
    assert_same(ops.add_forward(branch, shortcut), naive.add_forward(branch, shortcut))
    assert_same(ops.add_backward(dy), naive.add_backward(dy))
    if dtype == np.float64:
        assert_gradients(ops.add_forward, [branch, shortcut], ops.add_backward(dy), dy)


@given(SHAPES, st.lists(st.integers(1, 3), min_size=1, max_size=4), DTYPES, SEEDS)
def test_concat(shape, channels, dtype, seed):
    rng = np.random.default_rng(seed)
    xs = [normal(rng, (*shape[:-1], C), dtype) for C in channels]
    y = ops.concat_forward(*xs)
    dy = normal(rng, y.shape, dtype)
    dxs = ops.concat_backward(dy, channels)
    assert_same(y, naive.concat_forward(*xs))
    assert_same(dxs, naive.concat_backward(dy, channels))
    assert_same(ops.concat_backward(y, channels), tuple(xs))
    if dtype == np.float64:
        assert_gradients(ops.concat_forward, xs, dxs, dy)


@given(st.tuples(*[st.integers(1, 4)] * 4), st.sampled_from(["whole", "row", "map"]), DTYPES, SEEDS)
def test_multiply(shape, kind, dtype, seed):
    torch = pytest.importorskip("torch")
    (N, _, _, C), rng = shape, np.random.default_rng(seed)
    gate = normal(rng, {"whole": shape, "row": (N, C), "map": (N, 1, 1, C)}[kind], dtype)
    x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
    y, grads = ops.multiply_forward(x, gate), ops.multiply_backward(dy, x, gate)
    assert_same(y, naive.multiply_forward(x, gate))
    assert_same(grads, naive.multiply_backward(dy, x, gate))
    tx, tgate = (torch.tensor(a, requires_grad=True) for a in (x, gate))
    ty = tx * (tgate[:, None, None] if kind == "row" else tgate)
    ty.backward(torch.tensor(dy))
    assert_same((y, *grads), (ty.detach().numpy(), tx.grad.numpy(), tgate.grad.numpy()))
    if dtype == np.float64:
        assert_gradients(ops.multiply_forward, [x, gate], grads, dy)
