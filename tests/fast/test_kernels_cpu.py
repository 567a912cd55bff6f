"""The compiled kernels, on every instruction set that there is: against the loops, against NumPy, by the bit.

Inputs are read-only throughout: what writes one raises.
"""

import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from arrays import OUTLIERS, assert_same, assert_variance, frozen, normal, with_outliers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minires import ops
from minires.errors import MiniresError, ShapeError
from minires.fast import cpu
from minires.fast import fused_ops as fused
from minires.fast.cpu import convolution, engine
from minires.geometry import output_size, pair, pool_window, resolve_padding
from minires.ops import naive
from minires.ops.norm import channel_sum
from minires.optim import adam_update, sgd_update, square_sum

if not cpu.enabled():
    pytest.skip("there are no compiled kernels, or MINIRES_KERNELS=numpy leaves them out", allow_module_level=True)

few = settings(max_examples=max(1, settings.get_profile("minires").max_examples // 2))
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])
DTYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32)


@pytest.fixture(scope="module", params=cpu._kernels.instruction_sets(), autouse=True)
def isa(request):
    """Every test runs once on each instruction set."""
    before = cpu._State.isa
    _use(request.param)
    yield request.param
    _use(before)


def _use(isa):
    cpu._kernels.use(isa)
    cpu._State.isa = isa


def lanes(dtype):
    """How many numbers a vector has."""
    return cpu.VECTOR_BYTES[cpu._State.isa] // np.dtype(dtype).itemsize


# --- against the loops


@st.composite
def convolutions(draw, algorithm):
    """(x, w, b, shortcut, dy, options) of one that has an output; channels end within a vector or two, or fill them."""
    rng, dtype, side = np.random.default_rng(draw(SEEDS)), draw(DTYPES), st.integers(0, 3)
    if algorithm == "winograd":
        most = 3 if lanes(dtype) <= 4 else 1
        kernel, stride, size = (3, 3), 1, draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
        C, O = (lanes(dtype) * draw(st.integers(1, most)) for _ in "CO")
        dilation = groups = 1
    else:
        kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
        stride = draw(st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))))
        size = draw(st.tuples(st.integers(1, 6), st.integers(1, 5)))
        C, O = draw(st.integers(1, 5)), draw(st.integers(1, 2 * min(8, lanes(dtype)) + 1))
        dilation, groups = draw(st.sampled_from([1, 1, 2, (1, 3)])), draw(st.sampled_from([1, 1, 2, 3]))
        if draw(st.integers(0, 3)) == 0:
            C, O, groups = 1, 1, draw(st.integers(2, 2 * min(8, lanes(dtype)) + 1))  # depthwise
    pad = draw(st.one_of(st.sampled_from(["valid", "same"]), st.tuples(st.tuples(side, side), st.tuples(side, side))))
    pads = resolve_padding(pad, size, kernel, pair(stride), dilation)
    P, Q = output_size(size, kernel, pair(stride), pads, dilation)
    assume(min(P, Q) > 0 and P * Q <= 64)
    N, C_all, O_all = draw(st.integers(1, 2)), groups * C, groups * O
    x, w, dy, shortcut = (
        normal(rng, shape, dtype)
        for shape in ((N, *size, C_all), (*kernel, C, O_all), (N, P, Q, O_all), (N, P, Q, O_all))
    )
    b = normal(rng, O_all, dtype) if draw(st.booleans()) else None
    return x, w, b, shortcut, dy, {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups}


@pytest.mark.parametrize("algorithm", cpu.ALGORITHMS)
@few
@given(st.data())
def test_convolution_is_the_loops(algorithm, data):
    x, w, b, shortcut, dy, options = data.draw(convolutions(algorithm))
    y, way = naive.conv2d_forward(x, w, b, **options), {**options, "algorithm": algorithm}
    assert_same(ops.conv2d_forward(x, w, b, **way), y)
    dw = np.full(w.shape, np.nan, w.dtype)  # all of it is written
    expected = naive.conv2d_backward(dy, x, w, **options)
    assert_same(ops.conv2d_backward(dy, x, w, **way, dw=dw), expected)
    assert_same(dw, expected[1])
    assert_same(ops.conv2d_backward(dy, x, w, **way, need_dx=False, need_db=False), (None, expected[1], None))
    onto = normal(np.random.default_rng(1), x.shape, x.dtype)
    assert_same(fused.conv2d_backward_add(dy, x, w, onto, **way), (expected[0] + onto, expected[1], None))
    weights, y = cpu.Weights(w), naive.relu_forward(y + shortcut)
    for _ in range(2):  # packs the weights, then finds them packed
        assert_same(fused.conv2d_add_relu(x, weights, b, shortcut, **options), y)
    assert np.array_equal(weights.plain(), w)


# N, H, W, C, O, kernel, stride, pad: several panels, parts of the sum, slices of the rows and blocks of tiles
LARGER = [
    (2, 9, 8, 144, 80, 3, 1, 1),
    (2, 13, 12, 130, 70, 3, 2, "same"),
    (3, 14, 13, 70, 130, 1, 1, 0),
    (2, 9, 9, 300, 41, 1, 2, 0),
    (2, 33, 31, 3, 64, 7, 2, 3),
    (2, 40, 40, 5, 9, 3, 1, 1),
    (2, 40, 40, 16, 16, 3, 1, (2, 0)),
    (33, 4, 4, 48, 32, 3, 1, 1),
    (6, 18, 19, 32, 48, 3, 1, 1),
    (2, 13, 14, 160, 160, 3, 1, 1),
    (2, 6, 5, 70, 300, 1, 1, 0),
    (3, 2, 3, 40, 150, 3, 1, 1),
    (65, 2, 2, 32, 48, 3, 1, 1),
    (7, 1, 1, 300, 200, 3, 1, 1),
    (1, 4, 4, 300, 70, 3, 1, 1),
    (1, 7, 7, 64, 41, 3, 2, 1),
    (1, 5, 6, 40, 33, (5, 3), 1, ((3, 2), (1, 1))),
    (2, 5, 50, 20, 20, (1, 5), (1, 2), (0, 2)),
    (1, 21, 20, 7, 5, (6, 2), (4, 1), ((3, 2), (0, 1))),
]


