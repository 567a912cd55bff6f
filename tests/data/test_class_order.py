"""The same classes in another order than the network's: renumbered by name where they are loaded, else told."""

import numpy as np
import pytest
from data_helpers import assert_one_line

from minires import Classifier, evaluate, resnet
from minires.cli import main
from minires.data import ArrayDataset, load_parts, write_signs
from minires.errors import ConfigError, DataError
from minires.train import Preprocess, load_classifier, save_checkpoint
from minires.weights import import_classifier, state_dict

BY_NUMBER = tuple(map(str, range(12)))
AS_TEXT = tuple(sorted(BY_NUMBER))


@pytest.fixture
def files(tmp_path):
    """A network of a head sorted as text, and data sorted by number, of images whose class it tells."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    model = resnet("resnet8", (8, 8, 3), 12, widths=(4, 4, 4))
    network = Classifier(model, AS_TEXT, Preprocess())
    said = network.probs(images).argmax(axis=1)
    labels = np.array([BY_NUMBER.index(AS_TEXT[k]) for k in said])
    labels[:12] = np.arange(12)  # every class is there
    data = ArrayDataset(images, labels, BY_NUMBER)
    write_signs(tmp_path / "a.h5", None, data)
    save_checkpoint(tmp_path / "model.h5", network)
    return network, data, tmp_path


def test_evaluation_says_how_the_orders_differ_and_how_to_go_on(files):
    network, data, folder = files
    with pytest.raises(DataError) as error:
        evaluate(network, data)
    words = "number 2 is '2' here, sorted by number, '10' in the network, sorted as text", "load_parts(DATA, classes="
    assert_one_line(error, "the network's classes in another order", *words)
    parts = load_parts(folder / "a.h5", classes=network.classes)
    assert evaluate(network, parts.test).accuracy >= 0.5
    assert any("they were renumbered by their names" in note for note in parts.notes)


def test_the_command_renumbers_and_says_so(files, capsys):
    assert main(["evaluate", str(files[2] / "model.h5"), "--data", str(files[2] / "a.h5")]) == 0
    assert "the network's classes come in another order (number 2 is '2' here" in capsys.readouterr().out


def test_weights_without_names_say_how_their_classes_are_numbered(files, tmp_path, capsys):
    network, _, _ = files
    np.savez(tmp_path / "w.npz", **state_dict(network.model))
    twin = resnet("resnet8", (8, 8, 3), 12, widths=(4, 4, 4), seed=1)
    _, report = import_classifier(tmp_path / "w.npz", twin)
    (note,) = [note for note in report.notes if "names no classes" in note]
    assert "they are called 0 to 11, in the order of its outputs" in note
    assert "sorted as text by Keras and PyTorch" in note
    assert "--names" in note
    named, report = import_classifier(tmp_path / "w.npz", twin, classes=AS_TEXT)
    assert named.classes == AS_TEXT
    assert not any("names no classes" in note for note in report.notes)
    with pytest.raises(ConfigError, match="2 names for 12 classes"):
        import_classifier(tmp_path / "w.npz", twin, classes=("a", "b"))


def test_names_on_the_command_line(tmp_path):
    np.savez(tmp_path / "w.npz", **state_dict(resnet("resnet8", (8, 8, 3), 3)))
    words = [
        "--arch",
        "resnet8",
        "--input",
        "8",
        "--classes",
        "3",
        "--names",
        "cat,dog,2",
        "--out",
        str(tmp_path / "m.h5"),
    ]
    assert main(["weights", "import", str(tmp_path / "w.npz"), *words]) == 0
    assert load_classifier(tmp_path / "m.h5").classes == ("cat", "dog", "2")
