"""torchvision's names, both ways. The twin (support/torch_peers.py) is written from the architecture and its names."""

import builtins
import io
import pickle
import zipfile

import numpy as np
import pytest
from torch_peers import CLASSES, KINDS, WIDTHS, assert_same_logits, torchvision_resnet

from minires import nn, resnet
from minires.errors import CheckpointError
from minires.weights import export_weights, import_weights, state_dict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def small(arch="resnet18", classes=CLASSES, variant="v1.5", **options):
    return resnet(arch, (32, 32, 3), classes, variant=variant, widths=WIDTHS, **options)


@pytest.mark.parametrize("arch", KINDS)
def test_each_resnet_both_ways(torch, arch, tmp_path):
    """Theirs into ours, and ours into theirs with strict names: equal logits in float64."""
    safetensors = pytest.importorskip("safetensors.torch")
    twin = torchvision_resnet(torch, *KINDS[arch], widths=WIDTHS)
    safetensors.save_file(twin.state_dict(), tmp_path / "theirs.safetensors")
    model = small(arch, seed=3)
    report = import_weights(model, tmp_path / "theirs.safetensors")
    assert set(report.mapped) == set(model.state())
    assert all(name.endswith("num_batches_tracked") for name in report.unused)
    assert not report.missing
    export_weights(model, tmp_path / "ours.safetensors")
    back = torchvision_resnet(torch, *KINDS[arch], widths=WIDTHS)
    with torch.no_grad():
        for p in back.parameters():
            p.zero_()
    back.load_state_dict(safetensors.load_file(tmp_path / "ours.safetensors"), strict=True)
    for name, tensor in twin.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, back.state_dict()[name]), name
    assert_same_logits(torch, model, back)


def test_resnet50_at_full_size(torch, tmp_path):
    """The famous number of parameters, float32 to 1e-4 and float64 to 1e-10."""
    twin = torchvision_resnet(torch, *KINDS["resnet50"], classes=1000)
    model = resnet("resnet50", (64, 64, 3), 1000, variant="v1.5")
    assert sum(p.numel() for p in twin.parameters()) == model.parameter_count()[0] == 25_557_032
    np.savez(tmp_path / "w.npz", **{name: t.numpy() for name, t in twin.state_dict().items()})
    import_weights(model, tmp_path / "w.npz")
    x = np.random.default_rng(1).standard_normal((2, 64, 64, 3)).astype(np.float32)
    with nn.inference(model), torch.no_grad():
        expected = twin(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
        np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert_same_logits(torch, model, twin)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_our_file_comes_back_bit_for_bit(suffix, tmp_path):
    pytest.importorskip("safetensors")
    model, other = small(preact=True), small(preact=True, seed=1)
    export_weights(model, tmp_path / f"a{suffix}")
    import_weights(other, tmp_path / f"a{suffix}")
    assert all(np.array_equal(a, other.state()[name]) for name, a in model.state().items())


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "DataParallel", "compiled", "legacy"])
def test_pth(torch, wrap, tmp_path):
    """As scripts save it: bare, in a dictionary, from wrappers, in the format before 2020."""
    twin = torchvision_resnet(torch, *KINDS["resnet18"], widths=WIDTHS)
    content = twin.state_dict()
    if wrap == "state_dict":
        content = {"epoch": 3, "state_dict": content}
    elif wrap in ("DataParallel", "compiled"):
        prefix = {"DataParallel": "module.", "compiled": "_orig_mod.module."}[wrap]
        content = {prefix + name: t for name, t in content.items()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=wrap != "legacy")
    model = small(seed=3)
    import_weights(model, tmp_path / "a.pth")
    assert_same_logits(torch, model, twin)


def test_half_precision_keeps_the_model_in_its_own(torch, tmp_path):
    twin = torchvision_resnet(torch, *KINDS["resnet18"], widths=WIDTHS)
    torch.save(twin.bfloat16().state_dict(), tmp_path / "a.pth")
    model = small(seed=3)
    import_weights(model, tmp_path / "a.pth")
    assert model.dtype == np.float32
    np.testing.assert_array_equal(model.state()["fc.b"], twin.fc.bias.detach().float().numpy())


