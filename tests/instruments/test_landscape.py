"""The loss landscape: known directions, known losses, and weights that come back to the bit."""

import copy
import json

import numpy as np
import pytest
import strict
from PIL import Image

from minires import cli, ops, resnet
from minires.backend import to_device
from minires.data import make_signs, write_signs
from minires.errors import ConfigError
from minires.instruments import style
from minires.instruments.landscape import Landscape, direction, landscape, plot_landscape
from minires.train.checkpoint import save_checkpoint
from minires.train.classifier import Classifier, predict_logits

RNG = np.random.default_rng(0)
X = RNG.standard_normal((70, 8, 8, 3))  # more than one batch of the evaluation
LABELS = RNG.integers(0, 3, 70)


@pytest.fixture(scope="module")
def model():
    return resnet("resnet8", (8, 8, 3), 3, widths=(4, 6, 8)).astype(np.float64)


def loss_and_accuracy(model):
    logits = predict_logits(model, X)
    return ops.softmax_cross_entropy_forward(logits, LABELS)[0], (logits.argmax(axis=1) == LABELS).mean()


def moved(model, *steps):
    """A copy with its weights moved along the first directions by these steps."""
    twin = copy.deepcopy(model)
    for i, step in enumerate(steps):
        for p, d in zip(twin.params(), direction(model, f"direction {i + 1}"), strict=True):
            p.data += step * d
    return twin


def test_every_filter_of_a_direction_has_the_norm_of_the_weights_filter(model):
    found = direction(model, "direction 1")
    for p, d in zip(model.params(), found, strict=True):
        assert d.shape == p.data.shape
        assert d.dtype == p.data.dtype
        if p.data.ndim < 2:
            assert not d.any(), p.name
            continue
        for o in range(p.data.shape[-1]):
            assert np.linalg.norm(d[..., o]) == pytest.approx(np.linalg.norm(p.data[..., o]), rel=1e-12)
            assert not np.allclose(d[..., o], p.data[..., o])
    again = direction(model, "direction 1")
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    for other in (direction(model, "direction 2"), direction(model, "direction 1", seed=1)):
        cosine = sum((a * b).sum() for a, b in zip(found, other, strict=True)) / sum((a * a).sum() for a in found)
        assert abs(cosine) < 0.2


def test_a_scaled_filter_keeps_its_landscape(model):
    """Why the directions are normalised: doubling a filter before BN changes nothing that the network computes."""
    line = landscape(model, X, LABELS, points=5, span=0.5)
    twin = copy.deepcopy(model)
    conv, norm = (next(m for m in twin.modules() if m.name == name) for name in ("layer1.0.conv1", "layer1.0.bn1"))
    conv.w.data *= 2
    norm.mean.data *= 2
    norm.var.data[...] = 4 * (norm.var.data + norm.epsilon) - norm.epsilon
    np.testing.assert_allclose(landscape(twin, X, LABELS, points=5, span=0.5).loss, line.loss, rtol=1e-9)


def test_the_line_holds_the_losses_of_moved_networks(model):
    line = landscape(model, X, LABELS, points=5, span=0.6)
    np.testing.assert_allclose(line.steps, [-0.6, -0.3, 0, 0.3, 0.6], atol=1e-15)
    for step, loss, accuracy in zip(line.steps, line.loss, line.accuracy, strict=True):
        expected = loss_and_accuracy(moved(model, step))
        assert loss == pytest.approx(expected[0], rel=1e-10)
        assert accuracy == pytest.approx(expected[1])
    assert line.loss[line.centre] < line.loss[[0, -1]].min()


def test_the_middle_is_the_network_itself(model):
    few = X[:64]  # one batch, and therefore the very same operations
    loss = ops.softmax_cross_entropy_forward(predict_logits(model, few), LABELS[:64])[0]
    for plane in (False, True):
        land = landscape(model, few, LABELS[:64], plane=plane, points=3)
        assert land.loss[land.centre] == loss


