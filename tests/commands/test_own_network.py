"""A network from a file of one's own, by the command line: FILE.py:FUNCTION, and no code runs that nobody named."""

import json
from pathlib import Path

import h5py
import numpy as np
import own_networks
import pytest
from demand import on_demand

from minires import cli
from minires.data import make_signs, write_signs
from minires.nn.network import BUILDERS

FILE = Path(own_networks.__file__)
NAMES = [pytest.param(name, marks=on_demand) for name in ("vgg", "squeezenet", "senet")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FILE.read_text())
    before = dict(BUILDERS)
    yield
    BUILDERS.clear()
    BUILDERS.update(before)


def minires(*args):
    """What was said, of a command that has to succeed."""
    BUILDERS.clear()  # as in a process of its own
    return cli.main([str(a) for a in args])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_it(name, capsys):
    own, run = ("--arch", f"nets.py:{name}"), Path("run")
    write_signs("hands.h5", *make_signs(240, 60, size=16))
    fed = ("--data", "hands.h5", *own)
    assert minires("train", *fed, "--epochs", 2, "--out", run) == 0
    assert minires("train", *fed, "--epochs", 1, "--out", "half") == 0
    assert minires("train", "--resume", "half", "--epochs", 2, *own) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["arch"] == f"nets.py:{name}"
    for command in (
        ("evaluate", run, *own),
        ("report", run, *own),
        ("summary", f"nets.py:{name}", "--input", 16),
        ("summary", f"nets.py:{name}", "--input", 16, "--cost", "--batch-size", 4),
        ("gradflow", *fed, "--batch-size", 4),
        ("step", "--run", run, *own, "--html", "step.html"),
        ("step", *own, "--text"),
        ("audit", f"nets.py:{name}", "--input", 16),
        ("audit", "--run", run, *own),
        ("gradcheck", f"nets.py:{name}"),
        ("diagram", f"nets.py:{name}", "--input", 16, "--out", "net.svg"),
        ("features", run, *own),
        ("kernels", run, *own, "--change"),
        ("gradcam", run, *own),
        ("occlusion", f"nets.py:{name}"),
        ("landscape", run, *own, "--points", 3, "--images", 8),
        ("lr-find", *fed, "--steps", 20, "--highest", 0.1),
        ("weights", "export", run, *own, "--out", "own.onnx"),
        ("weights", "export", run, *own, "--out", "own.safetensors"),
        ("weights", "import", "own.safetensors", *own, "--input", 16, "--out", "back.h5"),
        ("weights", "compare", run, "back.h5", *own),
        ("compare", run, "half"),
    ):
        capsys.readouterr()
        assert minires(*command) in ((0, 1) if command[0] == "lr-find" else (0,)), (command, capsys.readouterr())
    if name != "vgg":
        assert minires("bn-doctor", run, *own) in (0, 1)


@pytest.mark.slow
def test_without_its_name_a_run_is_refused_in_one_line(capsys):
    write_signs("hands.h5", *make_signs(120, 30, size=16))
    assert minires("train", "--data", "hands.h5", "--arch", "nets.py:vgg", "--epochs", 1, "--out", "run") == 0
    for command in (("evaluate", "run"), ("train", "--resume", "run", "--epochs", 2), ("gradcam", "run")):
        capsys.readouterr()
        assert minires(*command) == 2
        said = capsys.readouterr().err
        assert "holds a network of one's own, built by nets.py:vgg: name that" in " ".join(said.split())
        assert said.count("minires:") == 1


@pytest.mark.slow
def test_another_network_of_that_name_is_refused(capsys):
    write_signs("hands.h5", *make_signs(120, 30, size=16))
    assert minires("train", "--data", "hands.h5", "--arch", "nets.py:vgg", "--epochs", 1, "--out", "run") == 0
    nets = Path("nets.py")
    nets.write_text(nets.read_text().replace('"dropout", 0.2', '"dropout", 0.3'))
    assert minires("evaluate", "run", "--arch", "nets.py:vgg") == 2
    assert "dropout had rate 0.2, here it is 0.3" in capsys.readouterr().err


@pytest.mark.slow
def test_the_files_of_a_run_hold_no_code():
    write_signs("hands.h5", *make_signs(120, 30, size=16))
    assert minires("train", "--data", "hands.h5", "--arch", "nets.py:senet", "--epochs", 1, "--out", "run") == 0
    with h5py.File("run/model.h5") as file:
        header = json.loads(file.attrs["minires"])
        assert set(file) == {"weights", "optimizer"}
        assert all(np.issubdtype(array.dtype, np.floating) for array in file["weights"].values())
    assert header["architecture"] == {
        "input_shape": [16, 16, 3], "classes": 6, "builder": "nets.py:senet", "seed": 0, "options": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nosuch.py:build", "nosuch.py: no such file"),
        ("nets.py:nosuch", "nets.py: has no function 'nosuch': define nosuch(input_shape, classes, seed=0)"),
        ("broken.py:build", "broken.py: SyntaxError"),
        ("raising.py:build", "raising.py: ZeroDivisionError: division by zero"),
        ("wrong.py:build", "wrong.py:build: gives a network of 7 classes"),
        ("wrong.py:error", "wrong.py:error: ValueError: not today"),
        ("wrong.py:shapes", "wrong.py:shapes: fc: expected (C,) with C = 5, got (3,)"),
        ("resnet51", "unknown network 'resnet51'"),
    ],
)
def test_what_cannot_be_built_is_one_line(spec, said, capsys):
    Path("broken.py").write_text("def build(:\n")
    Path("raising.py").write_text("1 / 0\n")
    Path("wrong.py").write_text(
        "from minires import nn\n"
        "def build(input_shape, classes):\n"
        "    return nn.Sequential(nn.GlobalAvgPool2d('pool'), nn.Dense('fc', 3, 7))\n"
        "def error(input_shape, classes):\n    raise ValueError('not today')\n"
        "def shapes(input_shape, classes):\n"
        "    return nn.Sequential(nn.GlobalAvgPool2d('pool'), nn.Dense('fc', 5, 6))\n"
    )
    try:
        status = minires("train", "--arch", spec, "--epochs", 1, "--size", 16, "--out", "run")
    except SystemExit as end:
        status = end.code
    told = " ".join(capsys.readouterr().err.split())
    assert status == 2
    assert said in told
    assert "Traceback" not in told
    assert not Path("run/model.h5").exists()


def test_options_of_the_family_are_not_ignored(capsys):
    assert minires("summary", "nets.py:vgg", "--no-skip") == 2
    assert "--no-skip: for the networks that have names: nets.py:vgg decides that itself" in capsys.readouterr().err
