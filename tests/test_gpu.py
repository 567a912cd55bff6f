"""The CUDA kernels and the step made of them: equal to the plain ops and layers on the CPU.

Every test of a kernel runs as C++ on the CPU (cuda_on_cpu.py) where g++ is there, and on CuPy where a GPU is. What
only a GPU has, the captured graph and its memory, is tested there alone.
"""

import contextlib
import copy

import cuda_on_cpu
import numpy as np
import pytest
import strict
from conftest import TOLERANCE
from test_device_purity import fetched, sent
from test_fused import NETWORKS, batch, network

from minires import backend, ops
from minires.data import Augment
from minires.errors import ShapeError, StateError
from minires.nn.folded import Predictor
from minires.nn.gpu import OnGpu
from minires.nn.module import inference
from minires.ops import kernels
from minires.ops.conv import pair
from minires.train import Recipe, fit, resume
from minires.train.gpu import GpuStep
from minires.train.optim import OPTIMIZERS
from minires.train.step import make_step


def gpu_or_skip():
    device, reason = backend.choose_device("auto")
    if device != "gpu":
        pytest.skip(f"no GPU: {reason}")


@pytest.fixture(params=["cpu", "gpu"])
def waiting(request, pretend_cupy, monkeypatch):
    """Kernels run under the name "gpu"; gives a context manager inside which the host may wait."""
    if request.param == "gpu":
        gpu_or_skip()
        return contextlib.nullcontext
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++ to run the kernels on the CPU")
    monkeypatch.setattr(strict, "RawModule", cuda_on_cpu.RawModule, raising=False)
    pretend_cupy(strict)
    with strict.waiting():
        backend.choose_device("gpu")
    return strict.waiting


@pytest.fixture
def cupy():
    gpu_or_skip()
    return backend._cupy()


