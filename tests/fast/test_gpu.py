"""The step and the inference made of CUDA kernels: equal to the layers on the CPU.

As C++ on the CPU (cuda_on_cpu.py) where g++ is there, and on CuPy where a GPU is. What only a GPU has, the captured
graph and its memory, is tested there alone.
"""

import contextlib
import copy
import gc
import weakref

import numpy as np
import pytest
import stripes
from devices import TEST, TOLD, TRAIN, classifier, fetched, sent
from networks import NETWORKS, batch, network

from minires.data import Augment
from minires.errors import StateError
from minires.fast import training
from minires.fast.gpu.step import GpuStep
from minires.fast.inference import Predictor
from minires.fast.step import make_step
from minires.nn.module import inference
from minires.optim import OPTIMIZERS
from minires.train import Recipe, fit, resume

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def loaded(name, model, **options):
    """An optimiser with weight decay."""
    return OPTIMIZERS[name](model.params(), weight_decay=0.05, **options)


OPTIMISERS = [("sgd", {}), ("sgd", {"nesterov": True}), ("adam", {"clip_norm": 0.5}), ("adamw", {"decay_all": True})]


def compared(models):
    """The state of each but for convolutions' biases before a normalisation: theirs differ, in what is rounding."""
    states = [m.state() for m in models]
    normed = {n.replace(".b", ".w") for n in states[0] if n.endswith(".b")} and any("gamma" in n for n in states[0])
    return [{n: v for n, v in s.items() if not (normed and n.endswith(".b") and "fc" not in n)} for s in states]


@pytest.mark.parametrize("case", range(len(NETWORKS)), ids=[f"{arch} {kind}" for arch, _, kind in NETWORKS])
def test_a_step_by_kernels_is_the_step_of_the_layers(case, kernels_run):
    """Steps in float64, at a rate that changes: the numbers told and all that the network holds."""
    (arch, shape, kind), (name, options) = NETWORKS[case], OPTIMISERS[case % len(OPTIMISERS)]
    here = network(arch, shape, kind).train()
    there = copy.deepcopy(here).to("gpu")
    steps = [
        make_step(model, loaded(name, model, **options), by_layers=model is here, graph=False, label_smoothing=0.1)
        for model in (here, there)
    ]
    assert isinstance(steps[1], GpuStep)
    for t in range(2):
        x, labels = batch(shape, 3)
        told = steps[0](x + t, labels, 0.01 / (t + 1))
        assert fetched(list(steps[1](*sent((x + t, labels)), 0.01 / (t + 1))), kernels_run) == pytest.approx(
            list(map(float, told)), rel=1e-9
        )
    ours, theirs = compared((there, here))
    ours = fetched(ours, kernels_run)
    for n, expected in theirs.items():
        assert np.abs(ours[n] - expected).max() <= 1e-6 * max(1e-2, np.abs(expected).max()), n  # Adam divides


def test_recomputed_blocks_give_the_same_bits(kernels_run):
    told = []
    for recompute in (False, True):
        model = copy.deepcopy(network(*NETWORKS[7])).train().to("gpu")
        step = make_step(model, loaded("adam", model), graph=False, recompute=recompute, max_workspace=2**16)
        with step:
            numbers = [step(*sent(batch(NETWORKS[7][1], 3)), 0.01) for _ in range(2)]
        told.append(fetched([*map(list, numbers), *model.state().values()], kernels_run))
    assert all(np.array_equal(a, b) for a, b in zip(*told, strict=True))


def test_a_float32_network_is_trained_in_float32(kernels_run):
    here = network(*NETWORKS[0], np.float32).train()
    there = copy.deepcopy(here).to("gpu")
    told = []
    for model, send in ((here, tuple), (there, sent)):
        step = make_step(model, loaded("sgd", model), graph=False, by_layers=model is here)
        told.append([step(*send(batch((16, 16, 3), 5, np.float32)), 0.01) for _ in range(3)])
    assert np.array(fetched(told[1], kernels_run)) == pytest.approx(np.array(told[0], float), rel=1e-5)
    state = fetched(there.state(), kernels_run)
    assert all(v.dtype == np.float32 for v in state.values())
    for n, expected in here.state().items():
        assert np.abs(state[n] - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), n