class Danger:
    """What a hostile pickle does when it is opened."""

    opened = False

    def __reduce__(self):
        return setattr, (Danger, "opened", True)


def refused(model, path, pattern):
    """The import fails with one line that names the file, and the model stays as it was."""
    before = {name: a.copy() for name, a in model.state().items()}
    with pytest.raises(CheckpointError, match=pattern) as caught:
        import_weights(model, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(a, before[name]) for name, a in model.state().items())


def test_no_pickle_runs(torch, tmp_path):
    """Neither as .pth, old or new, nor inside .npz."""
    model, path = small(), tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"fc.weight": Danger()}))
    refused(model, path, "it is a Python pickle")
    torch.save({"fc.weight": Danger()}, path)
    refused(model, path, "PyTorch does not open it as plain weights")
    np.savez(tmp_path / "a.npz", **{"fc.weight": np.array([Danger()], object)})
    refused(model, tmp_path / "a.npz", r"damaged \.npz")
    assert not Danger.opened


def test_pth_without_torch_says_how_to_convert(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    real = builtins.__import__

    def no_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_torch)
    refused(small(), path, r"only PyTorch should open, .*save_file\(torch.load\(")


def test_a_whole_module_is_refused(torch, tmp_path):
    torch.save({"weights": [1, 2]}, tmp_path / "a.pth")
    refused(small(), tmp_path / "a.pth", "expected a state_dict of tensors")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda d: d.pop("layer2.0.bn1.running_var"), r"1 of \d+ arrays are missing \(layer2.0.bn1.var\)"),
        (lambda d: d.update({"layer9.0.conv1.weight": np.zeros((1, 1, 1, 1))}), r"1 have no place \(layer9"),
        (lambda d: d.update({"conv1.bias": np.zeros(4, np.float32)}), r"1 have no place \(conv1.bias\)"),
        (lambda d: d.update({"conv1.weight": d["conv1.weight"][:2]}), r"conv1.weight becomes conv1.w of shape"),
        (lambda d: d.update({"conv1.weight": d["conv1.weight"].astype(np.int8)}), "int8"),
        (lambda d: d.update({"fc.weight": d["fc.weight"][:3]}), "knows 3 classes, the network 7"),
        (lambda d: d.clear(), "a zip with nothing in it"),
    ],
)
def test_malformed(change, pattern, tmp_path):
    arrays = state_dict(small())
    change(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    refused(small(seed=3), tmp_path / "a.npz", pattern)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_truncated_and_html(suffix, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / f"a{suffix}"
    export_weights(small(), tmp_path / ("a.npz" if suffix == ".pth" else f"a{suffix}"))
    whole = (tmp_path / ("a.npz" if suffix == ".pth" else f"a{suffix}")).read_bytes()
    for size in (0, 5, 9, 200, len(whole) - 100):
        path.write_bytes(whole[:size])
        refused(small(seed=3), path, "empty|unknown data|damaged|truncated")
    path.write_text("<html><head><title>404</title>")
    refused(small(seed=3), path, r"a web page \(title: '404'\)")
    refused(small(seed=3), tmp_path / f"none{suffix}", "no such file")


def test_values_that_are_not_finite_are_refused(tmp_path):
    arrays = state_dict(small())
    arrays["conv1.weight"][0, 0, 0, 0] = np.nan
    np.savez(tmp_path / "a.npz", **arrays)
    refused(small(), tmp_path / "a.npz", "conv1.weight holds values that are not finite")


def test_another_world(tmp_path):
    np.savez(tmp_path / "a.npz", **state_dict(small()))
    refused(small(variant="v1"), tmp_path / "a.npz", "names are those of variant v1.5")
    with pytest.raises(CheckpointError, match="no twin in torchvision"):
        export_weights(small(variant="v1"), tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match="free some space"):
        export_weights(small(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_and_not_its_name_decides(tmp_path):
    """A .npz that somebody called .bin."""
    buffer = io.BytesIO()
    np.savez(buffer, **state_dict(small()))
    (tmp_path / "a.bin").write_bytes(buffer.getvalue())
    assert import_weights(small(seed=3), tmp_path / "a.bin").kind == "PyTorch .npz"
