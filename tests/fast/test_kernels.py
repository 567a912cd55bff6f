"""Each CUDA kernel against the plain op on the CPU, in float32 and float64.

As C++ on the CPU (cuda_on_cpu.py) where g++ is there, and on CuPy where a GPU is.
"""

import numpy as np
import pytest
from arrays import OUTLIERS, TOLERANCE, assert_variance, spread, with_outliers
from devices import fetched, sent

from minires import ops
from minires.data import ArrayDataset, Augment, Batches
from minires.data.augment import warp
from minires.errors import ShapeError
from minires.fast import fused_ops
from minires.fast.cpu import Weights
from minires.fast.gpu import kernels
from minires.fast.gpu.step import _set_rates, _update
from minires.geometry import pair
from minires.nn import Param
from minires.optim import OPTIMIZERS

both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw(seed, *shapes, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def assert_equal(actual, expected, factor=1):
    """Equal shapes and dtypes, and numbers to rounding beside the largest."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    error = np.abs(np.subtract(actual, expected, dtype=np.float64)).max()
    assert error <= factor * TOLERANCE[expected.dtype] * max(1, np.abs(expected).max()), error


@pytest.mark.parametrize("shape", [(3, 9, 7, 3), (2, 1, 5, 3), (5, 32, 32, 3), (1, 64, 48, 3)])
def test_images_are_changed_to_the_same_bytes(shape, kernels_run):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, np.uint8)
    far = Augment(shift=0.5, rotate=180, scale=0.5, flip=True, brightness=0.9)
    for augment in (Augment(), far, Augment(0, 0, 0, False, 0)):
        keys = [(1, i) for i in range(len(images))]
        expected = augment(images, keys)
        actual = fetched(augment(sent(images), keys), kernels_run)
        assert actual.dtype == np.uint8
        assert np.array_equal(actual, expected)
        assert np.array_equal(expected, images) == (augment.brightness == 0)
    matrices, _ = far.draw(keys, shape[1:3])
    assert np.array_equal(fetched(warp(sent(images), matrices), kernels_run), warp(images, matrices))


def test_batches_on_the_device_are_those_of_the_cpu(kernels_run):
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), np.uint8)
    data = ArrayDataset(images, np.arange(10) % 3, ("a", "b", "c"), flip_ok=True)
    for augment in (Augment(), None):
        here, there = (Batches(data, 4, seed=3, augment=augment, device=device) for device in ("cpu", "gpu"))
        for (x, labels, index), (y, *others) in zip(here.epoch(2), there.epoch(2), strict=True):
            assert np.array_equal(fetched(y, kernels_run), x)
            assert np.array_equal(others, (labels, index))


# N, H, W, C, O, kernel, stride, pad, and the dilation where there is one
CONVOLUTIONS = [
    (2, 6, 5, 3, 4, (3, 2), 2, "same"),
    (1, 7, 9, 4, 8, 3, 1, 1),
    (3, 8, 6, 16, 16, 3, 1, 1),
    (3, 8, 8, 16, 4, 1, 1, 0),
    (2, 9, 7, 8, 6, 1, 2, 0),  # pixels that no window reads
    (2, 10, 11, 3, 5, 7, 2, 3),
    (1, 8, 8, 4, 4, 2, 3, 0),
    (2, 5, 5, 6, 4, 3, 1, ((2, 0), (0, 1))),
    (2, 4, 4, 4, 4, 1, 1, 1),  # 1x1 with padding
    (2, 9, 8, 4, 6, 3, 1, 2, 2),
    (2, 9, 8, 3, 4, (3, 2), (2, 3), "same", (3, 2)),
]


@both
@pytest.mark.parametrize("workspace", [2**30, 1])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case, workspace, dtype, kernels_run, monkeypatch):
    N, H, W, C, O, kernel, stride, pad, *dilation = case
    monkeypatch.setattr(kernels, "MAX_WORKSPACE", workspace)
    x, w, b = draw(0, (N, H, W, C), (*pair(kernel), C, O), (O,), dtype=dtype)
    window = {"stride": stride, "pad": pad, "dilation": dilation[0] if dilation else 1}
    y = ops.conv2d_forward(x, w, b, **window)
    (dy,) = draw(1, y.shape, dtype=dtype)
    assert_equal(fetched(kernels.conv2d_forward(*sent((x, w, b)), **window), kernels_run), y, 5)
    there = sent((dy, x, w))
    expected = ops.conv2d_backward(dy, x, w, **window)
    for ours, theirs in zip(fetched(kernels.conv2d_backward(*there, **window), kernels_run), expected, strict=True):
        assert_equal(ours, theirs, 5)
    for before, after in zip((dy, x, w), fetched(there, kernels_run), strict=True):
        assert np.array_equal(before, after)
    assert kernels.conv2d_backward(*there, **window, need_dx=False, need_db=False)[::2] == (None, None)
    dx, dw, db = kernels.conv2d_backward(*there, **window, need_dw=False)
    assert dw is None
    for ours, theirs in zip(fetched((dx, db), kernels_run), expected[::2], strict=True):
        assert_equal(ours, theirs, 5)


def test_groups_are_left_to_the_op(kernels_run):
    """There is no kernel for them: none that would take them for one group."""
    x, w, dy = sent(draw(0, (2, 5, 5, 4), (3, 3, 2, 6), (2, 3, 3, 6)))
    assert kernels.conv2d_forward(x, w, groups=2) is NotImplemented
    assert kernels.conv2d_backward(dy, x, w, groups=2) is NotImplemented
    here = draw(0, (2, 5, 5, 4), (3, 3, 2, 6))
    weights = Weights(w)
    assert kernels.conv2d_add_relu(x, weights, groups=2) is NotImplemented
    with kernels_run():
        there = fused_ops.conv2d_add_relu(x, weights, groups=2)
    assert_equal(fetched(there, kernels_run), np.maximum(ops.conv2d_forward(*here, groups=2), 0))


def test_the_workspace_is_kept_to(monkeypatch, kernels_run):
    """Pieces of the batch, none with more columns than allowed, as long as one image fits."""
    one_image, sizes, im2col = 8 * 6 * 9 * 16 * 8, [], kernels._Columns.of
    monkeypatch.setattr(kernels, "MAX_WORKSPACE", 2 * one_image + 1)
    monkeypatch.setattr(kernels._Columns, "of", lambda self, x: sizes.append(im2col(self, x).nbytes) or im2col(self, x))
    x, w = sent(draw(0, (5, 8, 6, 16), (3, 3, 16, 4)))
    kernels.conv2d_forward(x, w, pad=1)
    assert sizes == [2 * one_image, 2 * one_image, one_image]


SHAPES = [(2, 6, 5, 3), (7, 16), (1, 1, 2, 4), (5, 9, 9, 8), (3, 4, 4, 160), (40, 3, 3, 6), (1, 33, 7, 16)]


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_and_running_statistics(shape, dtype, kernels_run):
    C, m = shape[-1], np.prod(shape[:-1])
    x, bias, running_mean, running_var = draw(0, shape, (C,), (C,), (C,), dtype=dtype)
    mean, var = ops.batchnorm_statistics(x)
    for actual, e in zip(fetched(kernels.batchnorm_statistics(sent(x)), kernels_run), (mean, var), strict=True):
        assert_equal(actual, e, 5)
    for unbiased, b in ((True, bias), (False, None)):
        there = sent((running_mean, running_var))
        options = {"epsilon": 1e-3, "momentum": 0.9, "unbiased": unbiased, "bias": None if b is None else sent(b)}
        ours = kernels.norm_statistics(sent(x), *there, **options)
        moved = (0.9 * running_mean + 0.1 * (mean + (0 if b is None else b))).astype(dtype)
        spread = (0.9 * running_var + 0.1 * var * (m / (m - 1) if unbiased else 1)).astype(dtype)
        expected = mean, (1 / np.sqrt(var + 1e-3)).astype(dtype), moved, spread
        for actual, e in zip(fetched((*ours, *there), kernels_run), expected, strict=True):
            assert_equal(actual, e, 5)


@pytest.mark.parametrize(("mean", "tolerance"), [(0, 1e-6), (10, 5e-6), (1e4, 5e-4)])
def test_a_large_mean_costs_no_digits(mean, tolerance, kernels_run):
    """Mean 1e4, deviation 1, in float32: against float64 on the same numbers; the mean itself is a float32."""
    x, gamma, beta, dy = draw(0, (16, 9, 9, 8), (8,), (8,), (16, 9, 9, 8), dtype=np.float32)
    x = (mean + x).astype(np.float32)
    wide = [v.astype(np.float64) for v in (x, gamma, beta, dy)]
    m64, v64 = ops.batchnorm_statistics(wide[0])
    rstd = 1 / np.sqrt(v64)
    exact = ops.batchnorm_forward(*wide[:3], m64, rstd), *ops.batchnorm_backward(wide[3], *wide[:2], m64, rstd)
    x, gamma, beta, dy, *running, dgamma, dbeta = sent((x, gamma, beta, dy, *[np.zeros(8, np.float32)] * 4))
    near = kernels.norm_statistics(x, *running, epsilon=0, momentum=0.9)
    y = kernels.norm_add_relu_forward(x, gamma, beta, *near, relu=False)
    sums = {"dgamma": dgamma, "dbeta": dbeta}
    dx, *_ = kernels.norm_add_relu_backward(dy, x, None, gamma, *near, **sums, need_g=False)
    for ours, theirs in zip(fetched((y, dx, dgamma, dbeta), kernels_run), exact, strict=True):
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)
    assert_equal(fetched(running[1], kernels_run), (0.1 * v64).astype(np.float32), 5)


@pytest.mark.parametrize("where", OUTLIERS)
def test_a_few_values_far_from_all_others_cost_no_digits(where, kernels_run):
    x = with_outliers(where)
    running = sent([np.zeros(16, np.float32)] * 2)
    kernels.norm_statistics(sent(x), *running, epsilon=0, momentum=0)
    assert_variance(fetched(running[1], kernels_run), x)


@both
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_add_relu(shape, added, relu, dtype, kernels_run):
    C = shape[-1]
    x, gamma, beta, shortcut, dy = draw(0, shape, (C,), (C,), shape, shape, dtype=dtype)
    mean, var = ops.batchnorm_statistics(x)
    rstd = (1 / np.sqrt(var + 1e-3)).astype(dtype)
    y = ops.batchnorm_forward(x, gamma, beta, mean, rstd) + (shortcut if added else 0)
    y = np.maximum(y, 0) if relu else y
    g = ops.relu_backward(dy, y) if relu else dy
    expected = *ops.batchnorm_backward(g, x, gamma, mean, rstd), g
    near = sent((gamma, mean, rstd))
    there = kernels.norm_add_relu_forward(
        sent(x), near[0], sent(beta), *near[1:], sent(shortcut) if added else None, relu
    )
    assert_equal(fetched(there, kernels_run), y.astype(dtype), 5)
    dgamma, dbeta = sent((np.full(C, 7, dtype), np.full(C, 7, dtype)))
    y = sent(y.astype(dtype)) if relu else None
    sums = {"dgamma": dgamma, "dbeta": dbeta}
    dx, ours, *_ = kernels.norm_add_relu_backward(sent(dy), sent(x), y, *near, **sums)
    for actual, e in zip(fetched((dx, dgamma, dbeta, ours), kernels_run), expected, strict=True):
        assert_equal(actual, e, 20)


# kernel, stride, pad, and, where it is given, dilation and ceil_mode
WINDOWS = [(3, 2, 1), (2, None, 0), ((2, 3), (1, 2), ((0, 1), (1, 0))), (2, (3, 2), 1, (1, 2)), (3, 2, 0, 1, True)]


@both
@pytest.mark.parametrize("window", [*WINDOWS, (3, 2, 0), ((2, 3), 1, 1, (2, 1), True)])
@pytest.mark.parametrize("shape", [(2, 9, 7, 8), (1, 6, 6, 3)])
def test_max_pooling_and_its_ties(shape, window, dtype, kernels_run):
    """Whole numbers: most windows hold their maximum several times."""
    window = dict(zip(("kernel", "stride", "pad", "dilation", "ceil_mode"), window, strict=False))
    x = np.round(draw(0, shape, dtype=dtype)[0])
    y = ops.maxpool_forward(x, **window)
    (dy,) = draw(1, y.shape, dtype=dtype)
    there = kernels.maxpool_forward(sent(x), **window)
    assert np.array_equal(fetched(there, kernels_run), y)
    dx = kernels.maxpool_backward(sent(dy), sent(x), there, **window)
    assert_equal(fetched(dx, kernels_run), ops.maxpool_backward(dy, x, y, **window))
    with pytest.raises(ShapeError, match="window without a pixel"):
        kernels.maxpool_forward(sent(x), kernel=2, stride=2, pad=2)


@both
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", [(2, 9, 7, 8), (1, 6, 6, 3)])
def test_max_pooling_sends_the_gradient_of_a_nan_to_it(shape, window, dtype, kernels_run):
    window = dict(zip(("kernel", "stride", "pad", "dilation", "ceil_mode"), window, strict=False))
    rng = np.random.default_rng(0)
    x = np.where(rng.random(shape) < 0.1, np.nan, spread(rng, shape)).astype(dtype)
    y = ops.maxpool_forward.as_read(x, **window)
    (dy,) = draw(1, y.shape, dtype=dtype)
    there = kernels.maxpool_forward(sent(x), **window)
    np.testing.assert_array_equal(fetched(there, kernels_run), y)
    dx = fetched(kernels.maxpool_backward(sent(dy), sent(x), there, **window), kernels_run)
    assert_equal(dx, ops.maxpool_backward.as_read(dy, x, y, **window))
    assert dx.sum() == pytest.approx(dy.sum(), rel=1e-4, abs=1e-4)


def test_maps_smaller_than_the_window_are_refused(kernels_run):
    x, w, y = sent(draw(0, (1, 5, 5, 3), (6, 6, 3, 4), (1, 0, 0, 3)))
    with pytest.raises(ShapeError, match="convolution: the map of 5x5 that arrives is smaller"):
        kernels.conv2d_forward(x, w)
    with pytest.raises(ShapeError, match="pooling: the map of 5x5 that arrives is smaller"):
        kernels.maxpool_forward(x, kernel=6)
    with pytest.raises(ShapeError, match="pooling: the map of 5x5 that arrives is smaller"):
        kernels.maxpool_backward(y, x, y, kernel=6)


@both
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_logit_of_minus_infinity(smoothing, dtype, kernels_run):
    """Of another class, then of the image's own too."""
    logits = np.array([[1, -np.inf, 2], [-np.inf, 5, -np.inf]], dtype)
    for labels in (np.array([0, 1]), np.array([1, 1])):
        loss, probs = ops.softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing)
        told = sent(np.zeros(3))
        dlogits = kernels.cross_entropy(*sent((logits, labels)), told, label_smoothing=smoothing)
        expected = ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing)
        assert_equal(fetched(dlogits, kernels_run), expected)
        assert fetched(told, kernels_run)[0] == pytest.approx(loss, rel=1e-6)


