"""Ranks with a GPU each train the network of one: on the pretended GPU, NCCL's calls between threads (nccl_on_cpu.py).

Nothing here has run on a GPU: it holds the calls, their order and the arithmetic to CuPy's and NCCL's documentation.
"""

import copy
import sys

import cuda_on_cpu
import nccl_on_cpu
import numpy as np
import pytest
import strict
import threads
from devices import TEST, TOLD, TRAIN, classifier, fetched, sent, small
from nccl_on_cpu import Gpus, capturing

from minires import backend
from minires.errors import ConfigError, RankError
from minires.fast import communicator
from minires.fast.gpu import kernels
from minires.fast.gpu.nccl import Nccl
from minires.fast.gpu.step import GpuStep
from minires.fast.step import FusedStep, Step, make_step
from minires.nn import Dropout
from minires.optim import OPTIMIZERS
from minires.train import Recipe, fit

COUNTS = 7, 6, 7, 7, 6, 6  # images of each step's batch, of which ranks have shares that differ


@pytest.fixture
def gpus(pretend_cupy, monkeypatch):
    """Every rank that is a thread has a pretended GPU."""
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++ to run the kernels on the CPU")
    monkeypatch.setattr(strict, "RawModule", cuda_on_cpu.RawModule, raising=False)
    pretend_cupy(strict)
    monkeypatch.setattr(strict.cuda, "nccl", nccl_on_cpu, raising=False)
    monkeypatch.setitem(sys.modules, "cupy.cuda", strict.cuda)
    with strict.waiting():
        backend.choose_device("gpu")


def together(size, work, **options):
    return threads.run(size, work, kind=Gpus, **options)


def batches(counts=COUNTS):
    rng = np.random.default_rng(3)
    return [(rng.standard_normal((n, 8, 8, 3)), rng.integers(0, 4, n)) for n in counts]


def train(start, optimizer, device="gpu", counts=COUNTS, prepare=lambda step: step, sharded=False, **ways):
    """The state and the numbers told after steps of so many images; on a GPU nothing waits for it."""
    model, send = copy.deepcopy(start).train().to(device), sent if device == "gpu" else tuple
    for module in model.modules():
        if isinstance(module, Dropout):
            module.rng = np.random.default_rng(1)
    name, options = optimizer
    optimizer = OPTIMIZERS[name](model.params(), weight_decay=0.05, **options)
    if sharded:
        optimizer.share_state()
    told, step = [], prepare(make_step(model, optimizer, label_smoothing=0.1, **ways))
    for t, (x, labels) in enumerate(batches(counts)):
        here = communicator.share_of_batch(len(x))
        with communicator.on_batch(len(x)):
            told.append(list(step(*send((x[here], labels[here])), 0.02 / (1 + t))))
    return model.state(), told, step


def assert_alike(ours, theirs, tolerance=1e-9):
    """Weights, running statistics and numbers told; a bias that a normalisation takes away is left to rounding."""
    state, told = (fetched(part, strict.waiting) for part in ours[:2])
    np.testing.assert_allclose(told, np.array(theirs[1], float), rtol=tolerance)
    for name, expected in theirs[0].items():
        if not (name.endswith(".b") and name.replace(".b", ".w") in theirs[0] and "fc" not in name):
            far = np.abs(state[name] - expected).max()
            assert far <= tolerance * max(1e-2, np.abs(expected).max()), name


