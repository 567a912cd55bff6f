"""The fast paths against the layers that one reads: training fused, inference with BN folded; compiled and in NumPy."""

import numpy as np
import pytest
from networks import NETWORKS, batch, network

from minires import nn, ops
from minires.errors import ShapeError
from minires.fast import cpu
from minires.fast import fused_ops as fused
from minires.fast.checkpointing import Checkpointed, checkpointed
from minires.fast.fuse import reason_against
from minires.fast.inference import Predictor
from minires.fast.training import Fused, FusedNorm
from minires.nn.module import inference
from minires.nn.probe import probe
from minires.ops import softmax_cross_entropy_backward as loss_backward
from minires.ops import softmax_cross_entropy_forward as loss_forward


def step(net, x, labels):
    logits = net.forward(x)
    net.backward(loss_backward(loss_forward(logits, labels)[1], labels), need_dx=False)
    return logits


def results(model, logits):
    return {"logits": logits, **{p.name: p.grad for p in model.params()}, **{b.name: b.data for b in model.buffers()}}


def assert_close(ours, theirs, tolerance):
    """Every array equal in norm, relative to the largest gradient of its kind."""
    largest = max(np.abs(v).max() for v in theirs.values())
    for name, expected in theirs.items():
        assert np.abs(ours[name] - expected).max() <= tolerance * largest, name


@pytest.fixture(params=["compiled", "numpy"])
def engine(request):
    """What runs the ops."""
    if request.param == "numpy":
        with cpu.as_read():
            yield request.param
    elif not cpu.enabled():
        pytest.skip("there are no compiled kernels")
    else:
        yield request.param


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
def test_a_fused_step_is_the_step_of_the_layers(arch, shape, options, engine):
    x, labels = batch(shape)
    plain, shared = network(arch, shape, options), network(arch, shape, options)
    with cpu.as_read():
        expected = results(plain, step(plain, x, labels))
    assert_close(results(shared, step(Fused(shared), x, labels)), expected, 1e-10)


def test_in_float32_within_rounding(engine):
    arch, shape, options = NETWORKS[0]
    x, labels = batch(shape, 32, np.float32)
    plain, shared = (network(arch, shape, options, np.float32) for _ in range(2))
    with cpu.as_read():
        expected = results(plain, step(plain, x, labels))
    ours = results(shared, step(Fused(shared), x, labels))
    assert all(value.dtype == np.float32 for value in ours.values())
    assert_close(ours, expected, 1e-5)


def test_the_images_gradient_comes_where_it_is_asked_for():
    x, labels = batch((16, 16, 3))
    model = network(*NETWORKS[0])
    nets = model, Fused(model)
    dlogits = loss_backward(loss_forward(model.forward(x), labels)[1], labels)
    dxs = []
    for net in nets:
        net.forward(x)
        dxs.append(net.backward(dlogits, need_dx=True))
    np.testing.assert_allclose(dxs[1], dxs[0], rtol=0, atol=1e-10 * np.abs(dxs[0]).max())


def test_a_bias_before_a_normalisation_gets_gradient_zero():
    model = network("resnet8", (16, 16, 3), {"variant": "course"})
    step(Fused(model), *batch((16, 16, 3)))
    biases = [p for p in model.params() if p.name.endswith(".b") and not p.name.startswith("fc")]
    assert len(biases) == 9
    assert all(not p.grad.any() for p in biases)


@pytest.mark.parametrize(("mean", "tolerance"), [(0, 1e-6), (10, 5e-6), (1e4, 5e-4)])
def test_a_large_mean_costs_no_digits(mean, tolerance, engine):
    """Mean 1e4, deviation 1, in float32: against float64 on the same numbers.

    The mean itself is a float32, with 5e-4 between neighbours at 1e4 / 2.
    """
    rng = np.random.default_rng(0)
    x = (mean + rng.standard_normal((16, 9, 9, 8))).astype(np.float32)
    gamma, beta, dy = (rng.standard_normal(s).astype(np.float32) for s in (8, 8, x.shape))
    wide = [v.astype(np.float64) for v in (x, gamma, beta, dy)]
    m64, v64 = ops.batchnorm_statistics(wide[0])
    y64 = ops.batchnorm_forward(*wide[:3], m64, 1 / np.sqrt(v64))
    dx64, dgamma64, dbeta64 = ops.batchnorm_backward(wide[3], wide[0], wide[1], m64, 1 / np.sqrt(v64))
    m32, v32 = ops.batchnorm_statistics(x)
    rstd = 1 / np.sqrt(v32)
    y = fused.norm_add_relu_forward(x, gamma, beta, m32, rstd, relu=False)
    dx, _, dgamma, dbeta = fused.norm_add_relu_backward(dy, x, None, gamma, m32, rstd)
    for ours, exact in ((y, y64), (dx, dx64), (dgamma, dgamma64), (dbeta, dbeta64)):
        assert np.linalg.norm(ours - exact) <= tolerance * np.linalg.norm(exact)


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
def test_recomputed_blocks_give_the_same_bits(arch, shape, options):
    """Logits, gradients and running statistics, fused and layer by layer."""
    x, labels = batch(shape)
    for pair in ((Fused, lambda m: Fused(m, recompute=True)), (lambda m: m, checkpointed)):
        told = []
        for way in pair:
            model = network(arch, shape, options)
            net = way(model)
            step(net, x, labels)
            told.append(results(model, step(net, x, labels)))
        assert all(np.array_equal(told[0][name], told[1][name]) for name in told[0])


