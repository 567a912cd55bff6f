"""Batch normalisation: against the loops, finite differences and torch; its two identities; its precision."""

import numpy as np
import pytest
from arrays import OUTLIERS, assert_gradients, assert_same, assert_variance, frozen, normal, with_outliers
from hypothesis import given
from hypothesis import strategies as st

from minires import backend, nn, ops
from minires.errors import ShapeError
from minires.ops import naive

EPSILON = 1e-2
DTYPES = st.sampled_from([np.float32, np.float64])


def reciprocal(var, epsilon=EPSILON):
    """rstd = 1 / sqrt(var + epsilon)."""
    return 1 / np.sqrt(var + epsilon)


@st.composite
def batches(draw, dtypes=DTYPES):
    """(x, gamma, beta, dy): a batch (N, H, W, C) or (N, C) of at least four values a channel."""
    C = draw(st.integers(1, 4))
    maps = st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 4), st.just(C))
    shape = draw(st.one_of(maps, st.tuples(st.integers(4, 9), st.just(C))))
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(dtypes)
    offset = rng.standard_normal(C) * 3
    x = frozen((rng.standard_normal(shape) * (0.5 + rng.random(C)) + offset).astype(dtype))
    return x, normal(rng, C, dtype), normal(rng, C, dtype), normal(rng, shape, dtype)


def statistics(x):
    mean, var = ops.batchnorm_statistics(x)
    return frozen(mean, reciprocal(var))


@given(batches())
def test_statistics_are_the_loops(case):
    x = case[0]
    assert_same(ops.batchnorm_statistics(x), naive.batchnorm_statistics(x))


@given(batches())
def test_batchnorm_is_the_loops(case):
    x, gamma, beta, dy = case
    mean, rstd = statistics(x)
    for name, arguments in {
        "batchnorm_forward": (x, gamma, beta, mean, rstd),
        "batchnorm_backward": (dy, x, gamma, mean, rstd),
        "batchnorm_eval_backward": (dy, x, gamma, mean, rstd),
    }.items():
        assert_same(getattr(ops, name)(*arguments), getattr(naive, name)(*arguments))
    sums = ops.batchnorm_sums(dy, x, mean, rstd)
    assert_same(sums, naive.batchnorm_sums(dy, x, mean, rstd))
    shared = *sums, 3 * x.size // x.shape[-1]  # those of three such batches
    assert_same(
        ops.batchnorm_dx(dy, x, gamma, mean, rstd, *shared), naive.batchnorm_dx(dy, x, gamma, mean, rstd, *shared)
    )
    for unbiased in (True, False):
        moved, options = (gamma, rstd, mean, beta, len(x)), {"momentum": 0.7, "unbiased": unbiased}
        assert_same(ops.batchnorm_running(*moved, **options), naive.batchnorm_running(*moved, **options))


@given(batches())
def test_small_chunks_change_nothing(case):
    x, gamma, beta, dy = case
    mean, rstd = statistics(x)

    def everything():
        return (
            *ops.batchnorm_statistics(x),
            ops.batchnorm_forward(x, gamma, beta, mean, rstd),
            *ops.batchnorm_backward(dy, x, gamma, mean, rstd),
            *ops.batchnorm_eval_backward(dy, x, gamma, mean, rstd),
        )

    whole = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "CHUNK", 1)
        assert len(backend.row_chunks(3, 2, x)) == 3
        assert_same(everything(), whole)


@given(batches(dtypes=st.just(np.float64)))
def test_gradients_in_training(case):
    """The statistics move with x."""
    x, gamma, beta, dy = case

    def forward(x, gamma, beta):
        mean, var = ops.batchnorm_statistics(x)
        return ops.batchnorm_forward(x, gamma, beta, mean, reciprocal(var))

    gradients = ops.batchnorm_backward(dy, x, gamma, *statistics(x))
    assert_gradients(forward, [x, gamma, beta], gradients, dy, tolerance=1e-6)


@given(batches(dtypes=st.just(np.float64)))
def test_gradients_in_evaluation(case):
    """The statistics are constants."""
    x, gamma, beta, dy = case
    mean, rstd = frozen(np.full(len(gamma), 0.3), np.full(len(gamma), 1.7))
    gradients = ops.batchnorm_eval_backward(dy, x, gamma, mean, rstd)
    assert_gradients(
        lambda x, gamma, beta: ops.batchnorm_forward(x, gamma, beta, mean, rstd), [x, gamma, beta], gradients, dy
    )


@given(batches(dtypes=st.just(np.float64)))
def test_output_is_standardised(case):
    """With gamma 1 and beta 0 each channel has mean 0 and variance var / (var + epsilon)."""
    x = case[0]
    mean, var = ops.batchnorm_statistics(x)
    y = ops.batchnorm_forward(x, np.ones_like(mean), np.zeros_like(mean), mean, reciprocal(var))
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axes), var / (var + EPSILON), rtol=1e-10)


@given(batches(dtypes=st.just(np.float64)))
def test_input_gradient_sums_to_zero_and_is_orthogonal_to_the_output(case):
    """Neither a shift of x (exactly) nor a stretch (for epsilon 0) changes y: dx has no part along either."""
    x, gamma, _, dy = case
    mean, var = ops.batchnorm_statistics(x)
    rstd = reciprocal(var, epsilon=0)
    dx, _, _ = ops.batchnorm_backward(dy, x, gamma, mean, rstd)
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(dx.sum(axes), 0, atol=1e-10)
    np.testing.assert_allclose((dx * (x - mean) * rstd).sum(axes), 0, atol=1e-10)