# N, H, W, C, O, kernel, stride, pad, dilation, groups
IN_GROUPS = [
    (2, 14, 13, 128, 128, 3, 1, 1, 1, 32),
    (2, 15, 14, 96, 192, 3, 2, 1, 1, 4),
    (2, 9, 8, 144, 80, 3, 1, "same", 2, 1),
    (2, 9, 9, 80, 160, 1, 1, 0, 1, 2),
    (1, 3, 3, 300, 600, 3, 1, 2, 2, 3),
    (3, 17, 16, 70, 70, 3, 1, 1, 1, 70),
    (3, 17, 16, 300, 300, (5, 3), (2, 1), "same", (1, 2), 300),
    (2, 7, 6, 40, 40, 3, 2, ((3, 0), (1, 2)), 3, 40),
    (2, 9, 9, 24, 72, 3, 1, 1, 1, 24),
]


@both
@pytest.mark.parametrize("case", IN_GROUPS)
def test_larger_convolutions_in_groups_are_numpys(case, dtype):
    N, H, W, C, O, kernel, stride, pad, dilation, groups = case
    rng, options = np.random.default_rng(9), {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups}
    x, w = normal(rng, (N, H, W, C), dtype), normal(rng, (*pair(kernel), C // groups, O), dtype)
    b, wanted = normal(rng, O, dtype), "depthwise" if groups == C == O else "direct"
    assert cpu.algorithm(x, w, **options) == wanted
    y = ops.conv2d_forward.as_read(x, w, b, **options)
    assert_same(ops.conv2d_forward(x, w, b, **options), y)
    dy, dw = normal(rng, y.shape, dtype), np.full(w.shape, np.nan, dtype)
    expected = ops.conv2d_backward.as_read(dy, x, w, **options)
    assert_same(ops.conv2d_backward(dy, x, w, **options, dw=dw), expected)
    assert_same(dw, expected[1])


@pytest.mark.parametrize("options", [{"dilation": 2}, {"dilation": (1, 2)}, {"groups": 2}])
def test_winograd_leaves_dilated_kernels_and_groups_alone(options):
    C = lanes(np.float32) * 2
    rng = np.random.default_rng(0)
    x, w = normal(rng, (2, 12, 12, C), "f4"), normal(rng, (3, 3, C // options.get("groups", 1), C), "f4")
    assert cpu.algorithm(x, w, pad=1, **options) == "direct"
    expected = ops.conv2d_forward.as_read(x, w, pad=1, **options)
    assert_same(ops.conv2d_forward(x, w, pad=1, **options, algorithm="winograd"), expected)


@both
@pytest.mark.parametrize("algorithm", [None, *cpu.ALGORITHMS])
@pytest.mark.parametrize("case", LARGER)
def test_larger_convolutions_are_numpys(case, algorithm, dtype):
    N, H, W, C, O, kernel, stride, pad = case
    rng, options = np.random.default_rng(9), {"stride": stride, "pad": pad}
    x, w, b = normal(rng, (N, H, W, C), dtype), normal(rng, (*pair(kernel), C, O), dtype), normal(rng, O, dtype)
    y = ops.conv2d_forward.as_read(x, w, b, **options)
    assert_same(ops.conv2d_forward(x, w, b, **options, algorithm=algorithm), y)
    dy, dw = normal(rng, y.shape, dtype), np.full(w.shape, np.nan, dtype)
    expected = ops.conv2d_backward.as_read(dy, x, w, **options)
    assert_same(ops.conv2d_backward(dy, x, w, **options, dw=dw, algorithm=algorithm), expected)


@both
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (2, 2)])
def test_taps_that_meet_no_pixel_get_no_gradient(size, dtype):
    """Written all the same: the array that takes the gradient held something else before."""
    rng = np.random.default_rng(0)
    x, w, dy = normal(rng, (2, *size, 3), dtype), normal(rng, (5, 5, 3, 9), dtype), normal(rng, (2, *size, 9), dtype)
    dw = np.full(w.shape, np.nan, dtype)
    ops.conv2d_backward(dy, x, w, pad=2, dw=dw)
    assert_same(dw, naive.conv2d_backward(dy, x, w, pad=2)[1])


@few
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 19), st.booleans(), DTYPES, SEEDS)
def test_dense_is_the_loops(N, C, O, bias, dtype, seed):
    rng = np.random.default_rng(seed)
    x, w, b, dy = (normal(rng, shape, dtype) for shape in ((N, C), (C, O), O, (N, O)))
    b = b if bias else None
    assert_same(ops.dense_forward(x, w, b), naive.dense_forward(x, w, b))
    assert_same(ops.dense_backward(dy, x, w), naive.dense_backward(dy, x, w))
    assert ops.dense_backward(dy, x, w, need_dx=False)[0] is None


