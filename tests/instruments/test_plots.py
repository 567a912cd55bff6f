"""The pictures hold the data they were given, and are drawn without pyplot or a display."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from data_helpers import random_set, write_image
from matplotlib.figure import Figure
from pictures import STARTS, assert_opens
from PIL import Image
from slowed import undrawn

from minires import cli
from minires.errors import DataError
from minires.instruments import plots
from minires.instruments.gradflow import compare_skip
from minires.nn import resnet
from minires.nn.probe import probe

HISTORY = [
    {"epoch": e, "train_loss": 2 / e, "train_accuracy": 1 - 1 / (e + 1), "test_loss": 3 / e, "test_accuracy": 0.5}
    for e in range(1, 4)
]
CLASSES = ("fist", "one", "two")


@pytest.fixture(scope="module")
def comparison():
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3))
    return compare_skip(resnet("resnet14", (8, 8, 3), 3, widths=(4, 6, 8)), x, np.array([0, 1, 2, 0]))


def lines(ax):
    """Label -> the line's data, of the lines that a legend names."""
    return {line.get_label(): line.get_data() for line in ax.get_lines() if not line.get_label().startswith("_")}


def texts(fig):
    return " ".join(text.get_text() for text in fig.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize("narrow", [False, True])
def test_gradflow_shows_both_gradients_by_name(comparison, narrow):
    fig = plots.plot_gradflow(comparison.flows, note="seed 7", narrow=narrow)
    left, right = fig.axes
    assert isinstance(fig, Figure)
    assert left.get_legend().get_title().get_text() == "Activation gradients"
    assert right.get_legend().get_title().get_text() == "Weight gradients"
    assert {left.get_yscale(), right.get_yscale()} == {"log"}
    assert list(lines(left)) == list(lines(right)) == list(comparison.flows)
    for label, flow in comparison.flows.items():
        depth, value = lines(left)[label]
        assert list(depth) == [1, *(block.depth for block in flow.blocks)]
        assert list(value) == [flow.blocks[0].dx_rms, *(block.dy_rms for block in flow.blocks)]
        assert list(lines(right)[label][0]) == list(range(1, 15))
    assert "seed 7" in texts(fig)
    assert "resnet14 (v1.5), residual, BN, He, seed 0, batch of 4" in texts(plots.plot_gradflow(comparison.flows))
    assert "minires" in texts(fig)


def test_numbers_that_a_log_axis_cannot_show_leave_a_gap(comparison):
    flow = comparison.plain
    last = replace(flow.layers[-1], dw_norm=float("inf"))
    broken = replace(flow, layers=(*flow.layers[:-1], last))
    value = lines(plots.plot_gradflow({"broken": broken}).axes[1])["broken"][1]
    assert np.isnan(value[-1])
    assert np.isfinite(value[:-1]).all()


def test_gradient_norms_show_the_paths_only_where_there_are_two(comparison):
    residual = lines(plots.plot_gradient_norms(comparison.residual).axes[0])
    assert len(residual) == 4
    assert list(residual["through shortcut"][1]) == [block.shortcut_rms for block in comparison.residual.blocks]
    assert list(residual["through shortcut"][0]) == [1, 3, 5, 7, 9, 11]
    assert len(lines(plots.plot_gradient_norms(comparison.plain).axes[0])) == 2


def test_curves():
    loss, accuracy = plots.plot_curves(HISTORY).axes
    assert list(lines(loss)["test"][1]) == [3, 1.5, 1]
    assert loss.get_ylim()[1] > 3
    assert list(lines(accuracy)) == ["train", "test"]
    without = [{**row, "test_loss": None, "test_accuracy": None} for row in HISTORY]
    assert list(lines(plots.plot_curves(without).axes[0])) == ["train"]
    only_last = [*without[:-1], HISTORY[-1]]
    assert np.isnan(lines(plots.plot_curves(only_last).axes[0])["test"][1]).sum() == 2
    diverged = [{"epoch": 1, "train_loss": float("nan"), "train_accuracy": None}]
    assert plots.plot_curves(diverged).axes[0].get_ylim() == (0, 1)
    with pytest.raises(DataError, match="history"):
        plots.plot_curves([])


@pytest.mark.parametrize("narrow", [False, True])
def test_confusion_counts_true_by_predicted(narrow):
    ax = plots.plot_confusion([0, 0, 0, 2], [0, 1, 1, 2], CLASSES, narrow=narrow).axes[0]
    counts = {text.get_position(): text.get_text() for text in ax.texts}
    assert counts[1, 0] == "2"  # at column 1, row 0: true 0 said to be 1
    assert counts[0, 1] == "0"
    np.testing.assert_allclose(ax.get_images()[0].get_array(), [[1 / 3, 2 / 3, 0], [0, 0, 0], [0, 0, 1]])
    assert ax.get_ylabel() == "true class"


def test_mistakes_are_the_surest_and_only_those_are_read():
    asked = []

    def images(index):
        asked.extend(index)
        return np.zeros((len(index), 4, 4, 3), np.uint8)

    labels, predictions = np.array([0, 1, 2, 0, 1]), np.array([1, 1, 0, 2, 0])
    fig = plots.plot_mistakes(images, labels, predictions, np.array([0.5, 0.99, 0.9, 0.7, 0.6]), CLASSES, most=3)
    assert asked == [2, 3, 4]
    assert fig.axes[0].get_title() == "said fist (90%)\ntrue: two"
    assert sum(bool(ax.get_images()) for ax in fig.axes) == 3
    none = plots.plot_mistakes(images, labels, labels, np.ones(5), CLASSES)
    assert "All 5 images" in texts(none)
    assert not none.axes


def test_samples_show_a_row_for_each_class_that_has_images():
    whole, part = random_set(7, classes=("fist", "one", "two")), random_set(4, classes=("fist", "one", "two", "six"))
    part.labels[:] = [0, 3, 3, 0]
    for dataset, title, names in (
        (whole, "3 classes", ["fist\n3 images", "one\n2 images", "two\n2 images"]),
        (part, "2 of 4 classes", ["fist\n2 images", "six\n2 images"]),
    ):
        fig = plots.plot_samples(dataset, each=2)
        (ax,) = fig.axes
        assert title in texts(fig)
        assert [label.get_text() for label in ax.get_yticklabels()] == names
        assert ax.images[0].get_array().shape == (len(names) * 8, 2 * 8, 3)


def test_probe_has_a_point_for_each_layer():
    model = resnet("resnet8", (8, 8, 3), 3, widths=(4, 4, 4))
    with probe(model) as log:
        model.backward(model.forward(np.ones((2, 8, 8, 3), np.float32)))
    for ax in plots.plot_probe(log).axes:
        assert {kind: len(x) for kind, (x, _) in lines(ax).items()}["Add"] == 3
    with probe(model) as silent:
        pass
    with pytest.raises(DataError, match="forward"):
        plots.plot_probe(silent)


def test_one_bad_epoch_does_not_press_the_others_onto_the_axis():
    assert plots.plot_curves(HISTORY).axes[0].get_yscale() == "linear"
    spike = [HISTORY[0] | {"test_loss": 11.0}, HISTORY[1] | {"test_loss": 0.05}, HISTORY[2] | {"test_loss": 0.02}]
    assert plots.plot_curves(spike).axes[0].get_yscale() == "log"
    assert plots.plot_curves([row | {"test_loss": None} for row in spike]).axes[0].get_yscale() == "linear"


def test_save_is_a_png_and_atomic(tmp_path, monkeypatch):
    fig = plots.plot_curves(HISTORY)
    path = plots.save_picture(fig, tmp_path / "curves.png")
    assert Image.open(path).size[0] > 1200
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="space"):
        plots.save_picture(fig, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("kind", STARTS)
def test_the_ending_of_a_picture_is_its_kind(tmp_path, kind):
    paths = [plots.save_picture(plots.plot_curves(HISTORY), tmp_path / f"{i}.{kind.upper()}") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert_opens(paths[0])


SLOW = pytest.mark.slow
SMALL = "--arch resnet8 --data photos --size 16 --batch-size 4"
COMMANDS = (
    "diagram resnet8",
    "data show photos",
    "gradcheck relu --sweep",
    f"gradflow {SMALL}",
    f"lr-find {SMALL} --steps 20",
    "features resnet8",
    "kernels resnet8",
    "gradcam resnet8",
    "occlusion resnet8 --patch 32 --stride 32",
    "landscape run --points 3 --images 4",
    "compare run other",
    "lesson 1 --quick",
)


QUICK = ("diagram", "data show", "kernels")


@pytest.mark.slow
@pytest.mark.parametrize("line", [pytest.param(c, marks=() if c.startswith(QUICK) else SLOW) for c in COMMANDS])
def test_each_command_draws_what_the_ending_says_or_refuses_it(tmp_path, capsys, monkeypatch, line):
    for i in range(16):
        write_image(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", i)
    monkeypatch.chdir(tmp_path)
    if " run" in line:
        with monkeypatch.context() as patch:
            undrawn(patch.setattr)
            for seed, run in enumerate(("run", "other")):
                train = [*SMALL.split(), "--epochs", "1", "--no-check", "--seed", str(seed), "--out", run]
                assert cli.main(["train", *train]) == 0
    for kind in STARTS:
        assert cli.main([*line.split(), "--out", f"x.{kind}"]) in (0, 1)  # lr-find: no rate made the loss fall
        assert_opens(tmp_path / f"x.{kind}")
    before = sorted(tmp_path.iterdir())
    for name in ("x.jpg", "x"):
        try:
            status = cli.main([*line.split(), "--out", name])
        except SystemExit as stop:
            status = stop.code
        assert status == 2
        assert f"{name}: expected a picture's name that ends in .png" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_no_global_state_of_matplotlib_is_used():
    code = "import minires.instruments.report, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