both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw(seed, *shapes, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def assert_equal(actual, expected, factor=1):
    """Equal shapes and dtypes, and numbers to rounding beside the largest."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    error = np.abs(np.subtract(actual, expected, dtype=np.float64)).max()
    assert error <= factor * TOLERANCE[expected.dtype] * max(1, np.abs(expected).max()), error


# --- each kernel against the plain op ----------------------------------------------------------------------

# N, H, W, C, O, kernel, stride, pad
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
]


@both
@pytest.mark.parametrize("workspace", [2**30, 1])
@pytest.mark.parametrize(("N", "H", "W", "C", "O", "kernel", "stride", "pad"), CONVOLUTIONS)
def test_convolution(N, H, W, C, O, kernel, stride, pad, workspace, dtype, waiting, monkeypatch):
    monkeypatch.setattr(kernels, "MAX_WORKSPACE", workspace)
    x, w, b = draw(0, (N, H, W, C), (*pair(kernel), C, O), (O,), dtype=dtype)
    window = {"stride": stride, "pad": pad}
    y = ops.conv2d_forward(x, w, b, **window)
    (dy,) = draw(1, y.shape, dtype=dtype)
    assert_equal(fetched(kernels.conv2d_forward(*sent((x, w, b)), **window), waiting), y, 5)
    there = sent((dy, x, w))
    expected = ops.conv2d_backward(dy, x, w, **window)
    for ours, theirs in zip(fetched(kernels.conv2d_backward(*there, **window), waiting), expected, strict=True):
        assert_equal(ours, theirs, 5)
    for before, after in zip((dy, x, w), fetched(there, waiting), strict=True):
        assert np.array_equal(before, after)
    assert kernels.conv2d_backward(*there, **window, need_dx=False, need_db=False)[::2] == (None, None)


def test_the_workspace_is_kept_to(monkeypatch, waiting):
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
def test_statistics_and_running_statistics(shape, dtype, waiting):
    C, m = shape[-1], np.prod(shape[:-1])
    x, bias, running_mean, running_var = draw(0, shape, (C,), (C,), (C,), dtype=dtype)
    mean, var = ops.batchnorm_statistics(x)
    for unbiased, b in ((True, bias), (False, None)):
        there = sent((running_mean, running_var))
        options = {"epsilon": 1e-3, "momentum": 0.9, "unbiased": unbiased, "bias": None if b is None else sent(b)}
        ours = kernels.norm_statistics(sent(x), *there, **options)
        moved = (0.9 * running_mean + 0.1 * (mean + (0 if b is None else b))).astype(dtype)
        spread = (0.9 * running_var + 0.1 * var * (m / (m - 1) if unbiased else 1)).astype(dtype)
        expected = mean, (1 / np.sqrt(var + 1e-3)).astype(dtype), moved, spread
        for actual, e in zip(fetched((*ours, *there), waiting), expected, strict=True):
            assert_equal(actual, e, 5)


@pytest.mark.parametrize(("mean", "tolerance"), [(0, 1e-6), (10, 5e-6), (1e4, 5e-4)])
def test_a_large_mean_costs_no_digits(mean, tolerance, waiting):
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
    dx, _ = kernels.norm_add_relu_backward(dy, x, None, gamma, *near, dgamma, dbeta)
    for ours, theirs in zip(fetched((y, dx, dgamma, dbeta), waiting), exact, strict=True):
        assert np.linalg.norm(ours - theirs) <= tolerance * np.linalg.norm(theirs)
    assert_equal(fetched(running[1], waiting), (0.1 * v64).astype(np.float32), 5)


@both
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_add_relu(shape, added, relu, dtype, waiting):
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
    assert_equal(fetched(there, waiting), y.astype(dtype), 5)
    dgamma, dbeta = sent((np.full(C, 7, dtype), np.full(C, 7, dtype)))
    y = sent(y.astype(dtype)) if relu else None
    dx, ours = kernels.norm_add_relu_backward(sent(dy), sent(x), y, *near, dgamma, dbeta, need_g=True)
    for actual, e in zip(fetched((dx, dgamma, dbeta, ours), waiting), expected, strict=True):
        assert_equal(actual, e, 20)


@both
@pytest.mark.parametrize("window", [(3, 2, 1), (2, None, 0), (3, 2, 0), ((2, 3), (1, 2), ((0, 1), (1, 0)))])
@pytest.mark.parametrize("shape", [(2, 9, 7, 8), (1, 6, 6, 3)])
def test_max_pooling_and_its_ties(shape, window, dtype, waiting):
    """Whole numbers: most windows hold their maximum several times."""
    window = dict(zip(("kernel", "stride", "pad"), window, strict=True))
    x = np.round(draw(0, shape, dtype=dtype)[0])
    y = ops.maxpool_forward(x, **window)
    (dy,) = draw(1, y.shape, dtype=dtype)
    there, winner = kernels.maxpool_forward(sent(x), **window)
    assert np.array_equal(fetched(there, waiting), y)
    dx = kernels.maxpool_backward(sent(dy), winner, shape, **window)
    assert_equal(fetched(dx, waiting), ops.maxpool_backward(dy, x, y, **window))
    with pytest.raises(ShapeError, match="window without a pixel"):
        kernels.maxpool_forward(sent(x), kernel=2, stride=2, pad=2)


@both
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("N", "K"), [(1, 2), (5, 6), (33, 10), (300, 3), (3, 1000)])
def test_cross_entropy(N, K, smoothing, dtype, waiting):
    (logits,), labels = draw(0, (N, K), dtype=dtype), np.random.default_rng(1).integers(0, K, N)
    logits[0, :2] = 50  # a tie for the largest: the first counts
    labels[0] = 0
    loss, probs = ops.softmax_cross_entropy_forward(logits, labels, label_smoothing=smoothing)
    told = sent(np.zeros(3))
    dlogits = kernels.cross_entropy(*sent((logits, labels)), told, label_smoothing=smoothing)
    expected = ops.softmax_cross_entropy_backward(probs, labels, label_smoothing=smoothing)
    assert_equal(fetched(dlogits, waiting), expected)
    told = fetched(told, waiting)
    assert told[0] == pytest.approx(loss, rel=TOLERANCE[np.dtype(dtype)])
    assert told[1] == (logits.argmax(axis=1) == labels).sum()


def test_labels_that_are_no_class_make_the_loss_nan(waiting):
    told = sent(np.zeros(3))
    dlogits = kernels.cross_entropy(*sent((np.zeros((4, 3)), np.array([0, 2, 3, -1]))), told)
    assert np.isnan(fetched(dlogits, waiting)).all(axis=1).tolist() == [False, False, True, True]
    assert np.isnan(fetched(told, waiting)[0])
    with pytest.raises(ShapeError, match=r"need int64 labels \(4,\)"):
        kernels.cross_entropy(*sent((np.zeros((4, 3)), np.zeros(3, np.int64))), told)


# --- the whole step ----------------------------------------------------------------------------------------


def loaded(name, model, **options):
    """An optimiser with decay, clipping for some, in float32 or 64."""
    return OPTIMIZERS[name](model.params(), weight_decay=0.05, **options)


OPTIMISERS = [("sgd", {}), ("sgd", {"nesterov": True}), ("adam", {"clip_norm": 0.5}), ("adamw", {"decay_all": True})]


def compared(models):
    """The state of each but for convolutions' biases before a normalisation: theirs differ, in what is rounding."""
    states = [m.state() for m in models]
    normed = {n.replace(".b", ".w") for n in states[0] if n.endswith(".b")} and any("gamma" in n for n in states[0])
    return [{n: v for n, v in s.items() if not (normed and n.endswith(".b") and "fc" not in n)} for s in states]


@pytest.mark.parametrize("case", range(len(NETWORKS)), ids=[f"{arch} {kind}" for arch, _, kind in NETWORKS])
def test_a_step_by_kernels_is_the_step_of_the_layers(case, waiting):
    """Steps in float64, at a rate that changes: the numbers told and all that the network holds."""
    (arch, shape, kind), (name, options) = NETWORKS[case], OPTIMISERS[case % len(OPTIMISERS)]
    here = network(arch, shape, kind).train()
    there = copy.deepcopy(here).to("gpu")
    steps = [
        make_step(model, loaded(name, model, **options), fused=model is there, graph=False, label_smoothing=0.1)
        for model in (here, there)
    ]
    assert isinstance(steps[1], GpuStep)
    for t in range(2):
        x, labels = batch(shape, 3)
        told = steps[0](x + t, labels, 0.01 / (t + 1))
        assert fetched(list(steps[1](*sent((x + t, labels)), 0.01 / (t + 1))), waiting) == pytest.approx(
            list(map(float, told)), rel=1e-9
        )
    ours, theirs = compared((there, here))
    ours = fetched(ours, waiting)
    for n, expected in theirs.items():
        assert np.abs(ours[n] - expected).max() <= 1e-6 * max(1e-2, np.abs(expected).max()), n  # Adam divides


def test_a_float32_network_is_trained_in_float32(waiting):
    here = network(*NETWORKS[0], np.float32).train()
    there = copy.deepcopy(here).to("gpu")
    told = []
    for model, send in ((here, tuple), (there, sent)):
        step = make_step(model, loaded("sgd", model), graph=False, fused=model is there)
        told.append([step(*send(batch((16, 16, 3), 5, np.float32)), 0.01) for _ in range(3)])
    assert np.array(fetched(told[1], waiting)) == pytest.approx(np.array(told[0], float), rel=1e-5)
    state = fetched(there.state(), waiting)
    assert all(v.dtype == np.float32 for v in state.values())
    for n, expected in here.state().items():
        assert np.abs(state[n] - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), n


def test_a_bias_before_a_normalisation_gets_gradient_zero(waiting):
    model = network("resnet8", (16, 16, 3), {"variant": "course"}).to("gpu").train()
    biases = [p for p in model.params() if p.name.endswith(".b") and not p.name.startswith("fc")]
    for p in biases:
        p.grad = backend.get_xp(p.data).ones_like(p.data) if hasattr(strict, "ones_like") else p.data + 1
    make_step(model, loaded("sgd", model), graph=False)(*sent(batch((16, 16, 3))), 0.1)
    assert len(biases) == 9
    assert all(not fetched(p.grad, waiting).any() for p in biases)


def test_what_kernels_cannot_do_is_done_by_the_layers(waiting):
    class Mine(OPTIMIZERS["sgd"]):
        """An update of the user's own."""

    model = network(*NETWORKS[0]).to("gpu").train()
    assert type(make_step(model, Mine(model.params()))).__name__ == "Step"
    assert type(make_step(model, loaded("sgd", model), fused=False)).__name__ == "Step"
    model.layers[0].layers[-1].forward = lambda x: x
    assert not OnGpu.fits(model)


def test_a_model_that_was_moved_is_refused(waiting):
    model = network(*NETWORKS[0]).to("gpu").train()
    step = make_step(model, loaded("sgd", model), graph=False)
    model.astype(np.float32)
    with pytest.raises(StateError, match="make a new optimiser"):
        step(*sent(batch((16, 16, 3))), 0.1)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_inference_by_kernels_is_that_of_the_layers(kind, n, waiting):
    """Twice as it is and, on a GPU, once replayed; other images each time."""
    model = network(*kind)
    predictor = Predictor(copy.deepcopy(model).to("gpu"))
    for t in range(3):
        x = batch(kind[1], n)[0] + t
        with inference(model):
            expected = model.forward(x)
        logits = fetched(predictor(sent(x)), waiting)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert predictor.on_gpu is not None


# --- the graph, which only a GPU has -----------------------------------------------------------------------


def trained(kind, dtype, optimizer, sizes, **ways):
    """A network trained for some steps of these batch sizes at falling rates; what was told, and the step."""
    model = network(*kind, dtype).to("gpu").train()
    step = make_step(model, loaded(*optimizer[:1], model, **optimizer[1]), **ways)
    told = []
    for t, n in enumerate(sizes):
        x, labels = batch(kind[1], n, dtype)
        told.append([float(v) for v in step(*sent((x * (1 + t), labels)), 0.05 / (1 + t))])
    return fetched(model.state(), contextlib.nullcontext), told, step


@both
@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=str)
@pytest.mark.parametrize("kind", [NETWORKS[0], NETWORKS[2], NETWORKS[7]], ids=str)
def test_a_replayed_step_is_the_step_to_the_bit(kind, optimizer, dtype, cupy):
    """Batches of two sizes, the learning rate and the images different in each step."""
    sizes = [5, 5, 5, 3, 5, 3, 3, 5]
    issued, replayed = (trained(kind, dtype, optimizer, sizes, graph=graph) for graph in (False, True))
    assert replayed[2].how == "CUDA kernels, replayed as a graph"
    assert [held.graph is not None for held in replayed[2].replay.held.values()] == [True, True]
    assert replayed[1] == issued[1]
    assert all(np.array_equal(issued[0][n], v) for n, v in replayed[0].items())


