"""ResNet's relatives: counts of the originals to the last digit, and their results, by their own parameters' names."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from minires import nn, ops, plain_twin, resnet
from minires.errors import ConfigError
from minires.nn.init import undrawn
from minires.weights import import_weights, state_dict

SMALL = {  # name -> widths small enough for a whole step in float64; 32 groups need a multiple of 16
    "resnext50_32x4d": (16, 16, 16, 16),
    "resnext101_32x8d": (8, 8, 8, 8),
    "wide_resnet50_2": (4, 6, 8, 10),
    "wide_resnet101_2": (4, 4, 6, 6),
    "se_resnet50": (4, 8, 8, 12),
    "resnet50d": (4, 6, 8, 10),
}


@pytest.mark.parametrize(
    ("arch", "trained"),
    [  # of torchvision.models' weights, "num_params"; se_resnet50 and resnet50d: timm's seresnet50 and resnet50d
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
        ("se_resnet50", 28_088_024),
        ("resnet50d", 25_576_264),
    ],
)
def test_sizes(arch, trained):
    with undrawn():
        model = resnet(arch, (224, 224, 3), 1000)
    assert model.parameter_count()[0] == trained
    assert model.stage_shapes()["stage5"] == (7, 7, 2048)


@pytest.mark.parametrize(("depth", "trained"), [(20, 269_722), (32, 464_154), (56, 853_018), (110, 1_727_962)])
def test_sizes_with_option_a(depth, trained):
    """Those of the paper's own shortcuts: table 6 says 0.27, 0.46, 0.85 and 1.7 million."""
    assert resnet(f"resnet{depth}", (32, 32, 3), 10, shortcut="A").parameter_count()[0] == trained


def test_size_of_the_wide_network_for_cifar():
    """arXiv:1605.07146, table 4: WRN-28-10 has 36.5 million."""
    with undrawn():
        model = resnet("wide_resnet28_10", (32, 32, 3), 10)
    assert model.parameter_count()[0] == 36_479_194
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and "downsample" not in m.name]
    assert len(convolutions) + 1 + 2 == 28  # the paper counts the head, and the shortcuts of two of three stages
    assert list(model.stage_shapes().values()) == [(32, 32, 16), (32, 32, 160), (16, 16, 320), (8, 8, 640)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "options"),
    [
        *((arch, {"widths": SMALL[arch]}) for arch in ("resnext50_32x4d", "se_resnet50", "resnet50d")),
        ("wide_resnet28_10", {"widths": (4, 6, 8)}),
        ("resnet20", {"shortcut": "A"}),
        ("resnet50", {"variant": "v2", "widths": (4, 6, 8, 10)}),
    ],
)
def test_a_config_survives_json_and_has_a_plain_twin(arch, options):
    model = resnet(arch, (64, 64, 3), 7, seed=5, **options)
    again = nn.Config(**json.loads(json.dumps(asdict(model.config))))
    assert again == model.config
    assert repr(nn.from_config(again)) == repr(model)
    plain = plain_twin(model)
    assert all(block.shortcut is None for block in plain.blocks())
    for name, array in plain.state().items():
        np.testing.assert_array_equal(array, model.state()[name])


def test_where_conventions_are_not_named_relatives_take_those_of_torch():
    assert resnet("resnext50_32x4d", widths=SMALL["resnext50_32x4d"]).config.variant == "v1.5"
    assert resnet("wide_resnet50_2", widths=(2, 2, 2, 2), variant="v1").config.variant == "v1"


def test_preactivation_belongs_to_the_networks_that_are_made_of_it():
    assert resnet("wide_resnet28_10", widths=(2, 2, 2)).config.preact
    assert resnet("resnet8", variant="v2").config.preact
    assert not resnet("resnet8").config.preact


def test_a_shortcut_without_parameters_starts_at_the_blocks_input():
    """Also in a pre-activation block, whose projections start behind the first BN and ReLU."""
    blocks = {kind: resnet("resnet8", preact=True, shortcut=kind).blocks()[1].astype(np.float64) for kind in "AB"}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 6, 16))
    for kind, block in blocks.items():
        for p in block.branch.params():
            p.data[...] = 0
        y = block(x)
        if kind == "A":
            np.testing.assert_array_equal(y[..., 8:24], x[:, ::2, ::2])
            assert not y[..., :8].any()
            assert not y[..., 24:].any()
            dx = block.backward(np.ones_like(y))
            np.testing.assert_array_equal(dx[:, ::2, ::2], np.ones_like(y)[..., 8:24])
            assert dx.sum() == y[..., 8:24].size
        else:
            np.testing.assert_allclose(y, block.shortcut(block.before(x)))


