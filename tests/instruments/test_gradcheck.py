"""The gradient check: right on everything of ours, and for each planted bug the cause by its name."""

import argparse
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import planted
import pytest
from rich.console import Console

from minires import backend, nn, ops, resnet
from minires.commands import checks, common
from minires.commands.checks import _examples
from minires.errors import ConfigError, ShapeError, StateError
from minires.instruments.gradcheck import Sweep, epsilon_sweep, gradcheck, gradcheck_model
from minires.instruments.plots import plot_epsilon_sweep
from minires.instruments.style import picture_bytes

X = np.random.default_rng(0).standard_normal((3, 8, 8, 3))
SMALL = {"widths": (3, 4, 5)}


def small(**options):
    return resnet("resnet8", (8, 8, 3), 4, **SMALL, **options)


def causes(report) -> list[str]:
    return [f.name for f in report.findings if f.status == "fail"]


def said(report) -> str:
    return " | ".join(f"{f.name}: {f.detail}" for f in report.findings)


@pytest.mark.parametrize("name", _examples())
def test_every_op_layer_and_block_is_right(name):
    report = gradcheck(*_examples()[name])
    assert report.ok
    assert report.worst < 1e-6


HEALTHY = {
    **{variant: {"variant": variant} for variant in nn.VARIANTS},
    "preact": {"preact": True},
    "plain": {"skip": False},
    "no norm": {"norm": False},
    "zero gamma": {"last_gamma": 0.0},
    "dropout": {"dropout": 0.4},
}


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", HEALTHY)
def test_no_false_alarm_on_networks(kind, training):
    report = gradcheck(small(**HEALTHY[kind]), X, training=training, layers=True)
    assert report.ok, said(report)
    assert report.layers > 15
    assert {c.tensor for c in report.checks} == {"x", *(p.name for p in small(**HEALTHY[kind]).params())}


def test_a_small_error_is_found():
    class Off(nn.Dense):
        def backward(self, dy, need_dx=True):
            return super().backward(dy) * 1.0001

    assert causes(gradcheck(Off("fc", 4, 3), X[0, 0, :, :1].repeat(4, 1))) == ["constant factor"]