KINDS = [
    ("resnet8", {}, ("sgd", {"nesterov": True})),
    ("resnet8", {"preact": True}, ("adam", {"clip_norm": 0.5})),
    ("resnet8", {"norm": False}, ("adamw", {"decay_all": True})),
    ("resnet8", {"variant": "course"}, ("sgd", {"clip_norm": 0.1})),
    ("resnet8", {"dropout": 0.3}, ("adam", {})),
    ("resnet8", {"shortcut": "A"}, ("adamw", {})),
]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("arch", "options", "optimizer"), KINDS, ids=str)
def test_ranks_train_the_network_of_one(arch, options, optimizer, size, gpus):
    start = small(arch, **options).astype(np.float64)
    expected = train(start, optimizer, "cpu", by_layers=True)
    results = together(size, lambda rank: train(start, optimizer))
    for ours in results:
        assert isinstance(ours[2], GpuStep)
        assert_alike(ours, expected)
    states = [fetched(ours[0], strict.waiting) for ours in results]
    assert all(np.array_equal(v, states[0][n]) for state in states for n, v in state.items())


def test_each_rank_may_normalise_its_own_share(gpus):
    """As ranks on the CPU do, layer by layer."""
    start, optimizer = small().astype(np.float64), ("sgd", {})
    expected = threads.run(3, lambda rank: train(start, optimizer, "cpu", by_layers=True), local_bn=True)
    results = together(3, lambda rank: train(start, optimizer), local_bn=True)
    for ours, theirs in zip(results, expected, strict=True):
        assert_alike(ours, theirs)
    means = [next(v for n, v in fetched(ours[0], strict.waiting).items() if n.endswith(".mean")) for ours in results]
    assert not np.allclose(means[0], means[2]), "their running statistics are their own"


@pytest.mark.parametrize(("kind", "ways"), [(FusedStep, {"sharded": True}), (Step, {"by_layers": True})])
def test_shares_of_the_optimisers_state_and_layers_as_they_stand(kind, ways, gpus):
    """What the step by kernels leaves to the others."""
    start, optimizer = small().astype(np.float64), ("adamw", {"clip_norm": 0.5})
    expected = train(start, optimizer, "cpu", by_layers=True)
    for ours in together(3, lambda rank: train(start, optimizer, **ways)):
        assert type(ours[2]) is kind
        assert_alike(ours, expected)


def test_float32_stays_float32(gpus):
    start, optimizer = small(), ("sgd", {})
    expected = train(start.astype(np.float64), optimizer, "cpu", by_layers=True)

    def one(rank):
        model = copy.deepcopy(start).astype(np.float32).train().to("gpu")
        step = make_step(model, OPTIMIZERS["sgd"](model.params(), weight_decay=0.05), label_smoothing=0.1)
        for t, (x, labels) in enumerate(batches()):
            here = communicator.share(len(x))
            with communicator.on_batch(len(x)):
                step(*sent((x[here].astype(np.float32), labels[here])), 0.02 / (1 + t))
        return model.state()

    for state in together(2, one):
        state = fetched(state, strict.waiting)
        assert {v.dtype.char for v in state.values()} == {"f"}
        for name, value in expected[0].items():
            assert np.abs(state[name] - value).max() <= 1e-4 * max(1, np.abs(value).max()), name


@pytest.mark.parametrize("ways", [{}, {"local_bn": True}, {"shard_optimizer": True}], ids=str)
def test_fit_by_ranks(ways, gpus):
    """An epoch with dropout, augmentation, clipping, smoothing, a smaller last batch, and evaluation."""
    recipe = Recipe(epochs=1, batch_size=9, optimizer="adam", clip_norm=2.0, label_smoothing=0.1)
    local = {"local_bn": ways.get("local_bn", False)}
    expected = threads.run(2, lambda rank: fit(classifier(np.float64, "cpu"), TRAIN, TEST, recipe, **local))
    with strict.waiting():
        for progress in together(2, lambda rank: fit(classifier(np.float64, "gpu"), TRAIN, TEST, recipe, **ways)):
            ours, theirs = (p.history[0] for p in (progress, expected[0]))
            assert [ours[k] for k in TOLD] == pytest.approx([theirs[k] for k in TOLD], rel=1e-7)


# --- graphs -------------------------------------------------------------------------------------------------

GRAPHED = 7, 7, 6, 6, 7, 6, 2, 2, 2, 7  # of 7 and 6 the first two of three ranks have shares of one size


