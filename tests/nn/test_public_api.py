"""What `import minires` offers."""

import subprocess
import sys
from inspect import ismodule

import numpy
import pytest
from PIL import Image

import minires


@pytest.mark.parametrize("name", minires.__all__)
def test_every_name_is_there(name):
    assert getattr(minires, name) is not None


@pytest.mark.parametrize("package", [minires, minires.train])
def test_completion_shows_the_names_and_their_homes(package):
    shown = {name for name in dir(package) if not name.startswith("_")}
    assert all(ismodule(getattr(package, name)) for name in shown - set(package.__all__))
    assert shown >= set(package.__all__) - {"__version__"}
    assert all(getattr(package, name) is not None for name in dir(package))


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'minires' has no attribute 'autograd'"):
        _ = minires.autograd


def test_a_network_alone_loads_neither_files_nor_plots_nor_a_gpu():
    lines = "import sys, minires", "minires.resnet('resnet8', (8, 8, 3), 4)", "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert not {"h5py", "matplotlib", "cupy", "PIL", "rich"} & set(done.stdout.split())


def test_the_lines_of_the_docstring_train():
    train, test = minires.make_signs(12, 6, size=16)
    model = minires.resnet("resnet8", train.shape, classes=len(train.classes))
    recipe = minires.Recipe(epochs=1, batch_size=6)
    progress = minires.fit(minires.Classifier.for_data(model, train), train, test, recipe)
    assert progress.epoch == 1


def test_a_prompt_shows_what_one_wants_to_see():
    model = minires.resnet("resnet8", (16, 16, 3), 4)
    assert repr(minires.summarize(model)) == str(minires.summarize(model))
    assert "layer1.0.conv1: Conv2d(" in repr(model)
    history = [{"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.75, "seconds": 2.0}]
    assert "75.0%" in repr(minires.Progress(epoch=1, history=history))
    images, labels = numpy.zeros((4, 16, 16, 3), "uint8"), numpy.arange(4)
    classifier = minires.Classifier.for_data(model, (images, labels))
    assert repr(classifier).splitlines()[0] == "Classifier of 16x16x3 images: 0, 1, 2, 3"
    result = minires.evaluate(classifier, (images, labels))
    assert f"{result.mistakes} mistakes in 4" in repr(result)
    assert "next best" in repr(minires.predict(classifier, images[0]))


def test_predict_takes_files_and_refuses_none(tmp_path):
    images, labels = numpy.zeros((4, 16, 16, 3), "uint8"), numpy.arange(4)
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", (16, 16, 3), 4), (images, labels))
    Image.new("RGB", (20, 30)).save(tmp_path / "one.png")
    found = minires.predict(classifier, [tmp_path / "one.png"])
    assert found.names == (str(tmp_path / "one.png"),)
    assert found.probs.shape == (1, 4)
    with pytest.raises(minires.MiniresError, match="predict: no images: give at least one"):
        minires.predict(classifier, [])
