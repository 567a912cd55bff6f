"""Feature maps, kernels, Grad-CAM and occlusion against other ways to the same numbers."""

import copy
import json

import numpy as np
import pytest
import strict
from PIL import Image

from minires import cli, resnet
from minires.data import make_signs
from minires.errors import ConfigError, DataError
from minires.instruments import style
from minires.instruments.maps import (
    Occlusion,
    feature_maps,
    find_layer,
    first_kernels,
    gradcam,
    kernel_change,
    occlusion,
    plots,
    stage_names,
)
from minires.nn import Conv2d, Dense, Flatten, GlobalAvgPool2d, ReLU, Sequential, inference
from minires.train.checkpoint import save_checkpoint
from minires.train.classifier import EVAL_BATCH, Classifier, Preprocess

RNG = np.random.default_rng(0)
CLASSES = ("fist", "one", "two")
IMAGES = RNG.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def network(**options):
    """A small network in float64 whose every number matters: no gamma at 1, no statistic at its initial value."""
    model = resnet("resnet8", (16, 16, 3), 3, widths=(4, 6, 8), **options).astype(np.float64)
    for v in model.params() + model.buffers():
        if v.data.ndim == 1:
            v.data[...] = RNG.uniform(0.5, 1.5, v.data.shape)
    return Classifier(model, CLASSES, Preprocess())


@pytest.fixture(scope="module")
def classifier():
    return network()


def texts(fig):
    return " ".join(text.get_text() for text in fig.findobj(lambda artist: hasattr(artist, "get_text")))


def test_feature_maps_are_the_layers_outputs(classifier):
    model = classifier.model
    stem, block, conv = feature_maps(classifier, IMAGES[0], ["stem", "layer1.0", "layer1.0.conv1"])
    with inference(model):
        x = model.layers[0].forward(classifier.preprocess(IMAGES[:1], np.float64))
        np.testing.assert_array_equal(stem.maps, x[0])
        np.testing.assert_array_equal(block.maps, model.blocks()[0].forward(x)[0])
        np.testing.assert_array_equal(conv.maps, model.blocks()[0].branch.layers[0].forward(x)[0])
    strength = (stem.maps**2).mean(axis=(0, 1))
    assert list(stem.strongest(3)) == sorted(range(4), key=lambda k: -strength[k])[:3]


def test_unknown_layers_and_layers_without_a_map(classifier):
    with pytest.raises(ConfigError, match=r"resnet8 has no layer 'stage9': try stage\d, "):
        feature_maps(classifier, IMAGES[0], ["stage9"])
    with pytest.raises(DataError, match=r"avg_pool gives \(8,\), no map"):
        feature_maps(classifier, IMAGES[0], ["avg_pool"])
    with pytest.raises(DataError, match=r"fc gives \(3,\), no map"):
        gradcam(classifier, IMAGES, layer="fc")
    with pytest.raises(ConfigError, match="no convolution"):
        first_kernels(Sequential(Flatten("flatten"), name="net"))
    assert find_layer(classifier.model, "layer2.0.add").name == "layer2.0.add"
    assert stage_names(classifier.model) == ["stem", "stage2", "stage3", "stage4"]


def test_kernels_and_what_training_added():
    model = network().model
    kernels = first_kernels(model)
    assert kernels.shape == (4, 3, 3, 3)
    w = model.layers[0].layers[0].w.data
    np.testing.assert_array_equal(kernels[2, 0, 1], w[0, 1, :, 2])
    assert not kernel_change(model).any()
    w[0, 1, 2, 3] += 0.25
    change = kernel_change(model)
    assert change[3, 0, 1, 2] == pytest.approx(0.25)
    assert np.count_nonzero(change) == 1