def test_a_replayed_step_takes_no_memory(cupy):
    """After the capture: not one more byte from the device, in the step's pool or in the default one."""
    model = network(*NETWORKS[7], np.float32).to("gpu").train()
    step = make_step(model, loaded("adam", model))
    x, labels = sent(batch((64, 64, 3), 8, np.float32))
    held = []
    for _ in range(6):
        step(x, labels, 1e-3)
        held.append((step.replay.pool.total_bytes(), cupy.get_default_memory_pool().total_bytes()))
    assert held[2:] == held[2:3] * 4
    assert held[1][0] == held[0][0]  # the capture found all its memory where the first step had left it


def test_dropout_is_not_captured(cupy):
    kind = ("resnet8", (16, 16, 3), {"dropout": 0.3})
    _, _, step = trained(kind, np.float32, OPTIMISERS[0], [4, 4, 4])
    assert "no graph: dropout draws its masks on the host" in step.how


def test_what_cannot_be_captured_is_issued_with_a_reason(cupy, monkeypatch):
    forward, asked = kernels.norm_statistics, []

    def curious(x, *args, **options):
        asked.append(float(x.sum()))  # waits for the device
        return forward(x, *args, **options)

    expected, told, _ = trained(NETWORKS[0], np.float32, OPTIMISERS[2], [4] * 4, graph=False)
    monkeypatch.setattr(kernels, "norm_statistics", curious)
    state, ours, step = trained(NETWORKS[0], np.float32, OPTIMISERS[2], [4] * 4)
    assert "no graph: " in step.how
    assert "captur" in step.how.lower()
    assert ours == told
    assert all(np.array_equal(expected[n], v) for n, v in state.items())


