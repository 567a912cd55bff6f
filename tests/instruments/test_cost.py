"""The predicted cost against what really happens: bytes against tracemalloc, counts, and a model left alone."""

import json
import tracemalloc
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from minires import cli
from minires.errors import ConfigError
from minires.fast.training import Fused
from minires.instruments.cost import pieces
from minires.instruments.cost import predict as cost_module
from minires.instruments.cost.predict import predict_cost
from minires.instruments.cost.summary import summarize
from minires.nn import resnet, resnet50
from minires.ops import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from minires.train import Recipe

NARROW = {"widths": (4, 8, 8, 8)}
NETWORKS = [
    ("resnet8", 4, {}),
    ("resnet8", 20, {"preact": True}),
    ("resnet8", 4, {"skip": False, "norm": False}),
    ("resnet8", 4, {"dropout": 0.3}),
    ("resnet14", 6, {"variant": "course"}),
    ("resnet50", 8, NARROW),
    ("resnet18", 3, {**NARROW, "variant": "v1"}),
]


def predicted(model, batch, **options):
    """A prediction that spends no time on the clock."""
    return predict_cost(model, batch, budget=0, **options)


def peak_of_two_steps(model, batch, optimizer):
    """Bytes of arrays at the fullest, as `fit` trains, the network's and the optimiser's own among them."""
    labels = np.arange(batch) % model.config.classes
    tracemalloc.start()
    x = np.random.default_rng(0).standard_normal((batch, *model.config.input_shape), np.float32)
    update = Recipe(optimizer=optimizer).make_optimizer(model.params())  # makes the weights anew, and gradients
    tracemalloc.reset_peak()
    net = Fused(model)
    for _ in range(2):
        _, probs = softmax_cross_entropy_forward(net.forward(x), labels)
        net.backward(softmax_cross_entropy_backward(probs, labels))
        update.step(1e-4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "batch", "options"), NETWORKS)
def test_peak_memory_is_that_of_a_step(arch, batch, options):
    model = resnet(arch, (64, 64, 3), 6, **options)
    memory, again = (predicted(model, batch, optimizer="sgd").memory for _ in range(2))
    assert memory.peak == pytest.approx(again.peak, rel=1e-3, abs=2**13)  # the interpreter's own objects come and go
    measured = peak_of_two_steps(model, batch, "sgd")
    assert memory.peak == pytest.approx(measured, rel=0.05, abs=2**16)  # measured, the interpreter's own objects count
    assert memory.gradients == sum(p.data.nbytes for p in model.params())


def test_memory_of_optimisers_and_precision():
    model = resnet("resnet8", (16, 16, 3), 6)
    memory = {name: predicted(model, 2, optimizer=name).memory for name in ("sgd", "adamw")}
    weights = sum(p.data.nbytes for p in model.params())
    assert memory["sgd"].optimizer == weights
    assert memory["adamw"].optimizer == 2 * weights
    double = predicted(model.astype(np.float64), 2, optimizer="sgd").memory
    assert double.activations == pytest.approx(2 * memory["sgd"].activations, rel=0.05)


@pytest.mark.slow
def test_counts_are_those_of_the_summary():
    """58.55 GFLOP of a step with 32 images: the number of the published measurements."""
    model = resnet50()
    numbers = predicted(model, 1).as_dict()
    assert numbers["parameters"] == 23_600_006
    assert numbers["flops_training"] * 32 == pytest.approx(58.55e9, rel=1e-3)
    assert sum(piece["count"] * piece["flops"] for piece in numbers["pieces"]) == numbers["flops_forward"]
    pieces = {piece["name"]: piece["count"] for piece in numbers["pieces"]}
    assert pieces.pop("stem") == pieces.pop("head") == 1
    assert pieces == {
        "block2a": 1,
        "block2b": 2,
        "block3a": 1,
        "block3b": 3,
        "block4a": 1,
        "block4b": 5,
        "block5a": 1,
        "block5b": 2,
    }