@both
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("N", "K"), [(1, 2), (5, 6), (33, 10), (300, 3), (3, 1000)])
def test_cross_entropy(N, K, smoothing, dtype, kernels_run):
    (logits,), labels = draw(0, (N, K), dtype=dtype), np.random.default_rng(1).integers(0, K, N)
    logits[0, :2] = 50  # a tie for the largest: the first counts
    labels[0] = 0
    loss, probs = ops.softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing)
    told = sent(np.zeros(3))
    dlogits = kernels.cross_entropy(*sent((logits, labels)), told, label_smoothing=smoothing)
    expected = ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing)
    assert_equal(fetched(dlogits, kernels_run), expected)
    told = fetched(told, kernels_run)
    assert told[0] == pytest.approx(loss, rel=TOLERANCE[np.dtype(dtype)])
    assert told[1] == (logits.argmax(axis=1) == labels).sum()


def test_labels_that_are_no_class_make_the_loss_nan(kernels_run):
    told = sent(np.zeros(3))
    dlogits = kernels.cross_entropy(*sent((np.zeros((4, 3)), np.array([0, 2, 3, -1]))), told)
    assert np.isnan(fetched(dlogits, kernels_run)).all(axis=1).tolist() == [False, False, True, True]
    assert np.isnan(fetched(told, kernels_run)[0])
    with pytest.raises(ShapeError, match=r"logits \(0, 3\) have no mean loss"):
        kernels.cross_entropy(*sent((np.zeros((0, 3)), np.zeros(0, np.int64))), told)
    with pytest.raises(ShapeError, match=r"need int64 labels \(4,\)"):
        kernels.cross_entropy(*sent((np.zeros((4, 3)), np.zeros(3, np.int64))), told)


