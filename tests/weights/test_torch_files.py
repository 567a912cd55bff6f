"""Files of torch.save and safetensors as the world has them: known by their bytes, in wrappers, and refused."""

import argparse

import numpy as np
import pytest
from data_helpers import assert_one_line

from minires import nn, resnet
from minires.errors import CheckpointError
from minires.weights import export_weights, import_weights, state_dict
from minires.weights.archives import file_kind

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")


def network(seed=0):
    return resnet("resnet8", (8, 8, 3), 2, widths=(4, 4, 4), seed=seed)


def tensors(**changes):
    return {name: torch.from_numpy(array) for name, array in state_dict(network()).items()} | changes


def loads(path):
    """The import's report; the network has the arrays of `tensors`, exactly."""
    model = network(seed=1)
    report = import_weights(model, path)
    assert all(np.array_equal(array, model.state()[name]) for name, array in network().state().items())
    return report


def refused(path, *words):
    model = network(seed=1)
    before = {name: array.copy() for name, array in model.state().items()}
    with pytest.raises(CheckpointError) as error:
        import_weights(model, path)
    assert_one_line(error, path, *words)
    assert "\x1b" not in str(error.value)
    assert all(np.array_equal(array, before[name]) for name, array in model.state().items())


@pytest.mark.parametrize("suffix", [".th", ".pth.tar", ".bin", ".ckpt", ".safetensors", ".h5", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_known_by_its_bytes(suffix, zipped, tmp_path):
    """Also in the format before PyTorch 1.6."""
    path = tmp_path / f"weights{suffix}"
    torch.save(tensors(), path, _use_new_zipfile_serialization=zipped)
    assert loads(path).kind == "PyTorch .pth"


def test_safetensors_and_npz_are_known_by_their_bytes_too(tmp_path):
    safetensors.save_file(tensors(), tmp_path / "pytorch_model.bin")
    np.savez(tmp_path / "weights.npz", **state_dict(network()))
    (tmp_path / "weights.npz").rename(tmp_path / "weights.pt")
    assert loads(tmp_path / "pytorch_model.bin").kind == "PyTorch .safetensors"
    assert loads(tmp_path / "weights.pt").kind == "PyTorch .npz"


WRAPPED = {
    "state_dict": lambda w: {"epoch": 90, "arch": "resnet8", "best_acc1": torch.tensor([71.3]), "state_dict": w},
    "net": lambda w: {"net": w, "acc": 93.02, "epoch": 171},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"m": torch.ones(2, 2)}}, "param_groups": [{"lr": 1}]}},
    "model_state_dict": lambda w: {"model_state_dict": w, "loss": torch.ones(3, 3)[0, 0]},
    "state_dict_ema": lambda w: {"state_dict_ema": w, "version": 2},
    "module.": lambda w: {"state_dict": {f"module.{name}": t for name, t in w.items()}},
    "checkpoint.model": lambda w: {"checkpoint": {"model": w}},
    "theirs": lambda w: {"theirs": w},
    "among others": lambda w: w | {"epoch": 3, "classes": ["a", "b"]},
    "averaged": lambda w: {f"module.{name}": t for name, t in w.items()} | {"module.n_averaged": torch.tensor(9)},
    "options": lambda w: {"args": argparse.Namespace(lr=0.1), "model": w, "acc": np.float64(93.1), "n": np.int64(3)},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_weights_are_found_where_scripts_put_them(name, tmp_path):
    torch.save(WRAPPED[name](tensors()), tmp_path / "a.pth")
    report = loads(tmp_path / "a.pth")
    assert any(f"stood under '{name}'" in note for note in report.notes) == (
        name not in ("module.", "among others", "averaged", "options")
    ) or name in ("module.", "options")


def test_of_several_the_plain_ones_are_taken_and_the_others_named(tmp_path):
    ema = {name: t + 1 for name, t in tensors().items()}
    torch.save({"state_dict_ema": ema, "state_dict": tensors()}, tmp_path / "a.pth.tar")
    notes = loads(tmp_path / "a.pth.tar").notes
    assert "the weights stood under 'state_dict'" in notes
    assert "not used: other tensors under 'state_dict_ema'" in notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "history": [1, 2], "opt": {"lr": 1}}, "found a dictionary of 'epoch', 'history', 'opt'"),
        ([torch.ones(2, 2)], "found a list"),
        ({"loss": torch.tensor(1.0)}, "found a dictionary of 'loss'"),
        (torch.ones(2, 2), "found a Tensor"),
    ],
)
def test_where_there_are_none_the_keys_that_were_seen_are_told(content, words, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "expected a state_dict of tensors", words)


def test_what_torch_says_arrives_as_words(tmp_path):
    """A whole module: no colours, no advice to run the program in the file."""
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "it holds torch.nn.modules.container.Sequential, which is no tensor")
    (tmp_path / "b.pth").write_bytes(b"\x80\x02garbage")
    refused(tmp_path / "b.pth", "expected weights, but it is a Python pickle")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_told_from_weights(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "TorchScript, a program", "torch.jit.load('FILE').state_dict()")


def test_bfloat16_is_read_from_safetensors_as_from_pth(tmp_path):
    halves = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors().items()}
    torch.save(halves, tmp_path / "a.pth")
    safetensors.save_file(halves, tmp_path / "a.safetensors")
    models = [network(seed=1), network(seed=2)]
    for model, name in zip(models, ("a.pth", "a.safetensors"), strict=True):
        import_weights(model, tmp_path / name)
        assert model.dtype == np.float32
    for name, array in models[0].state().items():
        np.testing.assert_array_equal(models[1].state()[name], array)
    np.testing.assert_array_equal(models[0].state()["conv1.w"], halves["conv1.weight"].float().permute(2, 3, 1, 0))


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_refused(kind, tmp_path):
    coarse = tensors(**{"conv1.weight": tensors()["conv1.weight"].to(getattr(torch, kind))})
    torch.save(coarse, tmp_path / "a.pth")
    safetensors.save_file(coarse, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        refused(tmp_path / name, "conv1.weight", "too coarse")


def test_bytes_that_are_no_file_of_weights(tmp_path):
    for content in (b"", b"\x08", b"\x80", b"\x08\x07\x12", b"PK\x03\x04", b"{" * 9, bytes(9) + b"{", b"ustar" * 99):
        path = tmp_path / "a"
        path.write_bytes(content)
        file_kind(path)
        refused(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".onnx"])
def test_a_normalisation_without_running_statistics_comes_back(suffix, tmp_path):
    """Its weight is a vector, which in a state_dict has the name that a kernel has."""
    pytest.importorskip("onnx")

    def build(seed):
        layers = (
            nn.Conv2d("c", 3, 4, 3, seed=seed),
            nn.GroupNorm("gn", 4, 2),
            nn.GlobalAvgPool2d("p"),
            nn.Dense("d", 4, 2),
        )
        model = nn.Network(*layers, input_shape=(8, 8, 3))
        for p in model.params():
            p.data += np.random.default_rng(seed).random(p.data.shape, np.float32)
        return model

    one, two = build(1), build(2)
    export_weights(one, tmp_path / f"a{suffix}")
    import_weights(two, tmp_path / f"a{suffix}")
    assert all(np.array_equal(array, two.state()[name]) for name, array in one.state().items())