def test_time_is_the_sum_over_all_places(monkeypatch):
    monkeypatch.setattr(pieces.Trial, "seconds", lambda trial: (1.0, 2.0, 4.0))
    monkeypatch.setattr(cost_module, "time_update", lambda *_: 0.5)
    cost = predicted(resnet("resnet14", (16, 16, 3), 6), 2)
    assert cost.training_seconds == (1 + 2) * (6 + 2) + 0.5  # six blocks, stem and head
    assert cost.inference_seconds == 4 * 8
    assert [piece.count for piece in cost.pieces] == [1, 2, 1, 1, 1, 1, 1]


def test_each_piece_is_run_at_least_once_and_until_the_time_is_up(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(cost_module, "perf_counter", lambda: next(clock))
    runs = []
    monkeypatch.setattr(pieces.Trial, "run", lambda trial: runs.append(trial) or trial.times.append((1, 1, 1)))
    model = resnet("resnet8", (16, 16, 3), 6)
    predict_cost(model, 2, budget=0)
    assert len(runs) == len(set(runs)) == 5
    runs.clear()
    predict_cost(model, 2, budget=7)  # a second passes with each look at the clock
    assert len(runs) == 5 + 7


def test_large_pieces_are_run_on_fewer_images(monkeypatch):
    model = resnet("resnet8", (32, 32, 3), 6)
    whole = predicted(model, 16)
    monkeypatch.setattr(pieces, "PIECE", 6 * max(piece.flops for piece in whole.pieces))
    part = predicted(model, 16)
    assert {piece.images for piece in whole.pieces} == {16}
    assert min(piece.images for piece in part.pieces) == 2
    for scaled, piece in zip(part.pieces, whole.pieces, strict=True):
        assert scaled.kept == pytest.approx(piece.kept, rel=0.05, abs=1024)  # Python's own objects are seen too
        assert scaled.busy > 0.9 * piece.busy  # columns have a largest size, but are scaled up with the rest
    assert "fewer images" in text(part)
    assert "fewer images" not in text(whole)


def test_the_model_is_left_as_it_was():
    model = resnet("resnet8", (16, 16, 3), 6)
    model.eval()
    state = {name: array.copy() for name, array in model.state().items()}
    modes = [(m.training, m.save_for_backward, m._slot) for m in model.modules()]
    predicted(model, 2)
    assert all(np.array_equal(array, state[name]) for name, array in model.state().items())
    assert [(m.training, m.save_for_backward, m._slot) for m in model.modules()] == modes
    assert all(p.grad is None for p in model.params())
    assert not tracemalloc.is_tracing()


def text(cost):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(cost.table())
    return capture.get()


def test_command(capsys, monkeypatch):
    monkeypatch.setattr(cost_module, "predict_cost", partial(predict_cost, budget=0))
    arguments = ["summary", "resnet8", "--input", "16", "--batch-size", "3", "--cost", "--optimizer", "sgd"]
    assert cli.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    summary = summarize(resnet("resnet8", (16, 16, 3), 6), 3)
    assert numbers["flops_training"] == 3 * summary.flops_training
    assert (numbers["batch"], numbers["optimizer"]) == (3, "sgd")
    parts = ("weights", "gradients", "optimizer", "batch", "activations", "workspace")
    assert numbers["memory"]["peak"] == sum(numbers["memory"][part] for part in parts)
    assert numbers["training_seconds"] > numbers["update_seconds"] > 0
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Training step" in shown
    assert "Peak memory" in shown
    assert "layer2.0" in shown
    assert cli.main(["summary", "resnet8", "--cost", "--batch-size", "0"]) == 2
    assert "--batch-size: expected a whole number from 1" in capsys.readouterr().err


def test_an_unknown_optimiser_is_named():
    with pytest.raises(ConfigError, match=r"'lion'.*adamw"):
        predict_cost(resnet("resnet8", (16, 16, 3), 6), 2, optimizer="lion")
