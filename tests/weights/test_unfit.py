"""Weights of another network: all that differs in one line, and the options that build the one that fits."""

import re

import numpy as np
import pytest
from data_helpers import assert_one_line
from keras_files import keras_2

from minires import resnet
from minires.cli import main
from minires.errors import CheckpointError
from minires.weights import export_weights, import_weights, state_dict


def refusal(path, model, **options):
    with pytest.raises(CheckpointError) as error:
        import_weights(model, path, **options)
    assert_one_line(error, path)
    return str(error.value)


def network(arch="resnet8", classes=7, size=16, channels=3, **options):
    return resnet(arch, (size, size, channels), classes, **options)


def as_torch(model, path):
    np.savez(path, **state_dict(model))
    return path


@pytest.mark.parametrize("write", [keras_2, lambda m, path: export_weights(m, path)])
def test_biases_and_bare_projections_are_told_and_lead_to_keras_s_example(write, tmp_path):
    """Its names say nothing; what the file has where the network has something else does."""
    path = tmp_path / "example.weights.h5"
    write(network("resnet20", variant="keras-example"), path)
    said = refusal(path, network("resnet20"))
    assert "its projections have no normalisation, the network's have one" in said
    assert "all of its convolutions have biases, of the network's none" in said
    assert said.endswith("build it with --arch resnet20 --variant keras-example --input 16x16x3 --classes 7")


def test_the_other_way_round(tmp_path):
    said = refusal(as_torch(network(), tmp_path / "a.npz"), network(variant="keras-example"))
    assert "its projections have a normalisation, the network's have none" in said
    assert "none of its convolutions have biases, of the network's all" in said
    assert said.endswith("build it with --arch resnet8 --input 16x16x3 --classes 7")


def test_all_that_differs_is_told_at_once_and_what_is_proposed_works(tmp_path, capsys):
    """Depth, images, classes and conventions; one command after it the file is loaded."""
    path, out = as_torch(network("resnet20", 5, channels=1), tmp_path / "a.npz"), tmp_path / "m.h5"
    start = ["weights", "import", str(path), "--out", str(out)]
    assert main([*start, "--arch", "resnet8", "--variant", "keras-example", "--classes", "3"]) == 2
    said = capsys.readouterr().err
    for words in (
        "it has 21 convolutions, the network 9",
        "none of its convolutions have biases, of the network's all",
        "it reads images of 1 channel, the network of 3",
        "its classifier knows 5 classes, the network 3",
    ):
        assert words in said
    options = re.search(r"build it with (.*)", said)[1].split()
    assert main([*start, *options]) == 0
    assert out.exists()


def test_of_the_classifier_size_and_classes_together(tmp_path):
    """The course's head counts pixels, so its features say how large the images were."""
    options = {"widths": (4, 4, 4, 4)}
    path = keras_2(network("resnet18", 5, 64, **options), tmp_path / "a.h5")
    said = refusal(path, network("resnet18", 3, 128, **options))
    assert "knows 5 classes, the network 3" in said
    assert "reads 4 features, that of the network 16 for images of 128x128x3" in said
    assert "--classes 5" in said
    assert "--skip-head" in said


def test_the_size_of_images_is_found(tmp_path):
    path = keras_2(network("resnet18", 5, 128), tmp_path / "a.h5")
    said = refusal(path, network("resnet18", 3, 64))
    assert "reads 2048 features, that of the network 512 for images of 64x64x3" in said
    assert "build it with --arch resnet18 --input 128x128x3 --classes 5, or load all but" in said


def test_without_its_head_nothing_is_said_of_classes(tmp_path):
    path = keras_2(network("resnet20", variant="keras-example"), tmp_path / "a.h5")
    said = refusal(path, network("resnet20", 3), skip_head=True)
    assert said.endswith("build it with --arch resnet20 --variant keras-example")


@pytest.mark.parametrize(("options", "words"), [({"preact": True}, "--preact"), ({"shortcut": "A"}, "--shortcut A")])
def test_further_options_of_the_network_that_fits(options, words, tmp_path):
    said = refusal(as_torch(network(**options), tmp_path / "a.npz"), network("resnet14"))
    assert f"build it with --arch resnet8 {words} --input 16x16x3 --classes 7" in said


def test_widths_that_no_network_by_name_has(tmp_path):
    said = refusal(as_torch(network(widths=(8, 16, 24)), tmp_path / "a.npz"), network())
    assert "its stages have 8, 16, 24 channels, the network's 16, 32, 64" in said
    assert said.endswith("build the architecture and variant that it was saved from")


def test_one_array_too_many_is_named(tmp_path):
    arrays = state_dict(network())
    np.savez(tmp_path / "a.npz", **arrays, **{"conv1.bias": np.zeros(16, np.float32)})
    said = refusal(tmp_path / "a.npz", network())
    assert "1 have no place (conv1.bias); 1 of its convolutions have biases, of the network's none" in said
