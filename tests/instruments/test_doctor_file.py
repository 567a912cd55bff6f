"""The doctor on files: sealed and whole, damaged, or of others, each said; and the exit status."""

import h5py
import numpy as np
import pytest
from data_helpers import random_set, write_image
from stripes import classifier

from minires.cli import main
from minires.data import write_signs
from minires.instruments.doctor import diagnose_files
from minires.train import save_checkpoint
from minires.weights import export_weights

OURS = ["model.h5", "net.npz", "net.weights.h5", "net.safetensors", "net.onnx", "signs.h5"]


def write_ours(path):
    if path.name == "model.h5":
        save_checkpoint(path, classifier())
    elif path.name == "signs.h5":
        write_signs(path, random_set(9), random_set(6))
    else:
        pytest.importorskip({".safetensors": "safetensors", ".onnx": "onnx"}.get(path.suffix, "h5py"))
        export_weights(classifier().model, path)
    return path


@pytest.mark.parametrize("name", OURS)
def test_ours_is_sealed_until_a_byte_changes(tmp_path, name, capsys):
    path = write_ours(tmp_path / name)
    (finding,) = diagnose_files([path])
    assert (finding.status, finding.name) == ("ok", name)
    assert "sealed and whole" in finding.detail
    assert main(["doctor", str(path)]) == 0
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (finding,) = diagnose_files([path])
    assert finding.status == "fail"
    assert "damaged" in finding.detail
    assert main(["doctor", str(path)]) == 1


def test_files_of_others_are_looked_through(tmp_path):
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file["train_set_x"], file["train_set_y"] = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
        file["list_classes"] = np.arange(2)
    (finding,) = diagnose_files([path])
    assert finding.status == "warn"
    assert "no seal" in finding.detail
    assert "4 images of 2 classes" in finding.detail
    (finding,) = diagnose_files([write_image(tmp_path / "hand.png")])
    assert "12x10 pixels" in finding.detail


def test_a_run_s_folder_has_its_checkpoints_looked_at(tmp_path):
    write_ours(tmp_path / "model.h5")
    save_checkpoint(tmp_path / "best.h5", classifier())
    assert [f.name for f in diagnose_files([tmp_path])] == ["model.h5", "best.h5"]


@pytest.mark.parametrize("content", [None, b"", b"words", b"PK\3\4" + bytes(99), b"\x89HDF\r\n\x1a\n" + bytes(5000)])
def test_what_is_no_such_file_is_a_finding(tmp_path, content):
    path = tmp_path / "odd.h5"
    if content is not None:
        path.write_bytes(content)
    (finding,) = diagnose_files([path])
    assert finding.status == "fail"
    assert "itself broke" not in finding.detail


def test_an_implausible_number_is_named(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    from minires.weights import state_dict

    arrays = state_dict(classifier().model)
    arrays["conv1.weight"].flat[0] = 1e20
    safetensors.save_file(arrays, tmp_path / "theirs.safetensors")
    odd, foreign = diagnose_files([tmp_path / "theirs.safetensors"])
    assert odd.detail.startswith("conv1.weight has a value of size 1e+20")
    assert odd.status == foreign.status == "warn"
