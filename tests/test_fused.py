"""The fast paths against the layers that one reads: training on a team of threads, inference with BN folded."""

import os
import threading

import numpy as np
import pytest

from minires import nn, ops, resnet
from minires.errors import DeviceError, ShapeError
from minires.look.probe import probe
from minires.nn.folded import Predictor
from minires.nn.fuse import AsItIs
from minires.nn.module import inference
from minires.nn.parallel import Parallel, SharedNorm
from minires.nn.recompute import Recomputed
from minires.ops import fused
from minires.ops import softmax_cross_entropy_backward as loss_backward
from minires.ops import softmax_cross_entropy_forward as loss_forward
from minires.team import Team, spans

NETWORKS = [
    ("resnet8", (16, 16, 3), {}),
    ("resnet20", (16, 16, 3), {}),
    ("resnet14", (12, 20, 3), {"preact": True}),
    ("resnet14", (16, 16, 3), {"skip": False}),
    ("resnet14", (16, 16, 3), {"norm": False}),
    ("resnet14", (16, 16, 3), {"variant": "course"}),
    ("resnet18", (64, 64, 3), {"variant": "v1.5", "widths": (8, 16, 24, 32)}),
    ("resnet50", (64, 64, 3), {"variant": "course", "widths": (8, 8, 16, 16)}),
    ("resnet50", (64, 64, 3), {"variant": "v1", "preact": True, "widths": (8, 8, 16, 16)}),
]


def network(arch, shape, options, dtype=np.float64):
    """A network that is not at its start: gammas, betas, biases and running statistics of some training."""
    model, rng = resnet(arch, shape, 4, **options).astype(dtype), np.random.default_rng(5)
    for p in model.params():
        p.data += rng.normal(0, 0.05, p.data.shape)
    for b in model.buffers():
        b.data += rng.uniform(0, 0.3, b.data.shape)
    return model


def batch(shape, n=5, dtype=np.float64):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, *shape)).astype(dtype), rng.integers(0, 4, n)


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


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
def test_a_step_on_a_team_is_the_step_of_the_layers(arch, shape, options):
    assert_same_step(arch, shape, options, 2)


@pytest.mark.parametrize("size", [1, 4, 8])
def test_teams_of_any_size(size):
    assert_same_step(*NETWORKS[0], size)


def assert_same_step(arch, shape, options, size):
    x, labels = batch(shape)
    plain, shared = network(arch, shape, options), network(arch, shape, options)
    expected = results(plain, step(plain, x, labels))
    with Team(size) as team:
        assert_close(results(shared, step(Parallel(shared, team), x, labels)), expected, 1e-10)


def test_in_float32_within_rounding():
    arch, shape, options = NETWORKS[0]
    x, labels = batch(shape, 32, np.float32)
    plain, shared = (network(arch, shape, options, np.float32) for _ in range(2))
    expected = results(plain, step(plain, x, labels))
    with Team(2) as team:
        ours = results(shared, step(Parallel(shared, team), x, labels))
    assert all(value.dtype == np.float32 for value in ours.values())
    assert_close(ours, expected, 1e-5)


def test_a_team_repeats_itself_to_the_bit():
    x, labels = batch((16, 16, 3), 9, np.float32)
    runs = []
    for _ in range(2):
        model = network("resnet14", (16, 16, 3), {}, np.float32)
        with Team(3) as team:
            fast = Parallel(model, team)
            step(fast, x, labels)
            runs.append(results(model, step(fast, x, labels)))
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_fewer_images_than_threads():
    x, labels = batch((16, 16, 3), 2)
    plain, shared = (network("resnet8", (16, 16, 3), {}) for _ in range(2))
    with Team(4) as team:
        fast = Parallel(shared, team)
        step(fast, *batch((16, 16, 3), 8))  # gradients of all four, which must not remain
        for a, b in zip(shared.buffers(), plain.buffers(), strict=True):
            a.data[...] = b.data
        logits = step(fast, x, labels)
    assert_close(results(shared, logits), results(plain, step(plain, x, labels)), 1e-10)


def test_a_bias_before_a_normalisation_gets_gradient_zero():
    model = network("resnet8", (16, 16, 3), {"variant": "course"})
    with Team(2) as team:
        step(Parallel(model, team), *batch((16, 16, 3)))
    biases = [p for p in model.params() if p.name.endswith(".b") and not p.name.startswith("fc")]
    assert len(biases) == 9
    assert all(not p.grad.any() for p in biases)