@given(batches())
def test_a_broadcast_gradient_is_fine(case):
    """Global average pooling hands back one number for the whole map, as a view."""
    x, gamma, _, dy = case
    dy = np.broadcast_to(dy[:1], dy.shape)
    mean, rstd = statistics(x)
    assert_same(ops.batchnorm_backward(dy, x, gamma, mean, rstd), naive.batchnorm_backward(dy, x, gamma, mean, rstd))


@pytest.mark.parametrize("shape", [(32, 32, 32, 8), (4096, 3)])
def test_a_large_mean_costs_no_digits(shape):
    """Mean 1e4, deviation 1: the float32 result is off by no more than float32's steps near 1e4 (about 1e-3).

    The formula mean(x^2) - mean(x)^2 would lose the variance altogether: 1e8 has steps of 8.
    """
    x = (np.random.default_rng(0).standard_normal(shape) + 1e4).astype(np.float32)
    exact = x.astype(np.float64)
    axes = tuple(range(x.ndim - 1))
    mean, var = ops.batchnorm_statistics(x)
    step = np.spacing(np.float32(1e4))
    np.testing.assert_allclose(mean, exact.mean(axes), atol=2 * step)
    np.testing.assert_allclose(var, exact.var(axes), rtol=1e-5)
    y = ops.batchnorm_forward(x, np.ones_like(mean), np.zeros_like(mean), mean, reciprocal(var, 0))
    np.testing.assert_allclose(y, (exact - exact.mean(axes)) / exact.std(axes), atol=2 * step)


@pytest.mark.parametrize("by", [30, 1000])
@pytest.mark.parametrize("where", OUTLIERS)
def test_statistics_do_not_hang_on_a_few_values(where, by):
    """Wherever values lie that are many deviations from all the others; the kernels have the same tests."""
    x = with_outliers(where, by)
    mean, var = ops.batchnorm_statistics.as_read(x)
    assert_variance(var, x)
    exact = x.astype(np.float64)
    assert np.abs((mean - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))).max() < 5e-7


@pytest.mark.parametrize(("shape", "mean", "deviation"), [((16, 112, 112, 4), 20, 1), ((16, 8, 8, 4), 0, 300)])
@pytest.mark.filterwarnings("error")
def test_float16_is_summed_in_float32(shape, mean, deviation):
    """A sum of 200,000 values and a variance of 90,000 are more than float16 holds."""
    rng = np.random.default_rng(0)
    x = frozen((rng.standard_normal(shape) * deviation + mean).astype(np.float16))
    dy = frozen((rng.random(shape) - 0.5).astype(np.float16))
    gamma, beta = np.ones(4, np.float16), np.zeros(4, np.float16)
    axes, wide = tuple(range(3)), x.astype(np.float64)
    mean, var = ops.batchnorm_statistics(x)
    np.testing.assert_allclose(var, wide.var(axes), rtol=1e-5)
    rstd = reciprocal(var)
    y = ops.batchnorm_forward(x, gamma, beta, mean, rstd)
    dx, dgamma, _ = ops.batchnorm_backward(dy, x, gamma, mean, rstd)
    assert {a.dtype for a in (y, dx, dgamma)} == {np.dtype(np.float16)}
    exact = wide.mean(axes), reciprocal(wide.var(axes))
    np.testing.assert_allclose(y, (wide - exact[0]) * exact[1], atol=0.01)
    right = ops.batchnorm_backward(dy.astype("f8"), wide, gamma.astype("f8"), *exact)
    np.testing.assert_allclose(dx, right[0], atol=3e-3 * np.abs(right[0]).max())
    assert np.isfinite(dgamma).all()


@pytest.mark.filterwarnings("error")
def test_the_layer_takes_float16():
    x = (300 * np.random.default_rng(0).standard_normal((16, 8, 8, 4))).astype(np.float16)
    layer = nn.BatchNorm("bn", 4).astype(np.float16)
    y = layer.forward(x)
    dx = layer.backward(y)
    assert y.dtype == dx.dtype == layer.gamma.grad.dtype == np.float16
    assert y.std() == pytest.approx(1, abs=0.01)
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("shape", [(0, 5, 5, 3), (0, 3), (2, 0, 5, 3), (2, 5, 5, 0)])
def test_an_empty_batch_has_no_statistics(shape):
    for statistics in (ops.batchnorm_statistics, naive.batchnorm_statistics, nn.BatchNorm("bn", shape[-1]).forward):
        with pytest.raises(ShapeError, match="no mean and variance"):
            statistics(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3])
def test_a_constant_channel_has_no_variance(value):
    mean, var = ops.batchnorm_statistics(np.full((3, 7, 5, 2), value, np.float32))
    np.testing.assert_allclose(mean, value, rtol=1e-6)
    assert (var >= 0).all()
    np.testing.assert_allclose(var, 0, atol=1e-12 * (1 + value**2))


@given(batches())
def test_batchnorm_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    x, gamma, beta, dy = case
    last_to_second = (0, x.ndim - 1, *range(1, x.ndim - 1))
    second_to_last = (0, *range(2, x.ndim), 1)
    tx, tg, tb = (torch.tensor(a, requires_grad=True) for a in (x.transpose(last_to_second), gamma, beta))
    ty = torch.nn.functional.batch_norm(tx, None, None, tg, tb, training=True, eps=EPSILON)
    ty.backward(torch.tensor(dy.transpose(last_to_second)))
    mean, rstd = statistics(x)
    dx, dgamma, dbeta = ops.batchnorm_backward(dy, x, gamma, mean, rstd)
    assert_same(ops.batchnorm_forward(x, gamma, beta, mean, rstd), ty.detach().numpy().transpose(second_to_last))
    assert_same(dx, tx.grad.numpy().transpose(second_to_last))
    assert_same((dgamma, dbeta), (tg.grad.numpy(), tb.grad.numpy()))