def test_stages_that_become_narrower_have_no_option_a():
    with pytest.raises(ConfigError, match=r"layer2\.0\.subsample: 6 channels do not become 4 by adding zeros"):
        resnet("resnet8", widths=(6, 4, 4), shortcut="A")


def step(model, twin, x, labels):
    """(name, ours, PyTorch's) of the logits and every gradient of one training step."""
    import torch

    logits = model(x)
    probs = ops.softmax_cross_entropy_forward(logits, labels)[1]
    dx = model.backward(ops.softmax_cross_entropy_backward(probs, labels))
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    tlogits = twin(tx)
    torch.nn.functional.cross_entropy(tlogits, torch.tensor(labels)).backward()
    yield "logits", logits, tlogits.detach().numpy()
    yield "images", dx, tx.grad.numpy().transpose(0, 2, 3, 1)
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    roles = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}
    for p in model.params():
        layer, _, role = p.name.rpartition(".")
        grad = theirs.pop(f"{layer}.{roles[role]}")
        yield p.name, p.grad, grad.transpose(2, 3, 1, 0) if grad.ndim == 4 else grad.T
    assert not theirs


def assert_same_step(model, twin, path, size):
    """A file of the twin's weights loads by name alone; then logits and all gradients are PyTorch's, to 1e-8."""
    import torch

    torch.save(twin.state_dict(), path)
    report = import_weights(model, path)
    assert not report.missing
    assert not report.notes
    assert set(report.mapped.values()) == {name for name in twin.state_dict() if "num_batches" not in name}
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((2, size, size, 3)), rng.integers(0, 6, 2)
    for name, ours, theirs in step(model, twin.train(), x, labels):
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= 1e-8 * np.linalg.norm(theirs), name


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        *((arch, 32) for arch in SMALL if "101" not in arch),
        ("resnet50d", 47),  # an odd map is averaged to its edge
        pytest.param("resnext101_32x8d", 32, marks=pytest.mark.slow),
        pytest.param("wide_resnet101_2", 32, marks=pytest.mark.slow),
    ],
)
def test_weights_of_torchs_names_give_torchs_step(arch, size, tmp_path):
    torch = pytest.importorskip("torch")
    from torch_family import not_as_it_starts, torch_network

    torch.manual_seed(0)
    twin = not_as_it_starts(torch_network(arch, 6, SMALL[arch]))
    with undrawn():
        model = resnet(arch, (size, size, 3), 6, widths=SMALL[arch]).astype(np.float64)
    assert_same_step(model, twin, tmp_path / "twin.pth", size)
    ours, theirs = state_dict(model), twin.state_dict()
    assert {name: array.shape for name, array in ours.items()} == {name: tuple(v.shape) for name, v in theirs.items()}


@pytest.mark.parametrize("arch", ["resnet20", "wide_resnet28_10"])
def test_the_networks_for_cifar_give_torchs_step(arch, tmp_path):
    torch = pytest.importorskip("torch")
    from torch_family import CifarResNet, WideResNet, not_as_it_starts

    torch.manual_seed(0)
    if arch == "resnet20":
        twin, options = CifarResNet(3, head="fc"), {"shortcut": "A"}
    else:
        twin, options = WideResNet((4, 6, 8)), {"widths": (4, 6, 8)}
    model = resnet(arch, (15, 15, 3), 10, **options).astype(np.float64)
    assert_same_step(model, not_as_it_starts(twin), tmp_path / "twin.pth", 15)


def test_public_weights_of_resnet20_with_option_a(tmp_path):
    """Made where shortcuts have no parameters, with a head called `linear` and `module.` before each name."""
    torch = pytest.importorskip("torch")
    from torch_family import CifarResNet, not_as_it_starts

    torch.manual_seed(0)
    twin = not_as_it_starts(CifarResNet(3)).float().eval()
    assert sum(p.numel() for p in twin.parameters()) == 269_722
    weights = {f"module.{name}": array for name, array in twin.state_dict().items()}
    torch.save({"state_dict": weights, "best_prec1": 91.7}, tmp_path / "resnet20.pth")
    model = resnet("resnet20", (32, 32, 3), 10, shortcut="A")
    assert not import_weights(model, tmp_path / "resnet20.pth").missing
    x = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32)
    with nn.inference(model), torch.no_grad():
        logits, theirs = model(x), twin(torch.tensor(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(logits, theirs.numpy(), atol=1e-5 * float(theirs.abs().max()))
    probs = ops.softmax_cross_entropy_forward(logits, np.zeros(8, int))[1]
    np.testing.assert_allclose(probs, theirs.softmax(1).numpy(), atol=1e-5)
