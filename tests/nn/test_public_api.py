"""What `import minires` offers."""

import subprocess
import sys
from inspect import ismodule

import pytest

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