CHANNELS = st.one_of(st.integers(1, 5), st.sampled_from([7, 8, 9, 16, 17, 31, 33]))
IMAGES = st.one_of(
    st.tuples(st.integers(1, 40), CHANNELS),
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), CHANNELS),
)


@few
@given(IMAGES, DTYPES, SEEDS)
def test_sums_and_statistics_are_the_loops(shape, dtype, seed):
    x = normal(np.random.default_rng(seed), shape, dtype)
    assert_same(channel_sum(x), np.asarray(x.astype("f8").reshape(-1, shape[-1]).sum(axis=0), dtype))
    assert_same(ops.batchnorm_statistics(x), naive.batchnorm_statistics(x))


@both
def test_a_large_mean_costs_the_variance_no_digits(dtype):
    x = normal(np.random.default_rng(0), (8, 30, 30, 11), dtype)
    far = x + dtype(2**12)  # so far out the numbers themselves have lost 12 bits
    near = far - dtype(2**12)
    mean, var = ops.batchnorm_statistics(far)
    np.testing.assert_allclose(var, near.var(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(mean - 2**12, near.mean(axis=(0, 1, 2)), atol=2e-3 if dtype == np.float32 else 1e-12)
    constant = np.full((40, 3), 0.1, dtype)
    np.testing.assert_allclose(ops.batchnorm_statistics(constant), ([0.1] * 3, [0] * 3), rtol=1e-6)


@pytest.mark.parametrize("by", [30, 1000])
@pytest.mark.parametrize("where", OUTLIERS)
def test_a_few_values_far_from_all_others_cost_the_variance_no_digits(where, by):
    x = with_outliers(where, by)
    assert_variance(ops.batchnorm_statistics(x)[1], x)


@few
@given(IMAGES, DTYPES, SEEDS, st.booleans(), st.booleans())
def test_normalisation_is_the_loops(shape, dtype, seed, add, relu):
    rng = np.random.default_rng(seed)
    x, shortcut, dy = (normal(rng, shape, dtype) for _ in range(3))
    gamma, beta = (normal(rng, shape[-1], dtype) for _ in range(2))
    mean, var = naive.batchnorm_statistics(x)
    frozen(mean, rstd := (var + dtype(0.1)) ** dtype(-0.5))
    assert_same(ops.batchnorm_forward(x, gamma, beta, mean, rstd), naive.batchnorm_forward(x, gamma, beta, mean, rstd))
    for op in ("batchnorm_backward", "batchnorm_eval_backward"):
        assert_same(getattr(ops, op)(dy, x, gamma, mean, rstd), getattr(naive, op)(dy, x, gamma, mean, rstd))
    shortcut = shortcut if add else None
    y = naive.batchnorm_forward(x, gamma, beta, mean, rstd)
    y = naive.add_forward(y, shortcut) if add else y
    y = frozen(naive.relu_forward(y) if relu else y)
    assert_same(fused.norm_add_relu_forward(x, gamma, beta, mean, rstd, shortcut, relu), y)
    g = naive.relu_backward(dy, y) if relu else dy
    dx, dgamma, dbeta = naive.batchnorm_backward(g, x, gamma, mean, rstd)
    near = dy, x, y if relu else None, gamma, mean, rstd
    for need_g in (True, False):
        result = fused.norm_add_relu_backward(*near, need_g=need_g)
        assert_same(result, (dx, g if need_g else None, dgamma, dbeta))
        alone = {} if add else {"beta": beta}  # y is found from x
        over = dy.copy()
        again = fused.norm_add_relu_backward(over, *near[1:], need_g=need_g, over=True, **alone)
        assert_same(again, result)
        assert over is again[int(need_g)]
    if relu:
        assert_same(fused.relu_norm_sums(dy, x, y, mean, rstd), (g, dgamma, dbeta))
    assert_same(ops.batchnorm_sums(g, x, mean, rstd), (dgamma, dbeta))
    whole = dgamma + 1, dbeta - 1, 3 * (x.size // x.shape[-1])  # with those of other ranks
    got, expected = (each.batchnorm_dx(g, x, gamma, mean, rstd, *whole) for each in (ops, naive))
    assert_same(got, expected)
    over = g.copy()
    assert fused.batchnorm_dx_over(over, x, gamma, mean, rstd, *whole) is over
    assert_same(over, expected)
    resting = fused.norm_add_relu_backward(*near, training=False)
    dx, *sums = naive.batchnorm_eval_backward(g, x, gamma, mean, rstd)
    assert_same(resting, (dx, g, *sums))


@few
@given(IMAGES, DTYPES, SEEDS)
def test_relu_and_add_are_the_loops(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    x, z = (frozen(rng.integers(-2, 3, shape).astype(dtype)) for _ in range(2))  # zeros among them
    assert np.array_equal(ops.relu_forward(x), naive.relu_forward(x))
    assert np.array_equal(ops.relu_backward(z, x), naive.relu_backward(z, x))
    assert np.array_equal(ops.add_forward(x, z), naive.add_forward(x, z))


@few
@given(st.data(), CHANNELS, DTYPES, SEEDS)
def test_max_pooling_is_the_loops(data, C, dtype, seed):
    kernel = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    stride = data.draw(st.one_of(st.none(), st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 2))))
    pad = tuple(data.draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))) for k in kernel)
    pad = data.draw(st.sampled_from([pad, "same", "valid"]))
    size = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    reach = {"dilation": data.draw(st.sampled_from([1, 1, 2, (3, 1)])), "ceil_mode": data.draw(st.booleans())}
    average = {"kernel": kernel, "stride": stride, "pad": pad, "ceil_mode": reach["ceil_mode"]}
    try:
        _, step, pads = pool_window(size, kernel, stride, pad, **reach)
        pool_window(size, kernel, stride, pad, 1, reach["ceil_mode"])
    except ShapeError:
        assume(False)
    P, Q = output_size(size, kernel, step, pads, reach["dilation"])
    rng = np.random.default_rng(seed)
    x = frozen(rng.integers(-1, 2, (2, *size, C)).astype(dtype))  # ties in most windows
    options = {"kernel": kernel, "stride": stride, "pad": pad, **reach}
    y = frozen(naive.maxpool_forward(x, **options))
    assert y.shape[1:3] == (P, Q)
    assert np.array_equal(ops.maxpool_forward(x, **options), y)
    dy = normal(rng, y.shape, dtype)
    assert_same(ops.maxpool_backward(dy, x, y, **options), naive.maxpool_backward(dy, x, y, **options))
    for padding in (True, False):
        expected = naive.avgpool_forward(x, **average, count_include_pad=padding)
        assert_same(ops.avgpool_forward(x, **average, count_include_pad=padding), expected)
    assert_same(ops.global_avgpool_forward(x), naive.global_avgpool_forward(x))


