"""`minires weights import`, `export`, `compare`: what they write, say and return."""

import json

import numpy as np
import pytest
from PIL import Image

from minires import nn, resnet
from minires.cli import main
from minires.train import load_classifier
from minires.train.checkpoint import save_checkpoint
from minires.weights import activations, state_dict

SHAPE = (32, 32, 3)


@pytest.fixture
def torch_file(tmp_path):
    """A ResNet-18 with 5 classes in torchvision's names, and the network it is from."""
    model = resnet("resnet18", SHAPE, 5, variant="v1.5", seed=3)
    np.savez(tmp_path / "theirs.npz", **state_dict(model))
    return tmp_path / "theirs.npz", model


def import_arguments(path, out, classes=5):
    network = f"--arch resnet18 --variant v1.5 --input 32x32x3 --classes {classes}".split()
    return ["weights", "import", str(path), *network, "--out", str(out)]


def logits(model):
    with nn.inference(model):
        return model(np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32))


def test_import_then_export(torch_file, tmp_path, capsys):
    path, source = torch_file
    out = tmp_path / "model.h5"
    assert main([*import_arguments(path, out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["mapped"]) == len(source.state())
    assert report["preprocess"] == "imagenet"
    classifier = load_classifier(out)
    assert classifier.classes == ("0", "1", "2", "3", "4")
    assert classifier.preprocess.mean == (0.485, 0.456, 0.406)
    np.testing.assert_array_equal(logits(classifier.model), logits(source))
    assert main(["weights", "export", str(out), str(tmp_path / "ours.npz")]) == 0
    assert "ours.npz" in capsys.readouterr().out
    with np.load(path) as theirs, np.load(tmp_path / "ours.npz") as ours:
        assert set(theirs) == set(ours)
        assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)


def test_other_classes_and_skip_head(torch_file, tmp_path, capsys):
    path, source = torch_file
    out = tmp_path / "model.h5"
    assert main(import_arguments(path, out, classes=7)) == 2
    message = capsys.readouterr().err
    assert "5 classes" in message
    assert "network 7" in message
    assert "--skip-head" in message
    assert not out.exists()
    assert main([*import_arguments(path, out, classes=7), "--skip-head"]) == 0
    assert "kept as they were: fc.w, fc.b" in capsys.readouterr().out
    model = load_classifier(out).model
    assert model.config.classes == 7
    np.testing.assert_array_equal(model.state()["conv1.w"], source.state()["conv1.w"])


@pytest.mark.slow
def test_weights_for_bgr_are_turned_for_rgb(tmp_path):
    """keras.applications: the same logits for an RGB photograph as Keras's pipeline gives."""
    from minires.weights import export_weights

    source = resnet("resnet50", SHAPE, 5, variant="v1", seed=3)
    export_weights(source, tmp_path / "a.weights.h5")
    out = tmp_path / "model.h5"
    arguments = ["--arch", "resnet50", "--variant", "v1", "--input", "32", "--classes", "5", "--out"]
    assert main(["weights", "import", str(tmp_path / "a.weights.h5"), *arguments, str(out)]) == 0
    classifier = load_classifier(out)
    image = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), np.uint8)
    keras_input = image[..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    with nn.inference(source), nn.inference(classifier.model):
        expected = source(keras_input)
        found = classifier.model(classifier.preprocess(image))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_compare(torch_file, tmp_path, capsys):
    path, _ = torch_file
    a, b = tmp_path / "a.h5", tmp_path / "b.h5"
    assert main(import_arguments(path, a)) == 0
    classifier = load_classifier(a)
    x = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    np.savez(tmp_path / "same.npz", input=x, **activations(classifier.model, x))
    capsys.readouterr()
    assert main(["weights", "compare", str(a), str(tmp_path / "same.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first"] is None
    kernel = classifier.model.state()["layer2.0.conv2.w"]
    kernel[...] = kernel[::-1, ::-1].copy()
    save_checkpoint(b, classifier)
    Image.new("RGB", (40, 40), "orange").save(tmp_path / "photo.png")
    for extra in ([], ["--image", str(tmp_path / "photo.png")]):
        assert main(["weights", "compare", str(a), str(b), *extra]) == 1
        said = " ".join(capsys.readouterr().out.split())
        assert "layer2.0.conv2 is the first layer that diverges: its kernel is turned by 180 degrees" in said


def test_activations_without_their_input(torch_file, tmp_path, capsys):
    path, _ = torch_file
    a = tmp_path / "a.h5"
    assert main(import_arguments(path, a)) == 0
    np.savez(tmp_path / "bare.npz", conv1=np.zeros((2, 16, 16, 64)))
    assert main(["weights", "compare", str(a), str(tmp_path / "bare.npz")]) == 2
    assert "no array named 'input'" in capsys.readouterr().err
