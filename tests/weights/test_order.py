"""Weights whose layers have other names, taken by order and shapes; and those that must not be."""

import numpy as np
import pytest
from data_helpers import assert_one_line
from torch_peers import KINDS, NAMINGS, WIDTHS, assert_same_logits, renamed, torchvision_resnet

from minires import nn, resnet
from minires.cli import main
from minires.errors import CheckpointError
from minires.weights import import_weights, state_dict
from minires.weights.found import Found
from minires.weights.order import adopt

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")


def network(arch="resnet18", classes=7, **options):
    size, widths = 32 if arch in KINDS else 16, (4, 6, 8) if arch == "resnet20" else WIDTHS
    return resnet(arch, (size, size, 3), classes, variant="v1.5", widths=widths, **options)


def twin_of(arch):
    """The same in PyTorch."""
    name, _, small = arch.partition("-")
    kind = KINDS.get(name, ("basic", (3, 3, 3)))
    widths = WIDTHS if name in KINDS else (4, 6, 8)
    return torchvision_resnet(torch, *kind, widths=widths, small=bool(small) or name not in KINDS)


def test_the_resnet_18_of_pytorch_cifar_has_its_number_of_parameters():
    twin = torchvision_resnet(torch, *KINDS["resnet18"], classes=10, small=True)
    model = resnet("resnet18-cifar", (32, 32, 3), 10)
    assert sum(p.numel() for p in twin.parameters()) == model.parameter_count()[0] == 11_173_962


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("arch", ["resnet50", "resnet20", "resnet18-cifar"])
def test_names_of_other_libraries(naming, arch, tmp_path):
    """In the order of registration, and in the alphabet's, as safetensors has it: the same logits, and said so.

    In the first stage of a ResNet-50 the projection and a last convolution have one shape: the other blocks tell.
    """
    twin = twin_of(arch)
    arrays = renamed(twin.state_dict(), naming)
    torch.save({"state_dict": arrays}, tmp_path / "a.bin")
    safetensors.save_file(dict(sorted(arrays.items())), tmp_path / "a.safetensors")
    for name in ("a.bin", "a.safetensors"):
        model = network(arch, seed=3)
        report = import_weights(model, tmp_path / name)
        assert set(report.mapped) == set(model.state())
        assert {*report.mapped.values(), *report.unused} == set(arrays)
        assert any("layer names are not ours" in note for note in report.notes)
        assert_same_logits(torch, model, twin)


def taken_from(model, names):
    """What `adopt` makes of a network whose layers were called otherwise: our name -> the same layer's name before."""
    found = Found("test")
    for name, array in sorted(model.state().items(), key=lambda item: names(item[0])):
        found.add(names(name), array, name)
    adopt(model, found)
    return found.origin


def test_ten_blocks_are_counted_not_sorted_as_text():
    """All of one shape: layers.10 comes behind layers.9, and nothing but its name says so."""
    model = resnet("resnet110", (8, 8, 3), 2, variant="v1.5", widths=(2, 2, 2))
    same = {name: name for name in model.state()}
    assert taken_from(model, lambda name: name.replace("layer", "stages.")) == same
    assert taken_from(model, lambda name: name.replace("layer", "stages.").replace("conv1", "zero")) != same


def spoil_order(arrays):
    """One block calls its two equal convolutions the other way round than the others."""
    one, two = "layer1.1.conv1.weight", "layer1.1.conv2.weight"
    arrays["layer1.1.conv3.weight"] = arrays.pop(one)
    arrays[one] = arrays.pop(two)


def scatter(arrays):
    """Layers whose names say nothing of blocks."""
    for i, name in enumerate(list(arrays)):
        layer, _, part = name.rpartition(".")
        if "bn" in layer or "downsample.1" in layer:
            continue
        arrays[f"{'xyz'[i % 3]}{i}.{part}"] = arrays.pop(name)


@pytest.mark.parametrize("spoil", [spoil_order, scatter])
def test_names_that_do_not_confirm_the_order_are_refused(spoil, tmp_path):
    arrays = renamed(state_dict(network(seed=1)), "kuangliu/pytorch-cifar")
    spoil(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    model = network()
    before = {name: array.copy() for name, array in model.state().items()}
    with pytest.raises(CheckpointError) as error:
        import_weights(model, tmp_path / "a.npz")
    assert_one_line(error, tmp_path / "a.npz", "have no place")
    assert all(np.array_equal(before[name], array) for name, array in model.state().items())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_head_of_another_size_is_replaced(layers, tmp_path):
    """The refusal says how; also for a classifier of several layers."""
    arrays = renamed(twin_of("resnet20").state_dict(), "Hugging Face")
    if layers == 2:
        arrays["classifier.3.weight"], arrays["classifier.3.bias"] = torch.ones(5, 7), torch.ones(5)
    torch.save(arrays, tmp_path / "a.pth")
    model = network("resnet20", classes=4)
    with pytest.raises(CheckpointError, match="--skip-head"):
        import_weights(model, tmp_path / "a.pth")
    head = model.state()["fc.w"].copy()
    report = import_weights(model, tmp_path / "a.pth", skip_head=True)
    assert report.missing == ("fc.w", "fc.b")
    assert {"classifier.1.weight", "classifier.1.bias"} <= set(report.unused)
    np.testing.assert_array_equal(model.state()["fc.w"], head)


def test_a_network_without_blocks_by_the_numbers_in_its_names(tmp_path):
    """A small VGG; where equal shapes are told apart by words alone nothing is guessed."""

    def vgg():
        convs = [nn.Conv2d(f"c{i}", 3 if i == 0 else 4, 4, 3, pad=1, bias=True, seed=i) for i in range(11)]
        return nn.Sequential(*convs, nn.GlobalAvgPool2d("gap"), nn.Dense("d", 4, 2), name="vgg")

    model = vgg()
    same = {name: name for name in model.state()}
    assert taken_from(model, lambda name: ("classifier" if name[0] == "d" else "features.") + name[1:]) == same
    assert "third.w" in taken_from(model, lambda name: name.replace("c3", "third").replace("c4", "fourth"))


def test_by_the_command_line(tmp_path, capsys):
    torch.save(renamed(twin_of("resnet20").state_dict(), "Hugging Face"), tmp_path / "pytorch_model.bin")
    words = ["--arch", "resnet8", "--variant", "v1.5", "--input", "16", "--classes", "7"]
    assert (
        main(["weights", "import", str(tmp_path / "pytorch_model.bin"), *words, "--out", str(tmp_path / "m.h5")]) == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "for another network than resnet8 (v1.5)" in error