@pytest.mark.parametrize("size", [1, 3, 8, 61, 2**15 + 5])
@both
def test_optimisers_are_those_that_one_reads(size, dtype):
    rng = np.random.default_rng(size)
    w, g, m = (normal(rng, size, dtype) for _ in range(3))
    v = frozen(m * m)
    assert_same(np.asarray(square_sum(g)), np.asarray(square_sum.as_read(g)))
    for nesterov, decay in itertools.product((True, False), (0.0, 0.1)):
        rates = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "decay": decay, "scale": 0.7}
        assert_same(_updated(sgd_update, w, g, m, **rates), _updated(sgd_update.as_read, w, g, m, **rates))
    for decoupled, decay in itertools.product((True, False), (0.0, 0.1)):
        rates = {"lr": 0.1, "betas": (0.9, 0.999), "epsilon": 1e-3, "decay": decay, "scale": np.asarray(0.7, dtype)}
        rates |= {"decoupled": decoupled, "steps": 3}
        assert_same(_updated(adam_update, w, g, m, v, **rates), _updated(adam_update.as_read, w, g, m, v, **rates))


def _updated(update, w, g, *state, **rates):
    """What becomes of w and the state."""
    w, state = w.copy(), [s.copy() for s in state]
    update(w, g, *state, **rates)
    return w, *state


@pytest.mark.parametrize(("channels", "most"), [(64, 5), (256, 8)])
def test_winograds_rounding_in_float32(channels, most):
    """The error beside the direct way's, root mean square over root mean square, at most so many times as large.

    It grows with the channels, which the tiles' products add one by one, and the direct way does not. Measured, the
    greatest of y, dx and dw: with 64 channels 2.2 to 4.2, with 256 channels 3.9 (SSE2), 5.2 (AVX2), 7.0 (AVX-512).
    """
    for seed in range(5):
        rng = np.random.default_rng(seed)
        arrays = [normal(rng, s, "f4") for s in ((2, 9, 8, channels), (3, 3, channels, 48), (2, 9, 8, 48))]
        exact = _forward_and_backward(*(a.astype(np.float64) for a in arrays), "direct")
        direct, tiled = (_forward_and_backward(*arrays, algorithm) for algorithm in cpu.ALGORITHMS)
        for e, a, b in zip(exact, direct, tiled, strict=True):
            assert 0 < np.linalg.norm(b - e) <= most * np.linalg.norm(a - e)


def _forward_and_backward(x, w, dy, algorithm):
    options = {"pad": 1, "algorithm": algorithm}
    return ops.conv2d_forward(x, w, **options), *ops.conv2d_backward(dy, x, w, **options)[:2]


# --- every kernel, whatever there is: a row in this table for each