def test_gradcam_is_cam_where_there_is_global_pooling():
    """B. Zhou et al., arXiv:1512.04150: for pooling and one dense layer the map is sum_k w_kc A^k; Grad-CAM's is 1/Z of
    its positive part (Selvaraju et al., section 3.1)."""
    conv, dense = Conv2d("conv", 3, 5, 3, pad=1), Dense("fc", 5, 3)
    stage = Sequential(conv, ReLU("relu"), name="stage")
    model = Sequential(stage, GlobalAvgPool2d("pool"), dense, name="net").astype(np.float64)
    found = gradcam(Classifier(model, CLASSES, Preprocess()), IMAGES, targets=[2, 0, 1])
    with inference(model):
        A = stage.forward(Preprocess()(IMAGES, np.float64))
    for n, c in enumerate([2, 0, 1]):
        expected = np.maximum(A[n] @ dense.w.data[:, c], 0) / 16**2
        assert expected.max() > 0
        np.testing.assert_allclose(found.maps[n], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("options", [{}, {"preact": True}, {"skip": False}], ids=["post", "pre", "plain"])
@pytest.mark.parametrize("layer", [None, "stem", "layer2.0", "layer3.0.conv1"])
def test_gradcam_weights_are_the_logits_answer_to_a_channel(options, layer):
    """alpha_k against the central difference of the logit when all of channel k is lifted."""
    classifier = network(**options)
    model, targets = classifier.model, [1, 2, 0]
    found = gradcam(classifier, IMAGES, layer=layer, targets=targets)
    assert found.layer == layer or (layer is None and found.layer == "stage4")
    module = find_layer(model, found.layer)
    plain_forward, x = module.forward, classifier.preprocess(IMAGES, np.float64)
    seen = {}

    def logits(k, lift):
        def lifted(*inputs):
            seen["A"] = plain_forward(*inputs)
            return seen["A"] + lift * (np.arange(seen["A"].shape[-1]) == k)

        module.forward = lifted
        with inference(model):
            return model.forward(x)[range(3), targets]

    for k in range(found.weights.shape[1]):
        slope = (logits(k, 1e-6) - logits(k, -1e-6)) / 2e-6
        places = seen["A"].shape[1] * seen["A"].shape[2]
        np.testing.assert_allclose(found.weights[:, k], slope / places, rtol=1e-4, atol=1e-9)
    expected = np.maximum((seen["A"] * found.weights[:, None, None]).sum(axis=-1), 0)
    np.testing.assert_allclose(found.maps, expected, rtol=1e-10, atol=1e-14)


def test_gradcam_explains_the_likeliest_class_and_leaves_no_trace():
    classifier = network()
    model = classifier.model.train()
    before = {name: a.copy() for name, a in model.state().items()}
    found = gradcam(classifier, IMAGES)
    np.testing.assert_array_equal(found.targets, found.probs.argmax(axis=1))
    alone = gradcam(classifier, IMAGES[1:2])
    np.testing.assert_allclose(alone.maps[0], found.maps[1], rtol=1e-9, atol=1e-15)
    assert all(np.array_equal(model.state()[name], a) for name, a in before.items())
    assert all(p.grad is None for p in model.params())
    assert all(
        m.training and m.save_for_backward and m._slot is None and "forward" not in vars(m) for m in model.modules()
    )
    np.testing.assert_allclose(found.probs, classifier.probs(IMAGES), rtol=1e-9)
    numbers = json.loads(json.dumps(found.as_dict(CLASSES)))
    assert numbers["images"][2]["target"] == CLASSES[found.targets[2]]
    for targets in ([0, 1], [0, 1, 3], [0, 1, -1], 0):
        with pytest.raises(ConfigError, match=r"expected 3 class numbers in 0\.\.2"):
            gradcam(classifier, IMAGES, targets=targets)


def test_on_a_gpu_the_numbers_are_the_same(pretend_cupy, classifier):
    there = copy.deepcopy(classifier)
    pretend_cupy(strict)
    with strict.waiting():
        there.model.to("gpu")
        cams = [gradcam(c, IMAGES, targets=[0, 1, 2]) for c in (there, classifier)]
        maps = [feature_maps(c, IMAGES[0], ["stage3"])[0] for c in (there, classifier)]
        covered = [occlusion(c, IMAGES[0], patch=8, stride=4) for c in (there, classifier)]
        kernels = [first_kernels(c.model) for c in (there, classifier)]
    np.testing.assert_allclose(cams[0].maps, cams[1].maps, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(maps[0].maps, maps[1].maps, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(covered[0].occluded, covered[1].occluded, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(*kernels)


class Linear(Sequential):
    """Two classes; the logit of class 1 is sum(w * image / 255), that of class 0 is 0."""

    def __init__(self, w):
        dense = Dense("fc", w.size, 2)
        dense.w.data = np.stack([np.zeros(w.size), w.ravel()], axis=1)
        dense.b.data = np.zeros(2)
        super().__init__(Flatten("flatten"), dense, name="linear")
        self.input_shape = w.shape


def linear(w):
    return Classifier(Linear(w), ("no", "yes"), Preprocess((0.0,) * 3, (1.0,) * 3))  # the mean colour is black


def test_occlusion_of_a_linear_network_is_what_the_square_held(monkeypatch):
    w, image = RNG.standard_normal((14, 12, 3)) / 20, IMAGES[0, :14, :12]
    batches, probs = [], Classifier.probs
    monkeypatch.setattr(Classifier, "probs", lambda self, x, *a: batches.append(len(x)) or probs(self, x, *a))
    found = occlusion(linear(w), image, patch=3, stride=1, target=1)
    assert sum(batches) == 12 * 10 + 1
    assert max(batches) <= EVAL_BATCH
    assert found.occluded.shape == (12, 10, 2)
    held = w * image / 255
    for i, top in enumerate(range(12)):
        for j, left in enumerate(range(10)):
            logit = held.sum() - held[top : top + 3, left : left + 3].sum()
            assert found.occluded[i, j, 1] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-9)
    np.testing.assert_array_equal(found.drop, found.probs[1] - found.occluded[..., 1])


def test_occlusion_heat_finds_the_pixel_that_matters():
    w = np.zeros((13, 10, 3))
    w[5, 7] = 3
    found = occlusion(linear(w), np.full(w.shape, 200, np.uint8), patch=4, stride=3)
    assert found.target == 1
    assert list(found.tops) == [0, 3, 6, 9]
    assert list(found.lefts) == [0, 3, 6]
    inside = np.array([[t <= 5 < t + 4 and left <= 7 < left + 4 for left in found.lefts] for t in found.tops])
    assert inside.sum() == 1
    np.testing.assert_array_equal(found.drop > 0.1, inside)
    heat = found.heat((13, 10))
    assert heat[5, 7] == heat.max() == found.drop.max()
    assert heat[0, 0] == 0
    assert occlusion(linear(w), np.full(w.shape, 200, np.uint8), patch=4, stride=7).tops[-1] == 9  # the far edge


def test_heat_is_the_mean_over_the_squares_that_cover_a_pixel():
    occluded = np.array([[[0.5, 0.5], [0.7, 0.3]]])
    found = Occlusion(1, 2, np.array([0]), np.array([0, 1]), np.array([0.1, 0.9]), occluded)
    np.testing.assert_allclose(found.heat((2, 4)), [[0.4, 0.5, 0.6, 0]] * 2)


def test_squares_that_do_not_fit(classifier):
    for patch, stride in ((17, 1), (0, 1), (4, 0)):
        with pytest.raises(ConfigError, match="choose a side of 1 to 16"):
            occlusion(classifier, IMAGES[0], patch=patch, stride=stride)
    with pytest.raises(ConfigError, match="expected 1 class numbers"):
        occlusion(classifier, IMAGES[0], patch=8, target=3)


@pytest.mark.slow
def test_pictures_hold_the_numbers(classifier):
    found = [gradcam(classifier, IMAGES, layer=name, targets=[0, 1, 2]) for name in ("stage3", "stage4")]
    fig = plots.plot_gradcam(found, IMAGES, CLASSES, names=("a.png", "b.png", "c.png"), note="seed 7")
    best = found[0].probs[0].argmax()
    assert f"said {CLASSES[best]} ({found[0].probs[0, best]:.0%})" in texts(fig)
    assert all(text in texts(fig) for text in ("b.png", "seed 7", "evidence for two\nstage4, 4x4"))
    overlays = [ax.get_images()[1].get_array() for ax in fig.axes if len(ax.get_images()) == 2]
    assert len(overlays) == 6
    four = gradcam(classifier, np.concatenate([IMAGES, IMAGES[:1]]))
    assert len(plots.plot_gradcam([four], IMAGES[[0, 1, 2, 0]], CLASSES).axes) == 8 + 1  # two rows of two pairs
    assert all(o.min() >= 0 and o.max() <= 1 for o in overlays)

    layers = feature_maps(classifier, IMAGES[0], ["stage2", "stage4"])
    fig = plots.plot_features(layers, IMAGES[0])
    assert "stage4: 8 channels of 4x4" in texts(fig)
    assert [len(ax.get_images()) for ax in fig.axes] == [1, 4, 8]

    fig = plots.plot_kernels(first_kernels(classifier.model))
    assert "4 kernels of 3x3" in texts(fig)
    assert len(fig.axes[0].get_images()) == 4
    assert "Changes: 4 kernels" in texts(plots.plot_kernels(kernel_change(classifier.model), title="Changes"))
    with pytest.raises(ConfigError, match="expected 3 input channels, got 1"):
        plots.plot_kernels(np.ones((2, 3, 3, 1)))

    found = occlusion(classifier, IMAGES[0], patch=8, stride=4)
    fig = plots.plot_occlusion(found, IMAGES[0], CLASSES)
    assert f"with the square covered: {CLASSES[found.target]} at" in texts(fig)
    assert "8x8 square" in texts(fig)


def test_many_classes_share_a_legend():
    shares = np.eye(8)[[[0, 0, 1, 2], [3, 4, 5, 6]]]
    found = Occlusion(0, 2, np.array([0, 8]), np.array([0, 4, 8, 12]), np.eye(8)[0], shares)
    fig = plots.plot_occlusion(found, IMAGES[0], [f"class {k}" for k in range(8)])
    labels = [text.get_text() for text in fig.axes[2].get_legend().get_texts()]
    assert labels[0] == "class 0 (25%)"
    assert labels[6:] == ["others (12%)"]


def test_a_map_without_evidence_says_so(classifier):
    found = gradcam(classifier, IMAGES[:1])
    found.maps[:] = 0
    assert "no evidence for" in texts(plots.plot_gradcam([found], IMAGES[:1], CLASSES))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint for the built-in signs at 16x16, and two of them as files."""
    folder = tmp_path_factory.mktemp("run")
    train, _ = make_signs(n_train=6, n_test=6, size=16)
    classifier = Classifier.for_data(resnet("resnet8", (16, 16, 3), 6, widths=(4, 6, 8)), train)
    save_checkpoint(folder / "model.h5", classifier)
    for i in range(2):
        Image.fromarray(train.images([i])[0]).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "features {run} {run}/0.png --layer layer2.0 --layer stem",
        "features resnet8",
        "kernels {run} --change",
        "gradcam {run} {run}/0.png {run}/1.png --layer stage3 --layer stage4 --class 5",
        "occlusion {run}",
    ],
)
def test_commands_draw(run, tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr(style, "DPI", 40)  # small pictures are quickly written
    out = tmp_path / "picture.png"
    arguments = command.format(run=run).split()
    assert cli.main([*arguments, "--device", "cpu", "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert Image.open(out).size[0] > 300


@pytest.mark.slow
def test_commands_print_numbers(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)
    out = ["--device", "cpu", "--json", "--out", str(tmp_path / "picture.png")]
    assert cli.main(["kernels", str(run), *out[:2], *out[3:]]) == 0
    assert "picture" in capsys.readouterr().out
    assert cli.main(["gradcam", str(run), "--class", "5", *out]) == 0
    (numbers,) = json.loads(capsys.readouterr().out)
    assert numbers["layer"] == "stage4"
    assert numbers["images"][0]["target"] == "5"
    assert np.array(numbers["images"][0]["map"]).shape == (4, 4)
    assert cli.main(["occlusion", str(run), f"{run}/0.png", "--patch", "8", "--stride", "8", *out]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert np.array(numbers["occluded"]).shape == (2, 2, 6)
    assert numbers["tops"] == [0, 8]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("gradcam {run} --class seven", "the network knows no class 'seven': choose one of 0, 1, 2, 3, 4, 5"),
        ("features {run} --layer stage7", "has no layer 'stage7'"),
        ("features {run} absent.png", "absent.png"),
        ("kernels absent", "absent"),
        ("occlusion {run} --patch 99", "choose a side of 1 to 16"),
    ],
)
def test_commands_fail_in_one_line(run, tmp_path, capsys, command, message):
    out = tmp_path / "picture.png"
    assert cli.main([*command.format(run=run).split(), "--device", "cpu", "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("device:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not out.exists()
