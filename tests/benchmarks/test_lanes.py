"""The processes of `minires bench gpu-vs-cpu`, run here: the CPU's, and the GPU's on a stand-in for CuPy."""

import cuda_on_cpu
import numpy as np
import pytest
import strict
from minires.benchmarks import lanes
from minires.benchmarks.harness import Unavailable

from minires import backend

pytestmark = pytest.mark.slow

CASE = {"arch": "resnet8", "size": 8, "batch": 2, "optimizer": "adam", "threads": None}
TRAINING = CASE | {"task": "training", "precision": "fp32"}
INFERENCE = CASE | {"task": "inference", "precision": "fp32"}


class StandIn(lanes.Cupy):
    """Without the device's clock and memory, which a stand-in has not."""

    clock, wait, free, release = lanes.Lane.clock, lanes.Lane.wait, lanes.Lane.free, lanes.Lane.release


@pytest.fixture
def losses():
    """The first loss of the case on the CPU, as `fit` computes it."""
    lane = lanes.Cpu({})
    found = lane("prepare", "ours", TRAINING)["first_loss"]
    lane("drop")
    return found


def test_the_cpus_lane_gives_the_threads_back():
    lane, threads = lanes.Cpu({}), backend.thread_count()
    for case in (TRAINING, INFERENCE):
        told = lane("prepare", "ours", case)
        assert told["how"] == "CPU"
        assert (told["first_loss"] is None) == (case is INFERENCE)
        times = lane("measure", "ours", 0.02)
        assert len(times) >= 1
        assert min(times) > 0
        lane("drop")
        assert backend.thread_count() == threads
    with pytest.raises(KeyError):
        lane("measure", "ours", 0.02)  # it was dropped


def test_pytorchs_lane_starts_from_the_same_loss(losses):
    pytest.importorskip("torch")
    lane = lanes.Cpu({})
    told = lane("prepare", "torch_channels_last", TRAINING)
    np.testing.assert_allclose(told["first_loss"], losses, rtol=1e-4)
    assert len(lane("measure", "torch_channels_last", 0.01)) >= 1


def test_pytorchs_gpu_lane_says_when_there_is_none():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(Unavailable, match="finds no GPU"):
        lanes.Torch({})


def test_the_gpus_lane_on_a_stand_in(losses, pretend_cupy, monkeypatch):
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++ to run the kernels on the CPU")
    monkeypatch.setattr(strict, "RawModule", cuda_on_cpu.RawModule, raising=False)
    pretend_cupy(strict)
    with strict.waiting():
        lane = StandIn({})
        for name, how in (("ours_no_graph", "no graph: asked for none"), ("plain", "layer by layer")):
            told = lane("prepare", name, TRAINING)
            assert how in told["how"]
            np.testing.assert_allclose(told["first_loss"], losses, rtol=1e-4)
        assert lane("prepare", "ours", INFERENCE)["first_loss"] is None
        assert len(lane("measure", "ours", 0.01)) >= 1
        with pytest.raises(Unavailable, match="TF32"):
            lane("prepare", "plain", TRAINING | {"precision": "tf32"})
        lane("drop")
        assert not lane.work
