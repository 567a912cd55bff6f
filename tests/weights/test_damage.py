"""Weights that are not what they were, or claim what they cannot hold: one line, and the network stays as it was."""

import zipfile
import zlib

import h5py
import numpy as np
import pytest
from data_helpers import assert_one_line

from minires import resnet
from minires.errors import CheckpointError, ConfigError, DataError
from minires.seal import seal, sealed
from minires.weights import export_weights, import_weights
from minires.weights.archives import read_npz

KINDS = [".safetensors", ".npz", ".weights.h5"]


def network(seed=0):
    return resnet("resnet8", (8, 8, 3), 2, widths=(4, 4, 4), seed=seed)


def refused(path, *words, model=None):
    model = model or network(seed=1)
    before = {name: array.copy() for name, array in model.state().items()}
    with pytest.raises(CheckpointError) as error:
        import_weights(model, path)
    assert_one_line(error, path, *words)
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name])


def write_torch(path, change=lambda arrays: None):
    """A file of someone else's, whose arrays `change` changes in place."""
    safetensors = pytest.importorskip("safetensors.numpy")
    from minires.weights import state_dict

    arrays = state_dict(network())
    change(arrays)
    safetensors.save_file(arrays, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_of_our_files_can_change_unseen(tmp_path, kind):
    path = tmp_path / f"net{kind}"
    try:
        export_weights(network(), path)
    except ConfigError as error:
        pytest.skip(str(error))
    assert sealed(path)
    whole, model = path.read_bytes(), network(seed=1)
    import_weights(model, path)
    expected = model.state()
    for at in np.random.default_rng(0).integers(0, len(whole), 60):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(at) % 8
        path.write_bytes(changed)
        try:
            other = network(seed=1)
            import_weights(other, path)
        except CheckpointError:
            continue
        else:  # a bit of the seal's own name: the weights are whole
            for name, array in other.state().items():
                np.testing.assert_array_equal(array, expected[name])


def test_onnx_carries_a_seal_too(tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    export_weights(network(), path)
    assert sealed(path)
    onnx.checker.check_model(onnx.load(path))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        sealed(path)


def test_a_change_of_ones_own_can_be_sealed(tmp_path):
    path = tmp_path / "net.weights.h5"
    export_weights(network(), path)
    with h5py.File(path, "r+") as file:
        file["layers/dense/vars/1"][...] = 7
    refused(path, "checksum", "seal")
    seal(path)
    model = network()
    import_weights(model, path)
    assert (model.layers[-1].b.data == 7).all()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("conv1.weight", np.nan, "not finite"), ("bn1.running_var", -0.5, "negative variance (-0.5)")],
)
def test_what_cannot_be_computed_with_is_refused_by_name(tmp_path, name, value, words):
    def spoil(arrays):
        arrays[name].flat[1] = value

    refused(write_torch(tmp_path / "theirs.safetensors", spoil), name, words)


@pytest.mark.parametrize(
    ("name", "value"), [("conv1.weight", 3e5), ("layer1.0.conv1.weight", 1e9), ("bn1.weight", 2e4)]
)
def test_a_changed_exponent_is_told_with_the_tensor_s_name(tmp_path, name, value):
    def spoil(arrays):
        arrays[name].flat[1] = value

    notes = import_weights(network(), write_torch(tmp_path / "theirs.safetensors", spoil)).notes
    assert len(notes) == 1
    assert notes[0].startswith(f"warning: {name} has a value of size")
    assert not import_weights(network(), write_torch(tmp_path / "whole.safetensors")).notes


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("conv1.weight.npy", "w") as part:
        for _ in range(80):
            part.write(bytes(2**20))
    refused(path, "would unpack to 83,886,080")
    with pytest.raises(CheckpointError):
        read_npz(path)


def test_pth_with_a_changed_byte(tmp_path):
    torch = pytest.importorskip("torch")
    from minires.weights import state_dict

    path = tmp_path / "net.pth"
    torch.save({k: torch.from_numpy(v) for k, v in state_dict(network()).items()}, path)
    import_weights(network(seed=1), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "checksum")


@pytest.mark.parametrize("what", ["sparse", "quantised", "integer key", "repeated", "meta", "list"])
def test_pth_with_tensors_that_are_no_plain_weights(tmp_path, what):
    torch = pytest.importorskip("torch")
    odd = {
        "sparse": lambda: {"fc.weight": torch.eye(3).to_sparse()},
        "quantised": lambda: {"fc.weight": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)},
        "integer key": lambda: {3: torch.ones(2, 2)},
        "repeated": lambda: {"fc.weight": torch.ones(1).expand(10**9)},
        "meta": lambda: {"fc.weight": torch.empty(3, device="meta")},
        "list": lambda: {"fc.weight": [1, 2]},
    }[what]()
    path = tmp_path / "odd.pth"
    torch.save(odd, path)
    refused(path)


REFUSED = {
    "external link": "another file",
    "virtual": "another file",
    "external storage": "another file",
    "claimed": "claims 4,000,000,000 bytes",
    "compressed": "more memory",
    "deep": "groups",
    "empty": "missing",
}


@pytest.mark.parametrize("what", REFUSED)
def test_keras_files_that_reach_out_or_claim_too_much(tmp_path, what):
    path = tmp_path / "hostile.weights.h5"
    (tmp_path / "secret").write_bytes(bytes(4000))
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        if what == "external link":
            group["0"] = h5py.ExternalLink("secret.h5", "/w")
        elif what == "virtual":
            layout = h5py.VirtualLayout((10,), "f4")
            layout[:] = h5py.VirtualSource("secret.h5", "w", (10,))
            group.create_virtual_dataset("0", layout)
        elif what == "external storage":
            group.create_dataset("0", (1000,), "f4", external=[(str(tmp_path / "secret"), 0, 4000)])
        elif what == "claimed":
            group.create_dataset("0", (10**9,), "f4")
        elif what == "compressed":
            array = group.create_dataset("0", (4 * 10**7,), "f4", chunks=(10**7,), compression="gzip")
            for chunk in range(4):
                array.id.write_direct_chunk((chunk * 10**7,), zlib.compress(bytes(4 * 10**7), 1))
        elif what == "empty":
            group["0"] = h5py.Empty("f4")
        else:
            for _ in range(100):
                group = group.create_group("g")
    refused(path, REFUSED[what])