def test_inference_is_replayed(cupy):
    predictor = Predictor(network(*NETWORKS[0], np.float32).to("gpu"))
    x = sent(batch((16, 16, 3), 4, np.float32)[0])
    first, second, third = (predictor(x) for _ in range(3))
    assert not predictor.on_gpu.replay.reason
    assert bool((first == second).all() and (first == third).all())
    assert len({a.data.ptr for a in (first, second, third)}) == 3  # each call's result is the caller's own


def test_arrays_put_elsewhere_are_captured_anew(cupy):
    """A graph writes to addresses: new running statistics must be seen."""
    model = network(*NETWORKS[0], np.float32).to("gpu").train()
    step = make_step(model, loaded("sgd", model))
    x, labels = sent(batch((16, 16, 3), 4, np.float32))
    for _ in range(3):
        step(x, labels, 0.01)
    buffer = model.buffers()[0]
    buffer.data = cupy.full_like(buffer.data, 100)
    for _ in range(3):
        step(x, labels, 0.01)
    assert fetched(buffer.data, contextlib.nullcontext).max() < 100


def test_tf32_is_a_choice_and_named(cupy):
    kind = ("resnet8", (32, 32, 3), {})
    exact, exact_told, _ = trained(kind, np.float32, OPTIMISERS[0], [8] * 3)
    coarse, told, step = trained(kind, np.float32, OPTIMISERS[0], [8] * 3, tf32=True)
    assert step.how.endswith("TF32")
    error = max(np.abs(coarse[n] - v).max() / max(1e-3, np.abs(v).max()) for n, v in exact.items())
    assert 1e-6 < error < 0.1
    assert told == pytest.approx(np.array(exact_told), rel=0.05)
    again, *_ = trained(kind, np.float32, OPTIMISERS[0], [8] * 3)
    assert all(np.array_equal(exact[n], v) for n, v in again.items())  # and put back


