"""Pooling: against the loops, finite differences and torch; ties and paddings included."""

import numpy as np
import pytest
from arrays import assert_gradients, assert_same, frozen, normal, spread
from hypothesis import assume, given
from hypothesis import strategies as st

from minires import ops
from minires.errors import ShapeError
from minires.geometry import output_size, pool_window, resolve_padding
from minires.ops import naive

DTYPES = st.sampled_from([np.float32, np.float64])


@st.composite
def poolings(draw, numbers=spread, dtypes=DTYPES, symmetric=False, dilated=False):
    """(x, dy, options) of a pooling in which each window covers a pixel."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    stride = draw(st.one_of(st.none(), st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 6)))
    if symmetric:  # what PyTorch's pooling knows: at most half a window on both sides
        pad = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    else:
        numbers_below = [st.integers(0, k - 1) for k in kernel]
        four = st.tuples(*[st.tuples(below, below) for below in numbers_below])
        pad = draw(st.one_of(st.sampled_from(["valid", "same"]), st.tuples(*numbers_below), four))
    reach = {"dilation": draw(st.sampled_from([1, 2, (1, 3)]))} if dilated else {}
    reach["ceil_mode"] = draw(st.booleans())
    try:
        _, step, pads = pool_window(size, kernel, stride, pad, **reach)
    except ShapeError:
        assume(False)
    P, Q = output_size(size, kernel, step, pads, reach.get("dilation", 1))
    N, C = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(dtypes)
    options = {"kernel": kernel, "stride": stride, "pad": pad, **reach}
    return numbers(rng, (N, *size, C), dtype), normal(rng, (N, P, Q, C), dtype), options


def whole(rng, shape, dtype):
    """Small whole numbers: nearly every window has a tie, and many are all negative."""
    return frozen(rng.integers(-3, 1, shape).astype(dtype))


@given(st.one_of(poolings(dilated=True), poolings(whole, dilated=True)))
def test_max_pooling_is_the_loops(case):
    x, dy, options = case
    y = ops.maxpool_forward(x, **options)
    assert_same(y, naive.maxpool_forward(x, **options))
    y.setflags(write=False)
    assert_same(ops.maxpool_backward(dy, x, y, **options), naive.maxpool_backward(dy, x, y, **options))


@given(st.one_of(*(poolings(numbers, symmetric=True, dilated=True) for numbers in (spread, whole))))
def test_max_pooling_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    x, dy, options = case
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    settings = {"dilation": options["dilation"], "ceil_mode": options["ceil_mode"]}
    ty = torch.nn.functional.max_pool2d(tx, options["kernel"], options["stride"], options["pad"], **settings)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    y = ops.maxpool_forward(x, **options)
    assert_same(y, ty.detach().numpy().transpose(0, 2, 3, 1))
    assert_same(ops.maxpool_backward(dy, x, y, **options), tx.grad.numpy().transpose(0, 2, 3, 1))


def with_nan(rng, shape, dtype):
    """Numbers away from ties, some of them NaN."""
    x = spread(rng, shape, dtype).copy()
    x[rng.random(shape) < 0.1] = np.nan
    return frozen(x)


@given(poolings(with_nan, dilated=True))
def test_max_pooling_hands_on_a_nan_and_sends_the_gradient_there(case):
    """A window with several: to the first of them."""
    x, dy, options = case
    y = frozen(ops.maxpool_forward(x, **options))
    np.testing.assert_array_equal(y, naive.maxpool_forward(x, **options))
    dx = ops.maxpool_backward(dy, x, y, **options)
    assert_same(dx, naive.maxpool_backward(dy, x, y, **options))
    assert dx.sum() == pytest.approx(dy.sum(), rel=1e-4, abs=1e-4)


def test_the_gradient_of_a_nan_is_that_of_torch():
    """One NaN a window: of several PyTorch takes the last."""
    torch = pytest.importorskip("torch")
    x = spread(np.random.default_rng(0), (2, 9, 9, 3)).copy()
    x[:, 1::4, 1::4] = np.nan
    dy = normal(np.random.default_rng(1), (2, 4, 4, 3))
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    torch.nn.functional.max_pool2d(tx, 3, 2).backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    dx = ops.maxpool_backward(dy, x, ops.maxpool_forward(x, kernel=3, stride=2), kernel=3, stride=2)
    assert_same(dx, tx.grad.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("kernel", [6, (6, 1), (1, 6)])
@pytest.mark.parametrize("op", ["maxpool", "avgpool"])
def test_a_map_smaller_than_the_window_is_refused(op, kernel):
    x, y = np.ones((1, 5, 5, 1)), np.ones((1, 0, 0, 1))
    message = r"pooling: the map of 5x5 that arrives is smaller than the window: use a larger image"
    for forward in (getattr(ops, f"{op}_forward"), getattr(ops, f"{op}_forward").as_read):
        with pytest.raises(ShapeError, match=message):
            forward(x, kernel=kernel)
    backward = (y, x, y) if op == "maxpool" else (y, x.shape)
    with pytest.raises(ShapeError, match=message):
        getattr(ops, f"{op}_backward")(*backward, kernel=kernel)
    with pytest.raises(ShapeError, match="smaller than the window"):
        getattr(naive, f"{op}_forward")(x, kernel=kernel)


def test_the_mean_of_large_numbers_in_float16_is_finite():
    x = np.full((1, 7, 7, 2), 60000, np.float16)
    assert np.array_equal(ops.avgpool_forward(x, kernel=7), x[:, :1, :1])
    assert np.array_equal(ops.global_avgpool_forward(x), x[:, 0, 0])


@given(poolings(dtypes=st.just(np.float64), dilated=True))
def test_max_pooling_gradient(case):
    x, dy, options = case
    dx = ops.maxpool_backward(dy, x, ops.maxpool_forward(x, **options), **options)
    assert_gradients(lambda x: ops.maxpool_forward(x, **options), [x], [dx], dy)


@given(poolings(whole))
def test_max_pooling_hands_each_gradient_to_one_pixel(case):
    """All of dy arrives, and where windows do not overlap at most one pixel of each receives it."""
    x, dy, options = case
    dy = frozen(np.abs(dy) + 1)
    dx = ops.maxpool_backward(dy, x, ops.maxpool_forward(x, **options), **options)
    assert dx.sum() == pytest.approx(dy.sum(), rel=1e-5)
    assert np.count_nonzero(dx) <= dy.size


@pytest.mark.parametrize("pad", [2, (0, 2), ((0, 0), (0, 2))])
@pytest.mark.parametrize("forward", [ops.maxpool_forward, ops.avgpool_forward])
def test_a_window_without_a_pixel_is_refused(forward, pad):
    x = np.ones((1, 4, 4, 1))
    with pytest.raises(ShapeError, match=r"pooling: padding .* leaves a \(2, 2\) window without a pixel: pad less"):
        forward(x, kernel=2, pad=pad)
    assert np.isfinite(forward(x, kernel=2, pad=1)).all()


def test_dilated_cells_that_all_miss_the_map_are_refused():
    """Two cells two apart, one on each side of a map of one pixel."""
    x = np.ones((1, 1, 5, 1))
    for op in (ops.maxpool_forward, ops.maxpool_forward.as_read):
        with pytest.raises(ShapeError, match=r"leaves a \(2, 1\) window without a pixel"):
            op(x, kernel=(2, 1), stride=1, pad=(1, 0), dilation=2)


@pytest.mark.parametrize(("size", "pad", "windows"), [(5, 0, 3), (4, 0, 2), (4, 1, 3), (5, 1, 3), (1, 0, 1)])
def test_a_last_window_may_reach_beyond_the_map_but_not_start_behind_it(size, pad, windows):
    """2x2 windows, two apart, along a row of so many pixels."""
    x = np.arange(size, dtype=float).reshape(1, 1, size, 1) + 1
    options = {"kernel": (1, 2), "stride": 2, "pad": (0, pad), "ceil_mode": True}
    y = ops.maxpool_forward(x, **options)
    assert y.shape == (1, 1, windows, 1)
    assert y.max() == size


@given(poolings(), st.booleans())
def test_average_pooling_is_the_loops(case, count_include_pad):
    x, dy, options = case
    options = {**options, "count_include_pad": count_include_pad}
    assert_same(ops.avgpool_forward(x, **options), naive.avgpool_forward(x, **options))
    assert_same(ops.avgpool_backward(dy, x.shape, **options), naive.avgpool_backward(dy, x.shape, **options))


@given(poolings(symmetric=True), st.booleans())
def test_average_pooling_is_that_of_torch(case, count_include_pad):
    torch = pytest.importorskip("torch")
    x, dy, options = case
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    settings = {"ceil_mode": options["ceil_mode"], "count_include_pad": count_include_pad}
    ty = torch.nn.functional.avg_pool2d(tx, options["kernel"], options["stride"], options["pad"], **settings)
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    options = {**options, "count_include_pad": count_include_pad}
    assert_same(ops.avgpool_forward(x, **options), ty.detach().numpy().transpose(0, 2, 3, 1))
    assert_same(ops.avgpool_backward(dy, x.shape, **options), tx.grad.numpy().transpose(0, 2, 3, 1))


@given(poolings(normal, dtypes=st.just(np.float64)), st.booleans())
def test_average_pooling_gradient(case, count_include_pad):
    x, dy, options = case
    options = {**options, "count_include_pad": count_include_pad}
    dx = ops.avgpool_backward(dy, x.shape, **options)
    assert_gradients(lambda x: ops.avgpool_forward(x, **options), [x], [dx], dy)


@given(poolings(), st.booleans())
def test_the_average_of_a_constant_without_the_padding_is_the_constant(case, plus):
    x, _, options = case
    constant = np.full_like(x, 3 if plus else -3)
    y = ops.avgpool_forward(constant, **options, count_include_pad=False)
    np.testing.assert_allclose(y, constant[0, 0, 0, 0], rtol=1e-6)


@given(poolings(normal))
def test_global_average_pooling(case):
    x, _, _ = case
    y = ops.global_avgpool_forward(x)
    assert_same(y, naive.global_avgpool_forward(x))
    dy = normal(np.random.default_rng(0), y.shape, x.dtype)
    dx = ops.global_avgpool_backward(dy, x.shape)
    assert_same(dx, naive.global_avgpool_backward(dy, x.shape))
    assert_same(dx, ops.avgpool_backward(dy[:, None, None], x.shape, kernel=x.shape[1:3]))
    if x.dtype == np.float64:
        assert_gradients(ops.global_avgpool_forward, [x], [dx], dy)


def test_keras_and_torch_differ_at_a_padded_border():
    """One corner window of a map of ones, padded by one: 4 of its 9 cells are pixels."""
    x = np.ones((1, 4, 4, 1))
    assert ops.avgpool_forward(x, kernel=3, stride=1, pad=1)[0, 0, 0, 0] == pytest.approx(4 / 9)
    assert ops.avgpool_forward(x, kernel=3, stride=1, pad=1, count_include_pad=False)[0, 0, 0, 0] == 1


def test_same_pooling_pads_as_resolve_padding_says():
    x = spread(np.random.default_rng(0), (2, 5, 6, 2))
    pads = resolve_padding("same", (5, 6), (3, 2), (2, 2))
    same, four = (ops.maxpool_forward(x, kernel=(3, 2), stride=2, pad=pad) for pad in ("same", pads))
    assert same.shape == (2, 3, 3, 2)
    assert_same(same, four)


@given(
    st.tuples(*[st.integers(1, 6)] * 4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 2),
    st.integers(0, 2**32),
)
def test_subsampling(shape, stride, zeros, seed):
    """The loops, central differences, and <y, dy> = <x, dx>, as of anything linear."""
    rng, zeros = np.random.default_rng(seed), (zeros, zeros + 1)
    x = normal(rng, shape, np.float64)
    y = ops.subsample_forward(x, stride, zeros)
    dy = normal(rng, y.shape, np.float64)
    dx = ops.subsample_backward(dy, shape, stride, zeros)
    assert_same(y, naive.subsample_forward(x, stride, zeros))
    assert_same(dx, naive.subsample_backward(dy, shape, stride, zeros))
    assert_gradients(lambda x: ops.subsample_forward(x, stride, zeros), [x], [dx], dy)
    assert np.vdot(y, dy) == pytest.approx(np.vdot(x, dx))