@cache
def calls(dtype):
    """Kernel -> what to call for it, of sizes that make several tasks."""
    rng = np.random.default_rng(7)

    def new(*shape):
        return normal(rng, shape, dtype)

    x, w, b, dy = new(6, 19, 18, 32), new(3, 3, 32, 48), new(48), new(6, 19, 18, 48)
    image, stem, dstem = new(4, 31, 29, 3), new(7, 7, 3, 37), new(4, 16, 15, 37)
    deep, dx, apart = new(3, 3, 1, 300), new(3, 19, 18, 300), {"pad": 1, "groups": 300}
    wide, dwide = new(6, 32, 32, 19), new(6, 32, 32, 19)
    gamma, beta, mean, rstd = (new(19) for _ in range(4))
    relued, window = frozen(np.maximum(wide, 0)), {"kernel": 3, "stride": 2, "pad": 1}
    pooled = frozen(ops.maxpool_forward.as_read(wide, **window))
    flat = [new(100_003) for _ in range(3)]
    flat.append(frozen(flat[2] ** 2))
    rates = {"lr": 0.1, "decay": 0.1, "scale": 0.5}

    def tiled():
        return {"pad": 1, "algorithm": "winograd" if cpu.enabled() else None}

    return {
        "conv2d": lambda: ops.conv2d_forward(image, stem, stride=2, pad=3),
        "conv2d_pack": lambda: fused.conv2d_add_relu(image, cpu.Weights(stem), None, dstem, stride=2, pad=3),
        "conv2d_weights": lambda: ops.conv2d_backward(dstem, image, stem, stride=2, pad=3),
        "winograd": lambda: ops.conv2d_forward(x, w, b, **tiled()),
        "winograd_pack": lambda: fused.conv2d_add_relu(x, cpu.Weights(w), b, dy, pad=1),
        "winograd_weights": lambda: ops.conv2d_backward(dy, x, w, **tiled()),
        "depthwise": lambda: ops.conv2d_forward(dx, deep, **apart),
        "depthwise_weights": lambda: ops.conv2d_backward(new_like(dx), dx, deep, **apart),
        "sums": lambda: channel_sum(wide),
        "statistics": lambda: ops.batchnorm_statistics(wide),
        "norm_add_relu": lambda: fused.norm_add_relu_forward(wide, gamma, beta, mean, rstd, dwide),
        "norm_add_relu_backward": lambda: fused.norm_add_relu_backward(dwide, wide, relued, gamma, mean, rstd),
        "norm_sums": lambda: fused.relu_norm_sums(dwide, wide, relued, mean, rstd),
        "norm_dx": lambda: ops.batchnorm_dx(dwide, wide, gamma, mean, rstd, beta, gamma, 7000),
        "relu_backward": lambda: ops.relu_backward(dwide, relued),
        "maxpool": lambda: ops.maxpool_forward(wide, **window),
        "maxpool_backward": lambda: ops.maxpool_backward(new_like(pooled), wide, pooled, **window),
        "avgpool": lambda: ops.avgpool_forward(wide, **window),
        "square_sum": lambda: np.asarray(square_sum(flat[1])),
        "sgd": lambda: _updated(sgd_update, *flat[:3], **rates, momentum=0.9, nesterov=True),
        "adam": lambda: _updated(adam_update, *flat, **rates, betas=(0.9, 0.99), epsilon=1e-8, steps=2, decoupled=True),
    }


@cache
def _shaped(shape, dtype):
    return normal(np.random.default_rng(8), shape, dtype)


def new_like(a):
    return _shaped(a.shape, a.dtype)


def bits(result):
    return [None if a is None else a.tobytes() for a in (result if isinstance(result, tuple) else (result,))]


# a kernel is bound to its number in the table; what else the module has, to the module
KERNELS = sorted(n for n, f in vars(cpu._kernels).items() if isinstance(getattr(f, "__self__", None), int))


def test_every_kernel_is_called_here(monkeypatch):
    assert sorted(calls(np.float32)) == KERNELS, "a kernel without a row in `calls`, or a row without a kernel"
    for kernel, call in calls(np.float32).items():
        called, run = [], getattr(cpu._kernels, kernel)
        with monkeypatch.context() as patch:
            patch.setattr(cpu._kernels, kernel, lambda *a, run=run, called=called: called.append(1) or run(*a))
            call()
        assert called, f"the row of {kernel} calls another"


@pytest.mark.parametrize("kernel", KERNELS)
@both
def test_what_takes_several_tasks_is_numpys(kernel, dtype):
    call = calls(dtype)[kernel]
    with cpu.as_read():
        expected = call()
    assert_same(call(), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@both
def test_any_number_of_threads_gives_the_same_bits(kernel, dtype):
    call = calls(dtype)[kernel]
    with cpu.use_threads(1):
        expected = bits(call())
    for count in (2, 3, 5):
        with cpu.use_threads(count):
            assert cpu.threads() == count
            assert all(bits(call()) == expected for _ in range(3))


def test_weights_are_read_while_another_thread_changes_their_form():
    """`of` of another thread begins between two looks of `plain`."""
    x, w = normal(np.random.default_rng(0), (3, 3, 32, 32), np.float32), []

    class Watched(cpu.Weights):
        packed = property(lambda self: self.look() or self.kept, lambda self, value: setattr(self, "kept", value))

        def look(self):
            if w and threading.current_thread() is threading.main_thread():
                changing = threading.Thread(target=self.of, args=("winograd",))
                w.append(changing)
                changing.start()
                changing.join(0.1)

    weights = Watched(x)
    weights.of("direct")
    w.append(None)
    assert np.array_equal(weights.plain(), x)
    for thread in w[1:]:
        thread.join()


def test_sizes_that_no_int_holds_are_left_to_numpy():
    """Zeros of no stride, since nobody has the memory."""
    for shape in ((2**31, 1), (1, 2**31), (1, 1, 2**31, 1)):
        assert not engine.takes((np.broadcast_to(np.float32(0), shape),))
    assert engine.takes((np.broadcast_to(np.float32(0), (2**16, 2**16)),))
    for size, fits in ((2**15, False), (2**15 - 1, True)):
        pixels = convolution._Convolution((2**16, size, 1, 1), (1, 1, 1, 1), 1, 0, 1, 1, None, 8, None)
        assert pixels.fits == fits


def test_several_python_threads_at_once():
    """Who finds the workers busy works alone, to the same bits; meanwhile another one keeps changing their number."""
    tasks = [call for dtype in (np.float32, np.float64) for call in calls(dtype).values()]
    expected = [bits(call()) for call in tasks]
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(tasks)), 3))
    done = threading.Event()

    def change():
        for count in itertools.cycle((3, 1, 2)):
            cpu._kernels.set_threads(count)
            if done.wait(0.001):
                return

    with cpu.use_threads(3), ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)
        results = list(pool.map(lambda i: bits(tasks[i]()) == expected[i], order))
        done.set()
        changing.result()
    assert all(results)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while another thread computes"])