@pytest.mark.slow
def test_each_whole_has_a_graph_of_its_own(gpus, monkeypatch):
    nccl_on_cpu.pretend_graphs(monkeypatch)
    start, optimizer = small().astype(np.float64), ("adam", {"clip_norm": 0.5})
    expected = train(start, optimizer, "cpu", GRAPHED, by_layers=True)
    for ours in together(3, lambda rank: train(start, optimizer, counts=GRAPHED, prepare=capturing)):
        step = ours[2]
        assert step.how == "CUDA kernels, replayed as a graph"
        assert [held.graph.launches for held in step.replay.held.values()] == [3, 2, 2]
        assert_alike(ours, expected)


@pytest.mark.slow
@pytest.mark.parametrize("fails", [0, 2])
def test_what_one_rank_cannot_capture_all_issue(fails, gpus, monkeypatch):
    nccl_on_cpu.pretend_graphs(monkeypatch)
    start, optimizer = small().astype(np.float64), ("sgd", {})
    expected = train(start, optimizer, "cpu", GRAPHED, by_layers=True)
    norm = kernels.gradient_norm

    def without_memory(*args):
        if strict.current_stream().capture and communicator.current().rank == fails:
            raise MemoryError("out of memory")
        return norm(*args)

    monkeypatch.setattr(kernels, "gradient_norm", without_memory)
    for ours in together(3, lambda rank: train(start, optimizer, counts=GRAPHED, prepare=capturing)):
        assert ours[2].how == "CUDA kernels, no graph: out of memory"
        assert_alike(ours, expected)


def test_a_capture_that_leaves_a_stream_behind_is_none(gpus, monkeypatch):
    """The stand-in knows CUDA's rules for streams: what is begun must be waited for, and not on work outside."""
    nccl_on_cpu.pretend_graphs(monkeypatch)
    origin, side, before = strict.cuda.Stream(), strict.cuda.Stream(), strict.cuda.Stream().record()
    origin.begin_capture()
    side.wait_event(origin.record())
    with pytest.raises(RuntimeError, match="Isolation"):
        side.wait_event(before)
    with pytest.raises(RuntimeError, match="Unjoined"):
        origin.end_capture()
    origin.begin_capture()
    side.wait_event(origin.record())
    origin.wait_event(side.record())
    assert origin.end_capture()
    assert not side.capture


# --- the verbs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8"])
def test_the_verbs(dtype, gpus):
    def one(rank):
        ranks, part = communicator.current(), sent(np.arange(12).reshape(3, 4).astype(dtype) + rank)
        summed = ranks.all_reduce(part.copy())
        turned = part.copy()
        assert ranks.all_reduce(turned.T) is not None
        number = ranks.all_reduce(part[0, 0].copy())
        spread = ranks.broadcast(part[:, 1:3].copy().T, root=1)
        rows = sent(np.full((5, 2), rank).astype(dtype))
        ranks.all_gather_into(rows, communicator.shares(5))
        return summed, turned, number, ranks.all_gather(part.T), spread, rows

    here = [np.arange(12).reshape(3, 4).astype(dtype) + rank for rank in range(3)]
    for values in together(3, one):
        summed, turned, number, gathered, spread, rows = fetched(values, strict.waiting)
        assert np.array_equal(summed, sum(here))
        assert np.array_equal(turned, sum(here))
        assert number == 3
        assert np.array_equal(gathered, [a.T for a in here])
        assert np.array_equal(spread, here[1][:, 1:3].T)
        assert rows[:, 0].tolist() == [0, 1, 1, 2, 2]


def test_numbers_of_the_host_go_over_mpi(gpus):
    def one(rank):
        ranks = communicator.current()
        sums = ranks.all_reduce(np.full(2, rank)), ranks.all_gather(np.array([rank]))
        return sums, ranks.nccl

    assert all(
        sums[0].tolist() == [3, 3] and sums[1].tolist() == [[0], [1], [2]] and nccl is None
        for sums, nccl in together(3, one)
    )