@pytest.mark.parametrize(("mean", "tolerance"), [(0, 1e-6), (10, 5e-6), (1e4, 5e-4)])
def test_a_large_mean_costs_no_digits(mean, tolerance):
    """Mean 1e4, deviation 1, in float32: against float64 on the same numbers.

    The mean itself is a float32, with 5e-4 between neighbours at 1e4 / 2; x * slope would lose 1e4 times rounding.
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
    near, m32 = fused.centre(x, m32, rstd)
    y = fused.norm_add_relu_forward(near, gamma, beta, m32, rstd, relu=False)
    g, dgamma, dbeta = fused.norm_add_relu_sums(dy, near, y, m32, rstd, relu=False)
    dx = fused.norm_add_relu_backward(g, near, gamma, m32, rstd, dgamma, dbeta, x.size // 8)
    for ours, exact in ((y, y64), (dx, dx64), (dgamma, dgamma64), (dbeta, dbeta64)):
        assert np.linalg.norm(ours - exact) <= tolerance * np.linalg.norm(exact)


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
def test_recomputed_blocks_give_the_same_bits(arch, shape, options):
    """Logits, gradients and running statistics, on a team and layer by layer."""
    x, labels = batch(shape)
    with Team(2) as team:
        ways = [
            (lambda m: Parallel(m, team), lambda m: Parallel(m, team, recompute=True)),
            (lambda m: m, AsItIs().copy),
        ]
        for pair in ways:
            told = []
            for way in pair:
                model = network(arch, shape, options)
                net = way(model)
                step(net, x, labels)
                told.append(results(model, step(net, x, labels)))
            assert all(np.array_equal(told[0][name], told[1][name]) for name in told[0])


def test_recomputed_blocks_keep_their_input_alone():
    model = network(*NETWORKS[0])
    net = AsItIs().copy(model)
    net.forward(batch((16, 16, 3))[0])
    blocks = [m for m in net.modules() if isinstance(m, Recomputed)]
    assert len(blocks) == sum(isinstance(m, nn.Block) for m in model.modules()) == 3
    for block in blocks:
        (x,) = block._slot
        assert x.shape[0] == 5
        assert all(m._slot is None for m in block.block.modules())


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
@pytest.mark.parametrize("n", [1, 5])
def test_folded_inference_is_that_of_the_layers(arch, shape, options, n):
    model, (x, _) = network(arch, shape, options), batch(shape, n)
    before = {name: value.copy() for name, value in model.state().items()}
    with inference(model):
        expected = model.forward(x)
    np.testing.assert_allclose(Predictor(model)(x), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    assert all(np.array_equal(before[name], value) for name, value in model.state().items())


def test_a_wrong_input_names_the_layer():
    with pytest.raises(ShapeError, match=r"conv1: expected \(H, W, C\) with C = 3"):
        Predictor(network(*NETWORKS[0]))(np.zeros((1, 16, 16, 4)))


class Halved(nn.ReLU):
    """A layer of the user's own."""

    def forward(self, x):
        return super().forward(x) / 2


def test_a_layer_of_the_users_own_is_never_replaced():
    model, (x, _) = network(*NETWORKS[0]), batch((16, 16, 3))
    assert Parallel.fits(model)
    with probe(model):
        assert not Parallel.fits(model)
    model.layers[0].layers[-1] = Halved("halved")
    assert not Parallel.fits(model)
    with inference(model):
        expected = model.forward(x)
    np.testing.assert_allclose(Predictor(model)(x), expected, rtol=1e-12)


# --- the team ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5])
def test_members_gather_and_meet_in_the_order_of_ranks(size):
    with Team(size) as team:
        gathered = team.run(lambda m: [m.gather((m.rank, turn)) for turn in range(20)])
        met = team.run(lambda m: m.meet(np.full(3, m.rank), [m.rank]))
    assert gathered == [[[(r, turn) for r in range(size)] for turn in range(20)]] * size
    for arrays, lefts in met:
        assert [a.tolist() for a in arrays] == [[rank] * 3 for rank in range(size)]
        assert lefts == [[rank] for rank in range(size)]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_one_member_reaches_the_caller_and_the_team_goes_on(failing):
    def work(member):
        if member.rank == failing:
            raise DeviceError("the third wheel")
        return member.gather(1)

    with Team(3) as team:
        with pytest.raises(DeviceError, match="third wheel"):
            team.run(work)
        assert team.run(lambda m: m.gather(m.rank)) == [[0, 1, 2]] * 3


def test_everything_is_put_back():
    from minires.backend import thread_count

    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    threads, alive = thread_count(), threading.active_count()
    with Team(2) as team:
        assert thread_count() == 1
        team.run(lambda m: m.gather(1))
        if cores:
            assert os.sched_getaffinity(0) == cores
    assert thread_count() == threads
    assert threading.active_count() == alive


def test_a_step_that_was_broken_off_leaves_nothing_behind():
    arch, shape, options = NETWORKS[0]
    x, labels = batch(shape)
    plain, shared = network(arch, shape, options), network(arch, shape, options)
    with Team(2) as team:
        fast = Parallel(shared, team)
        logits = fast.forward(x)
        broken = [m for m in fast.crew.parts[1].body.modules() if isinstance(m, SharedNorm)][2]
        broken.backward_both = lambda _: 1 / 0
        with pytest.raises(ZeroDivisionError):
            fast.backward(np.ones_like(logits))
        del broken.backward_both
        for a, b in zip(shared.buffers(), plain.buffers(), strict=True):
            a.data[...] = b.data
        assert_close(results(shared, step(fast, x, labels)), results(plain, step(plain, x, labels)), 1e-10)


def test_spans_cover_everything_once():
    for length in (1, 2, 7, 32):
        for size in (1, 2, 3, 8):
            parts = spans(length, size)
            assert [i for part in parts for i in range(length)[part]] == list(range(length))
            assert len(parts) == min(length, size)
            assert all(part.stop > part.start for part in parts)