def test_a_forked_child_has_threads_of_its_own(busy):
    call, done = calls(np.float32)["winograd_weights"], threading.Event()

    def compute():
        while not done.is_set():
            call()

    with cpu.use_threads(3):
        expected = bits(call())
        other = threading.Thread(target=compute)
        if busy:
            other.start()
        try:
            for _ in range(8 if busy else 2):
                assert _in_child(lambda: all(bits(call()) == expected for _ in range(3)))
        finally:
            done.set()
            if busy:
                other.join()
        assert bits(call()) == expected


def _in_child(check, seconds=60):
    """Whether `check` holds in a forked child; False where it hangs or dies."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


# --- numbers that are not, infinite ones and tiny ones


def special(rng, shape, dtype, *, values=(np.nan, np.inf, -np.inf)):
    """Normal numbers with some of `values` among them."""
    x = rng.standard_normal(shape).astype(dtype)
    x[rng.random(shape) < 0.03] = rng.choice(values)
    x.flat[rng.integers(0, x.size, 2)] = rng.choice(values, 2)
    return frozen(x)


def assert_alike(actual, expected):
    """NaN where NaN is expected, the same infinities, and equal finite numbers."""
    for a, e in zip(_tuple(actual), _tuple(expected), strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(e))
        assert np.array_equal(a[np.isinf(a)], e[np.isinf(e)])
        assert_same(np.where(np.isfinite(a), a, 0), np.where(np.isfinite(e), e, 0))


def _tuple(result):
    return result if isinstance(result, tuple) else (np.asarray(result),)


# an overflow and inf - inf are what is tested
warns = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@warns
@both
@pytest.mark.parametrize("seed", range(6))
def test_nan_and_infinity_are_numpys(dtype, seed):
    rng = np.random.default_rng(seed)
    x, shortcut, dy = (special(rng, (2, 7, 6, 19), dtype) for _ in range(3))
    y, window = ops.relu_forward.as_read(x), {"kernel": 3, "stride": 2, "pad": 1}
    gamma, beta, mean, rstd = (normal(rng, 19, dtype) for _ in range(4))
    pooled = ops.maxpool_forward.as_read(x, **window)
    dpooled = special(rng, pooled.shape, dtype)
    for op, arrays, options in [
        (ops.relu_forward, (x,), {}),
        (ops.relu_backward, (dy, y), {}),
        (ops.add_forward, (x, shortcut), {}),
        (ops.maxpool_forward, (x,), window),
        (ops.maxpool_backward, (dpooled, x, pooled), window),
        (ops.avgpool_forward, (x,), window),
        (ops.global_avgpool_forward, (x,), {}),
        (channel_sum, (x,), {}),
        (ops.batchnorm_forward, (x, gamma, beta, mean, rstd), {}),
        (fused.norm_add_relu_forward, (x, gamma, beta, mean, rstd, shortcut), {}),
    ]:
        assert_alike(op(*arrays, **options), op.as_read(*arrays, **options))
    for op, arrays in [
        (ops.batchnorm_statistics, (x,)),
        (ops.batchnorm_backward, (dy, x, gamma, mean, rstd)),
        (fused.norm_add_relu_backward, (dy, x, y, gamma, mean, rstd)),
        (square_sum, (x.ravel(),)),
    ]:  # of what kind depends on the order
        for a, e in zip(_tuple(op(*arrays)), _tuple(op.as_read(*arrays)), strict=True):
            assert np.array_equal(np.isfinite(a), np.isfinite(e))


@warns
@both
@pytest.mark.parametrize("stride", [1, 2])
def test_nan_and_infinity_go_through_a_convolution_as_through_the_loops(dtype, stride):
    """Padding is never multiplied: NumPy's product, where its zeros meet a gradient's infinity, spoils more weights."""
    rng = np.random.default_rng(3)
    x, w, b = special(rng, (2, 6, 5, 6), dtype), normal(rng, (3, 3, 6, 9), dtype), special(rng, 9, dtype)
    options, way = ({"stride": stride, "pad": 1} | way for way in ({}, {"algorithm": "direct"}))
    y = naive.conv2d_forward(x, w, b, **options)
    assert_alike(ops.conv2d_forward(x, w, b, **way), y)
    dy = special(rng, y.shape, dtype)
    assert_alike(ops.conv2d_backward(dy, x, w, **way), naive.conv2d_backward(dy, x, w, **options))


@warns
@both
def test_winograd_spreads_what_is_not_finite_over_its_tile_and_no_further(dtype):
    rng = np.random.default_rng(4)
    clean, w, b = normal(rng, (1, 16, 16, 32), dtype), normal(rng, (3, 3, 32, 32), dtype), normal(rng, 32, dtype)
    expected = ops.conv2d_forward.as_read(clean, w, b, pad=1)
    for value in (np.nan, np.inf, -np.inf):
        x = clean.copy()
        x[0, 5, 6, 3] = value
        y = ops.conv2d_forward(x, w, b, pad=1, algorithm="winograd")
        finite = np.isfinite(y[0]).all(axis=2)
        assert not finite[4:7, 5:8].any()  # all that see it
        finite[4:8, 4:8] = True
        assert finite.all()
        y[:, 4:8, 4:8] = expected[:, 4:8, 4:8]
        assert_same(y, expected)


@both
def test_tiny_numbers_are_not_flushed_to_zero(dtype):
    """Below the least normal number, where a processor may be told to take zero."""
    least = np.finfo(dtype).smallest_subnormal
    rng = np.random.default_rng(5)
    x = frozen((rng.integers(1, 1000, (2, 9, 9, 16)) * least).astype(dtype))
    one, zero = frozen(np.ones(16, dtype)), frozen(np.zeros(16, dtype))
    assert np.array_equal(ops.relu_forward(x), x)
    assert np.array_equal(ops.add_forward(x, x), 2 * x)
    assert np.array_equal(ops.maxpool_forward(x, kernel=3, pad=1), ops.maxpool_forward.as_read(x, kernel=3, pad=1))
    assert np.array_equal(ops.batchnorm_forward(x, one, zero, zero, one), x)
    assert np.array_equal(channel_sum(x), channel_sum.as_read(x))
    w = frozen(np.ones((3, 3, 16, 16), dtype))  # sums of whole multiples are exact
    y = ops.conv2d_forward.as_read(x, w, pad=1)
    assert y.min() > 0
    assert np.array_equal(ops.conv2d_forward(x, w, pad=1, algorithm="direct"), y)
    tiled = ops.conv2d_forward(x, w, pad=1, algorithm="winograd")  # each of some products is rounded to a multiple
    assert np.abs(tiled - y).max() <= 1000 * least


# --- arrays as they come


def _conv2d_add_relu(x, w, *others, **options):
    return fused.conv2d_add_relu(x, cpu.Weights(w), *others, **options)


def views(a):
    """The same numbers behind other strides."""
    yield np.asfortranarray(a)
    yield np.repeat(a, 2, axis=-1)[..., ::2]
    yield a[::-1].copy()[::-1]


@both
def test_views_and_broadcast_arrays_are_fine(dtype):
    rng = np.random.default_rng(6)
    x, w, b, dy = (normal(rng, shape, dtype) for shape in ((3, 6, 5, 16), (3, 3, 16, 16), 16, (3, 6, 5, 16)))
    gamma, beta, mean, rstd = (normal(rng, 16, dtype) for _ in range(4))
    y, pooled = np.maximum(x, 0), ops.maxpool_forward.as_read(x, kernel=2)
    flat, rates = (normal(rng, 50, dtype), normal(rng, 50, dtype)), {"momentum": 0.9, "nesterov": True, "scale": 1.0}
    cases = [
        (ops.dense_forward, (x[0, 0], w[0, 0], b), {}),
        (ops.dense_backward, (dy[0, 0], x[0, 0], w[0, 0]), {}),
        (channel_sum, (x,), {}),
        (ops.batchnorm_statistics, (x,), {}),
        (fused.norm_add_relu_forward, (x, gamma, beta, mean, rstd, dy), {}),
        (fused.norm_add_relu_backward, (dy, x, y, gamma, mean, rstd), {}),
        (ops.relu_forward, (x,), {}),
        (ops.relu_backward, (dy, y), {}),
        (ops.add_forward, (x, dy), {}),
        (ops.maxpool_forward, (x,), {"kernel": 2}),
        (ops.maxpool_backward, (new_like(pooled), x, pooled), {"kernel": 2}),
        (square_sum, flat[:1], {}),
    ]
    for algorithm in cpu.ALGORITHMS:
        cases.append((ops.conv2d_forward, (x, w, b), {"pad": 1, "algorithm": algorithm}))
        cases.append((ops.conv2d_backward, (dy, x, w), {"pad": 1, "algorithm": algorithm}))
    cases.append((_conv2d_add_relu, (x, w, b, dy), {"pad": 1}))
    for op, arrays, options in cases:
        expected = op(*arrays, **options)
        for i, array in enumerate(arrays):
            for view in views(array):
                changed = [frozen(view) if i == j else a for j, a in enumerate(arrays)]
                assert_same(_tuple(op(*changed, **options)), _tuple(expected))
        one = [frozen(np.broadcast_to(a[:1], a.shape)) for a in arrays]
        assert_same(_tuple(op(*one, **options)), _tuple(op(*(a.copy() for a in one), **options)))
    rates |= {"lr": 0.1, "decay": 0.1}
    expected = _updated(sgd_update, *flat, flat[1], **rates)
    for view in views(flat[1]):
        assert_same(_updated(sgd_update, flat[0], view, flat[1], **rates), expected)


@both
def test_arrays_at_odd_addresses_are_left_to_numpy(dtype):
    x = normal(np.random.default_rng(6), (2, 5, 5, 3), dtype)
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(x.shape)
    odd[...] = x
    assert_same(ops.relu_forward(odd), ops.relu_forward(x))
    assert_same(ops.add_forward(x, odd), 2 * x)


def ones(*shape, dtype=np.float64):
    return frozen(np.ones(shape, dtype))


SGD = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "decay": 0.0, "scale": 1.0}
WRONG = [
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 4, 2)), {}),  # channels
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2), ones(3)), {}),  # bias
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2), ones(1)), {}),  # which broadcasts
    (ops.conv2d_forward, (ones(5, 5, 3), ones(3, 3, 3, 2)), {}),
    (ops.conv2d_forward, (ones(5, 3), ones(3, 3, 3, 2)), {}),
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 2)), {}),
    (ops.conv2d_forward, (ones(2, 2, 2, 3), ones(3, 3, 3, 2)), {}),  # no output
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"pad": "full"}),
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"pad": -1}),
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"pad": ([1, 0], [0, 1])}),  # which is right
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"stride": 0}),
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"stride": np.int64(2)}),  # which is right
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"algorithm": "fast"}),
    (ops.conv2d_forward, (ones(0, 5, 5, 3), ones(3, 3, 3, 2)), {}),
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 0)), {}),
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2, dtype=np.float32)), {}),  # mixed
    (ops.conv2d_forward, (ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"b": ones(2, dtype=np.float32)}),
    (ops.conv2d_backward, (ones(2, 3, 3, 3), ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {}),
    (ops.conv2d_backward, (ones(2, 4, 4, 2), ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {}),
    (ops.conv2d_backward, (ones(2, 3, 3, 2), ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"dw": ones(3, 3, 3, 2)}),  # frozen
    (ops.conv2d_backward, (ones(2, 3, 3, 2), ones(2, 5, 5, 3), ones(3, 3, 3, 2)), {"dw": np.ones((3, 3, 3, 1))}),
    (fused.conv2d_add_relu, (ones(2, 5, 5, 3), cpu.Weights(ones(3, 3, 3, 2)), None, ones(2, 5, 5, 2)), {}),
    (fused.conv2d_add_relu, (ones(2, 5, 5, 3), cpu.Weights(ones(3, 3, 3, 2)), ones(3), ones(2, 3, 3, 2)), {}),
    (fused.conv2d_add_relu, (ones(2, 5, 5, 3, dtype=np.float32), cpu.Weights(ones(3, 3, 3, 2))), {}),  # mixed
    (ops.dense_forward, (ones(2, 3), ones(4, 2)), {}),
    (ops.dense_forward, (ones(2, 3), ones(3, 2), ones(3)), {}),
    (ops.dense_forward, (ones(2, 2, 3), ones(3, 2)), {}),
    (ops.dense_forward, (ones(2, 3), ones(3)), {}),
    (ops.dense_backward, (ones(2, 3), ones(2, 3), ones(3, 2)), {}),
    (ops.dense_backward, (ones(3, 2), ones(2, 3), ones(3, 2)), {}),
    (ops.batchnorm_forward, (ones(2, 3), ones(2), ones(3), ones(3), ones(3)), {}),
    (ops.batchnorm_forward, (ones(2, 3), ones(3), ones(4), ones(3), ones(3)), {}),
    (ops.batchnorm_backward, (ones(2, 4), ones(2, 3), ones(3), ones(3), ones(3)), {}),
    (ops.batchnorm_eval_backward, (ones(3, 3), ones(2, 3), ones(3), ones(3), ones(3)), {}),
    (fused.norm_add_relu_forward, (ones(2, 3), ones(3), ones(3), ones(3), ones(3), ones(3, 3)), {}),
    (fused.norm_add_relu_backward, (ones(2, 3), ones(2, 3), ones(3, 3), ones(3), ones(3), ones(3)), {}),
    (fused.norm_add_relu_backward, (ones(2, 3), *[ones(2, 3)] * 2, *[ones(3)] * 3), {"dgamma": ones(3)}),  # frozen
    (fused.norm_add_relu_backward, (ones(2, 3), *[ones(2, 3)] * 2, *[ones(3)] * 3), {"dbeta": np.ones(6)[::2]}),
    (ops.relu_forward, (ones(),), {}),
    (ops.relu_backward, (ones(2, 3), ones(2, 4)), {}),
    (ops.add_forward, (ones(2, 3), ones(3)), {}),
    (ops.add_forward, (ones(2, 3), ones(4)), {}),
    (ops.maxpool_forward, (ones(2, 5, 5, 3),), {"kernel": 2, "pad": 2}),
    (ops.maxpool_forward, (ones(2, 5, 5, 3),), {"kernel": 6}),
    (ops.maxpool_forward, (ones(5, 5, 3),), {"kernel": 2}),
    (ops.maxpool_forward, (ones(2, 5, 5, 3),), {"kernel": 6, "pad": ((0, 1), (0, 1))}),  # which fits
    (ops.avgpool_forward, (ones(2, 5, 5, 3),), {"kernel": (1, 6)}),
    (ops.maxpool_backward, (ones(2, 2, 2, 3), ones(2, 5, 5, 3), ones(2, 2, 2, 4)), {"kernel": 2}),
    (ops.maxpool_backward, (ones(2, 3, 3, 3), ones(2, 5, 5, 3), ones(2, 2, 2, 3)), {"kernel": 2}),
    (sgd_update, (np.ones(4), ones(4), ones(4)), SGD),  # frozen
    (sgd_update, (np.ones(4), ones(3), np.ones(4)), SGD),
]


@pytest.mark.parametrize(("op", "arrays", "options"), WRONG)
def test_wrong_shapes_fare_as_in_numpy(op, arrays, options):
    """The same error with the same words; or the same result, where NumPy makes something of them."""
    outcome, expected = _outcome(op, arrays, options), _outcome(op.as_read, arrays, options)
    if isinstance(expected, Exception):
        assert (type(outcome), str(outcome)) == (type(expected), str(expected))
    else:
        assert_same(_tuple(outcome), _tuple(expected))


def _outcome(op, arrays, options):
    try:
        return op(*arrays, **options)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, MiniresError) as error:
        return error


def test_the_module_checks_what_it_is_given():
    """Once more, behind the Python that sees to it: no mistake there may write where it should not."""
    kernels, x = cpu._kernels, np.ones((4, 6))
    for wrong in (x[:, ::2], x.astype(np.float16), x.astype(int), x.astype(">f8"), [1.0], "x"):
        with pytest.raises((TypeError, ValueError, BufferError)):
            kernels.sums(wrong, np.empty(6), 4, 6)
    with pytest.raises(TypeError, match="all alike"):
        kernels.sums(x, np.empty(6, np.float32), 4, 6)
    with pytest.raises(TypeError, match="too many"):
        kernels.sums(*[x] * 33)
    with pytest.raises(ValueError, match="instruction set"):
        kernels.use("avx10")
    with pytest.raises(TypeError):
        kernels.set_threads("two")