def verbs(nccl, a):
    """(the communicator, its stream after that of the computation, the address, the size, code and sum)."""
    nccl.side.wait_event(strict.current_stream().record())
    return nccl.comm, nccl.side.ptr, a.data.ptr, a.size, nccl.types[a.dtype], nccl.sum


def wrong_type(nccl, a, rank):
    comm, stream, place, size, _, total = verbs(nccl, a)
    comm.allReduce(place, place, size, nccl_on_cpu.NCCL_FLOAT32, total, stream)


def of_the_host(nccl, a, rank):
    comm, stream, _, size, code, total = verbs(nccl, a)
    place = np.zeros(4).ctypes.data
    comm.allReduce(place, place, size, code, total, stream)


def beyond(nccl, a, rank):
    comm, stream, place, size, code, total = verbs(nccl, a)
    comm.allReduce(place, place, size + 1, code, total, stream)


def other_counts(nccl, a, rank):
    nccl.start_all_reduce(a[: 4 - rank])()


def other_calls(nccl, a, rank):
    nccl.start_all_reduce(a)() if rank else nccl.all_gather(a)


def two_streams(nccl, a, rank):
    nccl.start_all_reduce(a)
    nccl.side = strict.cuda.Stream()
    nccl.start_all_reduce(a)


def without_the_computation(nccl, a, rank):
    comm, stream, place, size, code, total = verbs(nccl, a)
    for _ in range(2):
        comm.allReduce(place, place, size, code, total, stream)


def written_meanwhile(nccl, a, rank):
    wait = nccl.start_all_reduce(a)
    a[0] = 5.0
    wait()


def freed_meanwhile(nccl, a, rank):
    comm, stream, place, size, code, total = verbs(nccl, a)
    other = a.copy()
    comm.allReduce(other.data.ptr, place, size, code, total, stream)
    del other
    strict.current_stream().wait_event(nccl.side.record())


REFUSED = {
    wrong_type: "memory of float64 for float32",
    of_the_host: "no memory of the device",
    beyond: "beyond the array",
    other_counts: "different names",
    other_calls: "different names",
    two_streams: "two streams",
    without_the_computation: "did not wait",
    written_meanwhile: "was written",
    freed_meanwhile: "no memory of the device",
}


@pytest.mark.parametrize("misuse", REFUSED)
def test_the_stand_in_refuses(misuse, gpus):
    """What is wrong in nccl.py or in its callers does not pass here."""

    def one(rank):
        a = sent(np.ones(4))
        nccl = communicator.current()._between_gpus(a)
        misuse(nccl, a, rank)

    with pytest.raises(nccl_on_cpu.NcclError, match=REFUSED[misuse]):
        together(2, one)


def test_what_is_not_waited_for_is_not_there(gpus):
    def one(rank):
        a = sent(np.ones(4))
        wait = communicator.current().start_all_reduce(a)
        before = a.copy()
        wait()
        return before, a

    for before, after in together(2, one):
        assert fetched([before.sum(), after.sum()], strict.waiting) == [4, 8]


def test_without_nccl_it_is_told(gpus, monkeypatch):
    monkeypatch.setattr(nccl_on_cpu, "available", False)
    with pytest.raises(ConfigError, match=r"pip install nvidia-nccl-cu12"):
        Nccl(strict, 0, 1, lambda what: what)


def test_two_ranks_on_one_gpu_are_told(gpus, monkeypatch):
    def refuse(*args):
        raise nccl_on_cpu.NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage")

    monkeypatch.setattr(nccl_on_cpu, "NcclCommunicator", refuse)
    with pytest.raises(RankError, match=r"INVALID_USAGE.*a GPU of its own"):
        Nccl(strict, 0, 2, lambda what: what)