def test_training_on_a_gpu_is_training_on_the_cpu_and_may_change_over(cupy, tmp_path):
    """fit, float64: replayed, issued, plain and on the CPU; stopped on the one and resumed on the other."""
    from test_train_loop import TEST, TRAIN, StopAfter, classifier, weights

    recipe = Recipe(epochs=2, batch_size=16, optimizer="adam", lr=0.01, augment=Augment(rotate=0, scale=0))

    def run(device, out=None, reporter=None, **ways):
        c = classifier()
        c.model.astype(np.float64).to(device)
        progress = fit(c, TRAIN, TEST, recipe, out=out, reporter=reporter, **ways)
        return c.model.to("cpu").state(), progress.history

    expected, history = run("cpu")
    ways = [{}, {"graph": False}, {"fused": False}]
    results = [run("gpu", **way) for way in ways]
    assert all(np.array_equal(results[0][0][n], v) for n, v in results[1][0].items())
    for start, end in (("cpu", "gpu"), ("gpu", "cpu"), ("gpu", "gpu")):
        folder = tmp_path / f"{start}-{end}"
        with pytest.raises(KeyboardInterrupt):
            run(start, out=folder, reporter=StopAfter(7))
        resumed, progress = resume(folder, TRAIN, TEST, device=end)
        results.append((weights_on_cpu(resumed, weights), progress.history))
    for state, rows in results:
        for n, v in expected.items():
            assert np.abs(state[n] - v).max() <= 1e-6 * max(1e-2, np.abs(v).max()), n
        for ours, theirs in zip(rows, history, strict=True):
            for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "grad_norm"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-7), key
    ends = [results[0][0], results[-1][0]]
    assert all(np.array_equal(ends[0][n], v) for n, v in ends[1].items())  # gpu to gpu: to the bit


def weights_on_cpu(classifier, weights):
    classifier.model.to("cpu")
    return weights(classifier)