def test_a_bias_before_a_normalisation_gets_gradient_zero(kernels_run):
    model = network("resnet8", (16, 16, 3), {"variant": "course"}).to("gpu").train()
    biases = [p for p in model.params() if p.name.endswith(".b") and not p.name.startswith("fc")]
    for p in biases:
        p.grad = p.data + 1
    make_step(model, loaded("sgd", model), graph=False)(*sent(batch((16, 16, 3))), 0.1)
    assert len(biases) == 9
    assert all(not fetched(p.grad, kernels_run).any() for p in biases)


def test_what_kernels_cannot_do_is_done_by_the_layers(kernels_run):
    class Mine(OPTIMIZERS["sgd"]):
        """An update of the user's own."""

    model = network(*NETWORKS[0]).to("gpu").train()
    assert type(make_step(model, Mine(model.params()))).__name__ == "FusedStep"
    assert type(make_step(model, loaded("sgd", model), by_layers=True)).__name__ == "Step"
    model.layers[0].layers[-1].forward = lambda x: x
    assert type(make_step(model, loaded("sgd", model))).__name__ == "Step"


def test_a_model_that_was_moved_is_refused(kernels_run):
    model = network(*NETWORKS[0]).to("gpu").train()
    step = make_step(model, loaded("sgd", model), graph=False)
    model.astype(np.float32)
    with pytest.raises(StateError, match="make a new optimiser"):
        step(*sent(batch((16, 16, 3))), 0.1)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fit_and_evaluate_by_kernels(optimizer, kernels_run):
    """An epoch with dropout, augmentation, clipping, smoothing and a smaller last batch."""
    recipe = Recipe(epochs=1, batch_size=9, optimizer=optimizer, clip_norm=2.0, label_smoothing=0.1)
    here, there = (classifier(np.float64, device) for device in ("cpu", "gpu"))
    expected = fit(here, TRAIN, TEST, recipe).history[0]
    with kernels_run():
        progress = fit(there, TRAIN, TEST, recipe)
    assert progress.how.startswith("CUDA kernels, no graph: ")
    assert [progress.history[0][k] for k in TOLD] == pytest.approx([expected[k] for k in TOLD], rel=1e-7)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_parts_and_groups_by_kernels(optimizer, graph, kernels_run):
    """Frozen in front, in the middle, for an epoch; the rest at rates of its own: as on the CPU, frozen to the bit."""
    freeze, rates = {"stem": None, "stage3": None, "stage2": 1}, {"head": 3.0, "stage4": 0.5}
    recipe = Recipe(epochs=2, batch_size=6, optimizer=optimizer, clip_norm=2.0, freeze=freeze, rates=rates)
    here, there = (classifier(np.float64, device) for device in ("cpu", "gpu"))
    before = {name: array.copy() for name, array in here.model.state().items()}
    expected = fit(here, TRAIN, TEST, recipe)
    with kernels_run():
        progress = fit(there, TRAIN, TEST, recipe, graph=graph)
    assert progress.how.startswith("CUDA kernels")
    for ours, theirs in zip(progress.history, expected.history, strict=True):
        assert [ours[k] for k in TOLD] == pytest.approx([theirs[k] for k in TOLD], rel=1e-7)
    state = fetched(there.model.state(), kernels_run)
    frozen = {v.name for i in (0, 2) for v in there.model.layers[i].params() + there.model.layers[i].buffers()}
    assert {name for name in state if np.array_equal(state[name], before[name])} == frozen


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("kind", NETWORKS, ids=str)
def test_inference_by_kernels_is_that_of_the_layers(kind, n, kernels_run):
    """Twice as it is and, on a GPU, once replayed; other images each time."""
    model = network(*kind)
    predictor = Predictor(copy.deepcopy(model).to("gpu"))
    for t in range(3):
        x = batch(kind[1], n)[0] + t
        with inference(model):
            expected = model.forward(x)
        with kernels_run() if t == 0 else contextlib.nullcontext():  # the first batch is compared with the layers
            logits = predictor(sent(x))
        logits = fetched(logits, kernels_run)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11 * np.abs(expected).max())
    assert predictor.how == "folded"


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


