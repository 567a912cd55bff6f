"""A file in the place of another kind: what it is, and which command or option takes it, wherever it is given."""

import numpy as np
import pytest
from data_helpers import random_set, write_image
from stripes import classifier

from minires.cli import main
from minires.data import write_signs
from minires.data.kinds import file_kind
from minires.train import save_checkpoint
from minires.weights import export_weights

IMPORT = "makes a checkpoint of it"
# file -> (what is said of it, which command or option takes it)
FILES = {
    "net.onnx": ("an ONNX network", IMPORT),
    "net.safetensors": ("weights of PyTorch (.safetensors)", IMPORT),
    "net.npz": ("weights", "minires weights import"),
    "net.pth": ("weights of PyTorch", IMPORT),
    "net.weights.h5": ("weights of Keras", IMPORT),
    "program.pt": ("TorchScript, a program", "torch.jit.load('FILE').state_dict()"),
    "data.npz": ("NumPy", "--data"),
    "hands.h5": ("a data set", "--data"),
    "photo.png": ("a PNG image", "--data"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("files")
    for name in ("net.onnx", "net.safetensors", "net.npz", "net.pth", "net.weights.h5"):
        export_weights(classifier(), folder / name)
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "program.pt")
    np.savez(folder / "data.npz", x_train=np.zeros((4, 8, 8, 3), np.uint8), y_train=np.arange(4) % 2)
    write_signs(folder / "hands.h5", random_set(9), random_set(6))
    write_image(folder / "photo.png")
    save_checkpoint(folder / "model.h5", classifier())
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["evaluate @", "weights compare @ model.h5", "predict model.h5 @", "data show @"])
def test_what_it_is_and_what_takes_it(name, command, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    fits = {"predict": "photo.png", "data": "data.npz hands.h5"}.get(command.split()[0], "")
    if name in fits:
        pytest.skip("it belongs there")
    assert main(command.replace("@", name).split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said
    assert "unknown data" not in said
    if command.startswith("predict") and name.endswith(".h5"):
        assert "an HDF5 file" in said  # which of them nothing opens it for
        return
    for words in FILES[name]:
        assert words in said


@pytest.mark.parametrize("name", ["hands.h5", "data.npz", "model.h5", "photo.png"])
def test_what_is_no_weights_where_weights_are_asked_for(name, files, tmp_path, capsys):
    assert main(["weights", "import", str(files / name), "--out", str(tmp_path / "m.h5")]) == 2
    said = capsys.readouterr().err
    assert ("RUN" if name == "model.h5" else "--data") in said


def test_kinds_by_content(files, tmp_path):
    kinds = {name: file_kind(files / name) for name in FILES}
    assert kinds["net.onnx"] == ".onnx"
    assert kinds["program.pt"] == "TorchScript"
    assert kinds["hands.h5"] is kinds["photo.png"] is None
    (tmp_path / "a").write_bytes(b"\x80\x04\x95.")
    assert file_kind(tmp_path / "a") == "pickle"
