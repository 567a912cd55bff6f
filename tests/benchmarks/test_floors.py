"""The machine's limits and the work of a network: against counts made another way."""

import numpy as np
import pytest
from demand import on_demand
from minires.benchmarks import floors
from minires.benchmarks.floors import Floors, Work, work

from minires import resnet
from minires.instruments.cost.summary import summarize


def test_rates_are_rates():
    """Twice the seconds, the same rate: amounts and times belong together."""
    for shape in ((64, 64, 64), (256, 16, 128)):
        assert floors.sgemm(shape, seconds=0.01) > 1e6
    copy, triad = floors.bandwidth(seconds=0.01, floats=2**18)
    assert copy > 1e6
    assert triad > 1e6
    calls = []
    assert floors._best_rate(100, lambda: calls.append(1), 0) > 0
    assert len(calls) == 4  # one to warm up, and three


def test_a_floor_is_the_larger_of_two():
    limits = Floors(square=80.0, best=100.0, best_shape=(2, 3, 4), copy=10.0, triad=8.0)
    assert limits.bandwidth == 10
    assert limits.seconds(Work(flops=1000, bytes=1)) == 10
    assert limits.seconds(Work(flops=1, bytes=1000)) == 100
    assert limits.as_dict()["bandwidth"] == 10
    assert "2x3x4" in str(limits)


def test_flops_counted_by_hand():
    """ResNet-8 on 8x8: each product's rows x columns x terms, twice."""
    forward = [
        8 * 8 * 16 * 27,  # the stem
        *[8 * 8 * 16 * 144] * 2,
        *[4 * 4 * 32 * 144, 4 * 4 * 32 * 288, 4 * 4 * 32 * 16],  # the last is the projection
        *[2 * 2 * 64 * 288, 2 * 2 * 64 * 576, 2 * 2 * 64 * 32],
        64 * 5,
    ]
    model = resnet("resnet8", (8, 8, 3), 5)
    assert work(model, 3, "inference").flops == 3 * 2 * sum(forward)
    assert work(model, 3, "training").flops == 3 * 2 * (3 * sum(forward) - forward[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size"), [pytest.param("resnet50", 64, marks=on_demand), ("resnet20", 32), ("resnet18", 64)]
)
def test_flops_counted_by_pytorch(arch, size):
    """PyTorch's own counter watches the same network forward and backward."""
    torch = pytest.importorskip("torch")
    from minires.benchmarks.peers import to_torch
    from torch.utils.flop_counter import FlopCounterMode

    model = resnet(arch, (size, size, 3), 6)
    twin = to_torch(model)
    with FlopCounterMode(display=False) as forward:
        loss = twin(torch.zeros(2, 3, size, size)).sum()
    assert forward.get_total_flops() == work(model, 2, "inference").flops
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == work(model, 2, "training").flops


def test_bytes_are_those_of_the_summary():
    model = resnet("resnet20", (32, 32, 3), 10)
    memory = summarize(model, 4).memory
    weights = sum(p.data.nbytes for p in model.params())
    adam, sgd = (work(model, 4, "training", optimizer).bytes for optimizer in ("adam", "sgd"))
    assert adam == 2 * memory.activations + 6 * weights + 4 * weights
    assert adam - sgd == 2 * weights  # Adam has one array of state more, read and written
    twice = work(model, 8, "training").bytes
    assert 1.9 < (twice - 10 * weights) / (adam - 10 * weights) < 2.0001
    one = work(model, 1, "inference").bytes
    x = np.zeros((1, 32, 32, 16), np.float32)
    assert one > 2 * x.nbytes * 7  # the stem and six convolutions at full size, each written and read