BUGS = {
    "averaging add": ("averaged at the add", "layer1.0.add"),
    "averaged": ("averaged at the add", "layer1.0: the gradient of x"),
    "branch only": ("one path at the add", "dx holds the branch's gradient alone"),
    "no mean term": ("mean term", "dx does not sum to 0 over a channel"),
    "no variance term": ("variance term", "dx is not orthogonal to x_hat"),
    "constant statistics": ("mean and variance terms", "bn1: the gradient of x"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_named_with_its_layer(bug):
    report = gradcheck(planted.plant(small(), bug), X, coordinates=1)
    cause, words = BUGS[bug]
    assert causes(report) == [cause]
    assert words in said(report)
    assert "numeric" in said(report)
    assert not report.ok


LAYERS = {
    "flipped": (planted.FlippedKernel("c", 3, 4, 3, pad=1), "kernel order", "turned by 180 degrees"),
    "unturned": (planted.UnturnedKernel("c", 3, 4, 3, pad=1), "kernel order", "not turned by 180 degrees"),
    "unturned, strided": (planted.UnturnedKernel("c", 3, 4, 3, stride=2), "kernel order", "not turned"),
    "bias": (planted.MeanBias("c", 3, 4, 3, bias=True), "mean for sum", "divided by the batch size N"),
    "in place": (planted.relu_last_block(), "in-place write", "a.relu.backward writes in place into the dy"),
}


@pytest.mark.parametrize("bug", LAYERS)
def test_a_wrong_layer_is_named_with_its_mistake(bug):
    layer, cause, words = LAYERS[bug]
    report = gradcheck(layer, X)
    assert causes(report) == [cause]
    assert words in said(report)


def test_the_healthy_twin_of_the_block_that_writes_in_place():
    assert gradcheck(planted.relu_last_block(nn.ReLU), X).ok


def test_a_write_in_place_that_harms_nobody_is_no_fault():
    report = gradcheck(planted.InPlaceReLU("relu"), X)
    assert report.ok
    assert "relu.backward writes in place into the dy" in said(report)


def relu_backward(dy, x):
    return dy * (x > 0)


FUNCTIONS = {
    "sign": (lambda dy, x: -dy * (x > 0), "sign"),
    "mask": (lambda dy, x: dy, "mask"),
    "never written": (lambda dy, x: 0 * dy, "never written"),
    "counted twice": (lambda dy, x: 2 * dy * (x > 0), "counted twice"),
    "batch mean": (lambda dy, x: dy * (x > 0) / len(x), "mean for sum"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_function_is_named_with_its_mistake(name):
    backward, cause = FUNCTIONS[name]
    assert causes(gradcheck((ops.relu_forward, backward), X)) == [cause]
    assert gradcheck((ops.relu_forward, relu_backward), X).ok


def test_a_function_of_several_arrays_and_one_that_is_not_differentiated():
    def scale_backward(dy, x, by, label):
        return dy * by, np.sum(dy * x), None

    report = gradcheck((lambda x, by, label: x * by, scale_backward), {"x": X, "by": np.array(2.0), "label": X})
    assert report.ok
    assert {c.tensor for c in report.checks} == {"x", "by"}


def test_a_kink_within_the_stencil_is_named_with_its_place():
    x = X.copy()
    x[1, 2, 3, 0] = 1e-9  # any step of 1e-6 crosses here
    report = gradcheck(nn.ReLU("relu"), x, epsilon=1e-6)
    (finding,) = report.findings
    assert (finding.name, finding.status) == ("kink", "warn")
    assert "relu (ReLU) at index (1, 2, 3, 0)" in finding.detail
    assert report.ok


def test_zeros_and_pooling_ties_are_no_error():
    assert "kink" in said(gradcheck(nn.ReLU("relu"), np.maximum(X, 0)))
    tied = gradcheck(nn.MaxPool2d("pool", 2), np.round(X))
    assert tied.ok
    assert "another pixel wins the window of pool" in said(tied)
    exact = gradcheck((ops.relu_forward, relu_backward), np.maximum(X, 0))
    assert exact.ok
    assert "exactly at a kink" in said(exact)


def test_an_unsuitable_epsilon_is_named_and_the_gradient_still_judged():
    for epsilon, cause in ((1e-12, "epsilon too small"), (0.1, "epsilon too large")):
        report = gradcheck(nn.BatchNorm("bn", 3), X, epsilon=epsilon)
        assert report.ok
        assert cause in said(report)
        assert causes(gradcheck(planted.NoMeanTerm("bn", 3), X, epsilon=epsilon)) == ["mean term"]


def test_a_smaller_epsilon_is_tried_where_the_usual_one_bends_too_far():
    report = gradcheck((lambda x: np.sin(1e4 * x), lambda dy, x: dy * 1e4 * np.cos(1e4 * x)), X)
    assert report.ok
    assert "epsilon 1e-06 fails, 1e-07 passes" in said(report)


def test_no_mistake_is_named_that_explains_nothing():
    """Noise of one part in ten thousand: nearly a constant factor of 1, or any other repair."""
    noise = 1e-4 * np.random.default_rng(1).standard_normal(X.shape)
    assert causes(gradcheck((ops.relu_forward, lambda dy, x: relu_backward(dy, x) * (1 + noise)), X)) == ["unknown"]


@pytest.mark.parametrize("norm", [nn.BatchNorm, planted.NoVarianceTerm])
def test_a_network_too_sharp_for_differences_is_judged_by_its_layers(norm):
    """Two images alike to eight digits, magnified, normalised to -1 and 1: no epsilon suits the whole chain."""
    model = nn.Sequential(nn.Dense("gain", 3, 4), norm("bn", 4), nn.Dense("fc", 4, 2), name="net")
    model.params()[0].data *= 1e5
    report = gradcheck(model, X[0, 0, :1] + 1e-8 * X[0, 1, :2])
    if norm is nn.BatchNorm:
        assert report.ok
        assert report.worst > 0.1
        assert "too sharp: the difference of" in said(report)
        assert "each of the 3 layers by itself is right: bn normalises 2 values a channel" in said(report)
    else:
        assert causes(report) == ["variance term"]


def test_float32_is_named_with_the_layer_that_slips_into_it():
    report = gradcheck(nn.Sequential(nn.ReLU("r"), planted.Float32Conv("c", 3, 4, 3), name="net"), X)
    assert "from c on" in said(report)
    kept = gradcheck(nn.Conv2d("c", 3, 4, 3), X.astype(np.float32), dtype=None)
    assert kept.ok
    assert "computes in float32" in said(kept)
    assert "was checked in float64" in said(gradcheck(nn.Conv2d("c", 3, 4, 3), X.astype(np.float32)))


def test_what_moves_between_evaluations_is_named():
    assert "dropout draws anew" in said(gradcheck(small(dropout=0.5), X))
    report = gradcheck(planted.MovingBatchNorm("bn", 3), X, training=False)
    assert causes(report) == ["moving statistics"]
    assert "bn.mean, bn.var" in said(report)

    class Counter(nn.ReLU):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * self.calls

    assert "not a function" in causes(gradcheck(Counter("odd"), X))


def test_the_model_is_left_as_it_was():
    model = small(dropout=0.5)
    before = {name: a.copy() for name, a in model.state().items()}
    drawn = [m.rng.bit_generator.state for m in model.modules() if isinstance(m, nn.Dropout)]
    for p in model.params():
        p.grad = np.ones_like(p.data)
    model.eval()
    gradcheck(model, X, training=True, layers=True)
    assert all(np.array_equal(model.state()[name], a) for name, a in before.items())
    assert all((p.grad == 1).all() and p.data.dtype == np.float32 for p in model.params())
    assert drawn == [m.rng.bit_generator.state for m in model.modules() if isinstance(m, nn.Dropout)]
    assert not any(m.training or "forward" in vars(m) or m._slot for m in model.modules())


def test_names_stay_whole_in_eighty_columns():
    target, x = _examples()["block"]
    table = gradcheck(target, x, title="block").table()
    said = io.StringIO()
    Console(file=said, width=80).print(table)
    for p in target.params():
        assert f"{p.name} " in said.getvalue()
    assert max(map(len, said.getvalue().splitlines())) <= 80


def test_the_report_is_plain_data_and_a_table():
    report = gradcheck(small(), X, coordinates=2)
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report.table())
    assert "resnet8: right" in console.export_text()


def test_errors_are_those_of_the_caller():
    with pytest.raises(ConfigError, match="epsilon must be positive"):
        gradcheck(nn.ReLU("r"), X, epsilon=0)
    with pytest.raises(ShapeError, match="fc"):
        gradcheck(nn.Dense("fc", 3, 2), X)

    class Forgets(nn.ReLU):
        def forward(self, x):
            return ops.relu_forward(x)

    with pytest.raises(StateError, match="forgets"):
        gradcheck(Forgets("forgets"), X)


def test_the_sweep_has_the_arms_of_a_v():
    epsilons = (1e-12, 1e-7, 1e-1)
    sweep = epsilon_sweep(small(), X, epsilons=epsilons, directions=3)
    left, valley, right = (row["error"] for row in sweep.rows)
    assert valley < 1e-7
    assert left > 10 * valley
    assert right > 1000 * valley
    assert sweep.best == 1e-7
    assert [row["crossed"] for row in sweep.rows][::2] == [0, 1]
    single = epsilon_sweep(small(), X.astype(np.float32), epsilons=(1e-7,), directions=3, dtype=np.float32)
    assert single.rows[0]["error"] > 1e-2
    assert single.dtype == "float32"


@pytest.mark.slow
def test_the_sweep_is_drawn():
    rows = tuple({"epsilon": 10.0**-k, "error": 10.0**-k, "worst": 1.0, "crossed": 0.5} for k in range(1, 6))
    fig = plot_epsilon_sweep({"float64": Sweep("block", "float64", 0, rows)}, note="seed 0")
    assert picture_bytes(fig).startswith(b"\x89PNG")
    top, bottom = fig.axes
    assert list(top.lines[0].get_xdata()) == [row["epsilon"] for row in rows]
    assert list(bottom.lines[0].get_ydata()) == [0.5] * 5


def test_a_whole_network_by_name():
    report = gradcheck_model("resnet14", input_shape=(8, 8, 3), batch=2, classes=3, widths=(3, 4, 5))
    assert report.ok
    assert report.worst < 1e-5
    assert report.layers > 30


def test_checks_in_two_threads_leave_the_process_its_threads():
    """A check of a whole network takes one BLAS thread, for its own time alone."""
    before = backend.thread_count()
    with backend.blas_threads(2), ThreadPoolExecutor(2) as pool:
        sizes = {"input_shape": (8, 8, 3), "widths": (2, 3, 4)}
        reports = [pool.submit(gradcheck_model, "resnet8", seed=seed, **sizes) for seed in range(3)]
        assert all(report.result().ok for report in reports)
        assert backend.thread_count() == 2
    assert backend.thread_count() == before


def test_a_wrong_gradient_is_found_on_a_kink_too():
    report = gradcheck((ops.relu_forward, lambda dy, x: dy), np.maximum(X, 0))
    assert not report.ok


def run(*arguments) -> int:
    """The exit status of a command line."""
    root = argparse.ArgumentParser()
    commands = root.add_subparsers()

    def command(parent, name, run, text, example):
        p = parent.add_parser(name)
        p.set_defaults(run=run)
        return p

    checks.register(commands, command)
    args = root.parse_args(list(map(str, arguments)))
    return args.run(args)


@pytest.mark.slow
def test_the_commands(capsys, tmp_path, monkeypatch):
    assert run("gradcheck", "batchnorm") == 0
    assert "batchnorm: right" in capsys.readouterr().out
    assert run("gradcheck", "dense", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dense"]["ok"] is True
    picture = tmp_path / "curve.png"
    assert run("gradcheck", "dense", "--sweep", "--out", picture, "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"float64", "float32"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="choose one of conv2d"):
        run("gradcheck", "--sweep")
    with pytest.raises(ConfigError, match="epsilon must be positive"):
        run("gradcheck", "resnet8", "--epsilon", 0)  # whole networks take it too
    assert "resnet8: along a direction for every tensor" in capsys.readouterr().err
    assert run("audit", "resnet8", "--input", "8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["nearest"] == "v1.5"
    with pytest.raises(ConfigError, match="name of an architecture"):
        run("audit")
    monkeypatch.setattr(common, "resnet", lambda arch, *_, **__: planted.plant(small(), "averaging add"))
    assert run("audit", "resnet8") == 1
    assert "averaged, not copied" in capsys.readouterr().out