def test_the_plane_goes_along_two_directions(model):
    seen = []
    plane = landscape(model, X, LABELS, plane=True, points=3, span=0.4, on_point=lambda: seen.append(1))
    assert len(seen) == 9
    assert plane.loss.shape == plane.accuracy.shape == (3, 3)
    np.testing.assert_allclose(plane.loss[1], landscape(model, X, LABELS, points=3, span=0.4).loss, rtol=1e-12)
    assert plane.loss[0, 2] == pytest.approx(loss_and_accuracy(moved(model, 0.4, -0.4))[0], rel=1e-10)  # b, a
    assert plane.loss[2, 1] == pytest.approx(loss_and_accuracy(moved(model, 0, 0.4))[0], rel=1e-10)
    assert json.loads(json.dumps(plane.as_dict()))["loss"][2][1] == plane.loss[2, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_are_back_to_the_bit_also_after_an_error(dtype):
    model = resnet("resnet8", (8, 8, 3), 3, widths=(4, 6, 8)).astype(dtype)
    arrays = [v.data for v in model.params() + model.buffers()]
    before = [a.tobytes() for a in arrays]
    x, calls = X[:4].astype(dtype), []

    def interrupt():
        calls.append([p.data.tobytes() for p in model.params()] == before[: len(model.params())])
        if len(calls) == 2:
            raise KeyboardInterrupt

    landscape(model, x, LABELS[:4], plane=True, points=3)
    with pytest.raises(KeyboardInterrupt):
        landscape(model, x, LABELS[:4], points=3, on_point=interrupt)
    assert calls == [False, True]  # it had moved, and stood in the middle
    assert [v.data.tobytes() for v in model.params() + model.buffers()] == before
    assert all(v.data is a for v, a in zip(model.params() + model.buffers(), arrays, strict=True))


def test_on_a_gpu_the_numbers_are_the_same(pretend_cupy, model):
    there = copy.deepcopy(model)
    here = landscape(model, X, LABELS, plane=True, points=3)
    pretend_cupy(strict)
    with strict.waiting():
        there.to("gpu")
        found = landscape(there, to_device(X, "gpu"), to_device(LABELS, "gpu"), plane=True, points=3)
    np.testing.assert_allclose(found.loss, here.loss, rtol=1e-9)
    np.testing.assert_array_equal(found.accuracy, here.accuracy)


def test_a_filter_of_zeros_stays(model):
    twin = copy.deepcopy(model)
    twin.params()[0].data[..., 1] = 0
    assert not direction(twin, "direction 1")[0][..., 1].any()


def test_an_overflow_leaves_a_gap():
    model = resnet("resnet8", (8, 8, 3), 3, widths=(4, 6, 8), norm=False)
    line = landscape(model, X[:4].astype(np.float32), LABELS[:4], points=3, span=1e8)
    assert not np.isfinite(line.loss[[0, 2]]).any()
    assert np.isfinite(line.loss[1])
    assert plot_landscape({"far": line}).axes


def test_bad_requests(model):
    for options in ({"points": 4}, {"points": 1}, {"span": 0}, {"span": float("nan")}):
        with pytest.raises(ConfigError, match="odd number of points"):
            landscape(model, X, LABELS, **options)
    with pytest.raises(ConfigError, match="at least one image"):
        landscape(model, X[:0], LABELS[:0])


@pytest.mark.slow
def test_pictures():
    steps = np.linspace(-1, 1, 5)
    line = Landscape(steps, 1 + steps**2, 1 - steps**2 / 2, 10, 0)
    loss, accuracy = plot_landscape({"skips": line, "a/long/path" * 9 + "/plain": line}, note="seed 3").axes
    first, second = (text.get_text() for text in loss.get_legend().get_texts())
    assert first == "skips"
    assert second.startswith("…")
    assert second.endswith("/plain")
    assert len(second) == 40
    np.testing.assert_array_equal(loss.get_lines()[0].get_ydata(), line.loss)
    np.testing.assert_array_equal(accuracy.get_lines()[0].get_ydata(), line.accuracy)
    bowl = 1 + steps**2 + 10 * steps[:, None] ** 2
    plane = Landscape(steps, bowl, np.ones((5, 5)), 10, 0)
    fig = plot_landscape({"skips": plane, "plain": plane})
    assert len(fig.axes) == 6  # surface, contours and a bar for each
    assert any(ax.get_title(loc="left") == "+: the network, loss 1" for ax in fig.axes)
    for mixed in ({"a": line, "b": plane}, {}):
        with pytest.raises(ConfigError, match="all of one kind"):
            plot_landscape(mixed)


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)
    train, test = make_signs(n_train=12, n_test=12, size=16)
    write_signs(tmp_path, train, test)
    runs = []
    for skip in (True, False):
        model = resnet("resnet8", (16, 16, 3), 6, widths=(4, 6, 8), skip=skip)
        runs.append(str(tmp_path / f"{skip}.h5"))
        save_checkpoint(runs[-1], Classifier.for_data(model, train))
    out = tmp_path / "land.png"
    options = ["--data", str(tmp_path), "--points", "3", "--images", "8", "--out", str(out), "--device", "cpu"]
    assert cli.main(["landscape", *runs, *options, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert list(numbers) == runs
    assert len(numbers[runs[0]]["loss"]) == 3
    assert numbers[runs[0]]["images"] == 8
    assert cli.main(["landscape", runs[0], *options, "--plane", "--part", "train"]) == 0
    assert "land.png" in capsys.readouterr().out
    assert Image.open(out).size[0] > 300
    assert cli.main(["landscape", runs[0], *options, "--points", "4"]) == 2
    assert cli.main(["landscape", runs[0], "--device", "cpu"]) == 2  # no manifest, no --data
    assert "say what --data to use" in capsys.readouterr().err
    other = tmp_path / "photos"
    for name in ("cat", "dog"):
        (other / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(train.images([i])[0]).save(other / name / f"{i}.png")
    assert cli.main(["landscape", runs[0], "--data", str(other), "--device", "cpu"]) == 2
    assert "expected the classes 0, 1, 2, 3, 4, 5, got also 'cat', 'dog'" in capsys.readouterr().err