def test_a_step_gives_its_memory_back_at_once(kernels_run):
    """A run's graphs hold its whole memory: they must not wait for the garbage collector."""
    model = network(*NETWORKS[0]).to("gpu").train()
    step = make_step(model, loaded("sgd", model))
    step(*sent(batch((16, 16, 3))), 0.1)
    held = weakref.ref(step.replay)
    gc.disable()
    try:
        del step
        assert held() is None
    finally:
        gc.enable()


def test_dropout_is_not_captured(cupy):
    kind = ("resnet8", (16, 16, 3), {"dropout": 0.3})
    _, _, step = trained(kind, np.float32, OPTIMISERS[0], [4, 4, 4])
    assert "no graph: dropout draws its masks on the host" in step.how


def test_what_cannot_be_captured_is_issued_with_a_reason(cupy, monkeypatch):
    forward, asked = training.norm_statistics, []

    def curious(x, *args, **options):
        asked.append(float(x.sum()))  # waits for the device
        return forward(x, *args, **options)

    expected, told, _ = trained(NETWORKS[0], np.float32, OPTIMISERS[2], [4] * 4, graph=False)
    monkeypatch.setattr(training, "norm_statistics", curious)
    state, ours, step = trained(NETWORKS[0], np.float32, OPTIMISERS[2], [4] * 4)
    assert "no graph: " in step.how
    assert "captur" in step.how.lower()
    assert ours == told
    assert all(np.array_equal(expected[n], v) for n, v in state.items())


def test_inference_is_replayed(cupy):
    predictor = Predictor(network(*NETWORKS[0], np.float32).to("gpu"))
    x = sent(batch((16, 16, 3), 4, np.float32)[0])
    first, second, third = (predictor(x) for _ in range(3))
    assert not predictor.replay.reason
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
    recipe = Recipe(epochs=2, batch_size=16, optimizer="adam", lr=0.01, augment=Augment(rotate=0, scale=0))

    def run(device, out=None, reporter=None, **ways):
        c = stripes.classifier()
        c.model.astype(np.float64).to(device)
        progress = fit(c, stripes.TRAIN, stripes.TEST, recipe, out=out, reporter=reporter, **ways)
        return c.model.to("cpu").state(), progress.history

    expected, history = run("cpu")
    ways = [{}, {"graph": False}, {"fused": False}]
    results = [run("gpu", **way) for way in ways]
    assert all(np.array_equal(results[0][0][n], v) for n, v in results[1][0].items())
    for start, end in (("cpu", "gpu"), ("gpu", "cpu"), ("gpu", "gpu")):
        folder = tmp_path / f"{start}-{end}"
        with pytest.raises(KeyboardInterrupt):
            run(start, out=folder, reporter=stripes.StopAfter(7))
        resumed, progress = resume(folder, stripes.TRAIN, stripes.TEST, device=end)
        results.append((resumed.model.to("cpu").state(), progress.history))
    for state, rows in results:
        for n, v in expected.items():
            assert np.abs(state[n] - v).max() <= 1e-6 * max(1e-2, np.abs(v).max()), n
        for ours, theirs in zip(rows, history, strict=True):
            for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "grad_norm"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-7), key
    ends = [results[0][0], results[-1][0]]
    assert all(np.array_equal(ends[0][n], v) for n, v in ends[1].items())  # gpu to gpu: to the bit