def test_recomputed_blocks_keep_their_input_alone():
    model = network(*NETWORKS[0])
    net = checkpointed(model)
    net.forward(batch((16, 16, 3))[0])
    blocks = [m for m in net.modules() if isinstance(m, Checkpointed)]
    assert len(blocks) == sum(isinstance(m, nn.Block) for m in model.modules()) == 3
    for block in blocks:
        (x,) = block._slot
        assert x.shape[0] == 5
        assert all(m._slot is None for m in block.block.modules())


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
@pytest.mark.parametrize("n", [1, 5])
def test_folded_inference_is_that_of_the_layers(arch, shape, options, n, engine):
    model, (x, _) = network(arch, shape, options), batch(shape, n)
    before = {name: value.copy() for name, value in model.state().items()}
    with inference(model):
        expected = model.forward(x)
    np.testing.assert_allclose(Predictor(model)(x), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert all(np.array_equal(before[name], value) for name, value in model.state().items())


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS[2:6])
def test_a_predictor_keeps_the_network_as_it_was(arch, shape, options, engine):
    model, (x, _) = network(arch, shape, options), batch(shape)
    predictor = Predictor(model)
    expected = predictor(x).copy()
    for array in model.state().values():
        array += 0.1
    for _ in range(3):  # as it reads, recorded, and replayed
        np.testing.assert_allclose(predictor(x), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("pad", ["valid", 0, 1, "same"])
def test_zeros_before_a_convolution_are_added_once(pad):
    """Whoever takes in the zeros before it must not have some of its own."""
    layers = nn.ZeroPad2d("pad", ((1, 2), (0, 3))), nn.Conv2d("conv", 3, 4, 3, pad=pad), nn.BatchNorm("norm", 4)
    model = nn.Sequential(*layers, nn.Flatten("flat"), name="net")
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 3)).astype(np.float32)
    with nn.inference(model):
        expected = model(x)
    np.testing.assert_allclose(Predictor(model, check=False)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_wrong_input_names_the_layer():
    with pytest.raises(ShapeError, match=r"conv1: expected \(H, W, C\) with C = 3"):
        Predictor(network(*NETWORKS[0]))(np.zeros((1, 16, 16, 4)))


class Halved(nn.ReLU):
    """A layer of the user's own."""

    def forward(self, x):
        return super().forward(x) / 2


def test_a_layer_of_the_users_own_is_never_replaced():
    model, (x, _) = network(*NETWORKS[0]), batch((16, 16, 3))
    assert reason_against(model) == ""
    with probe(model):
        assert "was replaced" in reason_against(model)
    model.layers[0].layers[-1] = Halved("halved")
    assert reason_against(model) == "halved is a Halved of your own"
    with inference(model):
        expected = model.forward(x)
    np.testing.assert_allclose(Predictor(model)(x), expected, rtol=1e-12)


def test_a_step_that_was_broken_off_leaves_nothing_behind():
    arch, shape, options = NETWORKS[0]
    x, labels = batch(shape)
    plain, shared = network(arch, shape, options), network(arch, shape, options)
    fast = Fused(shared)
    logits = fast.forward(x)
    broken = [m for m in fast.net.modules() if isinstance(m, FusedNorm)][2]
    broken.backward_both = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        fast.backward(np.ones_like(logits))
    del broken.backward_both
    for a, b in zip(shared.buffers(), plain.buffers(), strict=True):
        a.data[...] = b.data
    assert_close(results(shared, step(fast, x, labels)), results(plain, step(plain, x, labels)), 1e-10)