UPDATES = [("sgd", {"nesterov": False}), ("sgd", {"nesterov": True}), ("adam", {}), ("adamw", {})]


@both
@pytest.mark.parametrize("clip_norm", [None, 0.5, 1e3])  # none, one that clips, one that no gradient reaches
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("name", "options"), UPDATES)
def test_updates_are_the_optimisers(name, options, grouped, clip_norm, dtype, kernels_run):
    """Three steps over decayed and spared parameters, in groups too; the gradient's norm is told."""
    drawn = draw(0, (40, 9), (30,), dtype=dtype)

    def made(arrays):
        params = [Param(f"p{i}", array.copy(), decay=i == 0) for i, array in enumerate(arrays)]
        if grouped:
            first = {"params": params[1:], "lr_scale": 0.3, "began": -2}
            params = [first, {"params": params[:1], "lr_scale": 2.0, "weight_decay": 0.2}]
        return OPTIMIZERS[name](params, weight_decay=0.1, clip_norm=clip_norm, **options)

    here, there = made(drawn), made(sent(drawn))
    rates, metrics = sent((np.zeros((len(here.groups), 4)), np.zeros(3)))
    for step in range(3):
        (gradient,) = draw(step + 1, here.grads.shape, dtype=dtype)
        here.grads[...], there.grads[...] = gradient, sent(gradient)
        norm = here.step(0.1)
        there.steps += 1
        _set_rates(there, rates, 0.1)
        _update(there, metrics, rates)
        assert fetched(metrics, kernels_run)[2] == pytest.approx(norm, rel=10 * TOLERANCE[np.dtype(dtype)])
    assert_equal(fetched(there.weights, kernels_run), here.weights, 20)
    for slot, array in here.state.items():
        assert_equal(fetched(there.state[slot], kernels_run), array, 20)
