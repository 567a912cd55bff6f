"""The family of networks: sizes and shapes as published, the variants, the twins, and the errors."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from minires import nn, plain_twin, resnet, resnet50
from minires.errors import ConfigError, ShapeError


def test_course_network_has_the_sizes_of_its_keras_summary():
    model = resnet50((64, 64, 3), 6)
    assert model.parameter_count() == (23_546_886, 53_120)
    assert sum(array.size for array in model.state().values()) == 23_600_006


def test_keras_applications_size():
    assert sum(resnet50((224, 224, 3), 1000, variant="v1").parameter_count()) == 25_636_712


@pytest.mark.parametrize(
    ("arch", "trained"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_torchvision_sizes(arch, trained):
    assert resnet(arch, (224, 224, 3), 1000, variant="v1.5").parameter_count()[0] == trained


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_cifar_sizes(depth):
    """Counted from section 4.2 of the paper: n blocks at each of 16, 32, 64 channels, projections between them."""
    n, classes = (depth - 2) // 6, 10

    def conv(kernel, C, O):
        return kernel * kernel * C * O + 2 * O  # with its BN's gamma and beta

    expected = conv(3, 3, 16) + n * 2 * conv(3, 16, 16) + 64 * classes + classes
    for C, O in ((16, 32), (32, 64)):
        expected += conv(3, C, O) + conv(3, O, O) + conv(1, C, O) + (n - 1) * 2 * conv(3, O, O)
    model = resnet(f"resnet{depth}", (32, 32, 3), classes)
    assert model.parameter_count()[0] == expected
    assert len(model.blocks()) == 3 * n
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Dense)) and "downsample" not in m.name]
    assert len(weighted) == depth


@pytest.mark.parametrize(
    ("arch", "size", "options", "expected"),
    [
        ("resnet50", 64, {}, [(15, 64), (15, 256), (8, 512), (4, 1024), (2, 2048)]),
        ("resnet50", 224, {}, [(55, 64), (55, 256), (28, 512), (14, 1024), (7, 2048)]),
        ("resnet50", 224, {"variant": "v1.5"}, [(56, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)]),
        ("resnet18", 224, {"variant": "v1.5"}, [(56, 64), (56, 64), (28, 128), (14, 256), (7, 512)]),
        ("resnet20", 32, {}, [(32, 16), (32, 16), (16, 32), (8, 64)]),
        ("resnet20", 32, {"preact": True}, [(32, 16), (32, 16), (16, 32), (8, 64)]),
    ],
)
def test_stage_shapes(arch, size, options, expected):
    model = resnet(arch, (size, size, 3), **options)
    names = ["stem", "stage2", "stage3", "stage4", "stage5"]
    assert list(model.stage_shapes().items()) == [
        (name, (n, n, C)) for name, (n, C) in zip(names, expected, strict=False)
    ]


@pytest.mark.parametrize("variant", nn.VARIANTS)
@pytest.mark.parametrize("arch", ["resnet14", "resnet18", "resnet50"])
def test_every_module_gives_the_shape_it_promises(arch, variant, monkeypatch):
    """Also for an image that is not square and has odd sides."""
    stages = len(nn.ARCHITECTURES[arch].widths)
    model = resnet(arch, (71, 65, 3), 6, variant=variant, widths=(2, 3, 4, 5)[:stages])
    for module in model.modules():
        if not isinstance(module, (nn.Add, nn.Sequential)):

            def checked(x, module=module, forward=module.forward):
                y = forward(x)
                assert y.shape[1:] == module.output_shape(x.shape[1:]), module.name
                return y

            monkeypatch.setattr(module, "forward", checked)
    assert model(np.zeros((2, 71, 65, 3), np.float32)).shape == (2, 6)


@pytest.mark.parametrize(("variant", "convolution"), [("course", 0), ("v1", 0), ("v1.5", 1)])
def test_where_a_bottleneck_strides(variant, convolution):
    block = resnet50((64, 64, 3), variant=variant).blocks()[3]
    strides = [m.stride for m in block.branch.layers if isinstance(m, nn.Conv2d)]
    assert [stride == (2, 2) for stride in strides] == [i == convolution for i in range(3)]


@pytest.mark.parametrize("variant", nn.VARIANTS)
@pytest.mark.parametrize("options", [{}, {"skip": False}, {"preact": True}, {"norm": False}])
def test_names_are_unique(variant, options):
    for arch in ("resnet8", "resnet18", "resnet50"):
        widths = (2, 2, 2, 2)[: len(nn.ARCHITECTURES[arch].widths)]
        model = resnet(arch, variant=variant, widths=widths, dropout=0.5, **options)
        assert len(model.state()) == len(model.params()) + len(model.buffers())
        names = [m.name for m in model.modules()]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("arch", ["resnet8", "resnet18"])
def test_plain_twin_has_the_same_main_path(arch):
    model = resnet(arch, seed=3)
    plain = plain_twin(model)
    assert plain.config.skip is False
    shortcut = {name for b in model.blocks() if isinstance(b.shortcut, nn.Module) for name in b.shortcut.state()}
    assert shortcut
    assert set(plain.state()) == set(model.state()) - shortcut
    for name, array in plain.state().items():
        np.testing.assert_array_equal(array, model.state()[name])


@pytest.mark.parametrize(("given", "momentum"), [(None, 0.99), (0.9, 0.9), (0.0, 0.0)])
def test_the_batch_norms_momentum_is_the_variants_unless_given(given, momentum):
    model = resnet("resnet18", widths=(2, 2, 2, 2), bn_momentum=given)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm)} == {momentum}


def test_layers_of_equal_shape_start_from_different_weights():
    kernels = [p.data for p in resnet("resnet20", seed=1).params() if p.data.ndim == 4]
    drawn = {array.tobytes() for array in kernels}
    assert len(drawn) == len(kernels)


def test_the_seed_decides_the_weights():
    one, same, other = (resnet("resnet8", seed=seed).state() for seed in (1, 1, 2))
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    assert not np.array_equal(one["conv1.w"], other["conv1.w"])


@pytest.mark.parametrize("init", ["he", "glorot"])
def test_initial_weights_have_the_variance_of_their_scheme(init):
    conv = nn.Conv2d("c", 64, 128, 3, init=init)
    fan_in, fan_out = 9 * 64, 9 * 128
    variance = {"he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out)}[init]
    assert conv.w.data.dtype == np.float32
    assert conv.w.data.var() == pytest.approx(variance, rel=0.03)  # 73,728 draws: five deviations of the estimate
    assert abs(conv.w.data.mean()) < 5 * (variance / conv.w.data.size) ** 0.5


@pytest.mark.parametrize("preact", [False, True])
@pytest.mark.parametrize("arch", ["resnet8", "resnet50"])
def test_zero_gamma_makes_every_block_its_shortcut(arch, preact):
    """y = relu(shortcut(x)) for a post-activation block, y = shortcut(h) for a pre-activation one, exactly."""
    widths = (2, 3, 4, 5)[: len(nn.ARCHITECTURES[arch].widths)]
    model = resnet(arch, (64, 64, 3), widths=widths, last_gamma=0.0, preact=preact)
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    for layer in model.layers:
        if not layer.name.startswith("stage"):
            x = layer(x)
            continue
        for block in layer.layers:
            h = x if block.before is None else block.before(x)
            expected = x if block.shortcut == block.IDENTITY else block.shortcut(h)
            if not preact:
                expected = np.maximum(expected, 0)
            x = block(x)
            np.testing.assert_array_equal(x, expected)


def test_zero_gamma_leaves_a_plain_network_alive():
    plain = resnet("resnet8", skip=False, last_gamma=0.0)
    assert all(p.data.all() for p in plain.params() if p.name.endswith("gamma"))


@pytest.mark.parametrize("preact", [False, True])
def test_identity_block_with_a_zero_branch_passes_everything(preact):
    block = resnet("resnet8", norm=False, preact=preact).blocks()[0]
    assert block.shortcut == block.IDENTITY
    for p in block.params():
        p.data[...] = 0
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 4, 16), np.float32)
    dy = rng.standard_normal(x.shape, np.float32)
    np.testing.assert_array_equal(block(x), x if preact else np.maximum(x, 0))
    np.testing.assert_array_equal(block.backward(dy), dy if preact else dy * (x > 0))


def test_preactivation_has_nothing_after_the_addition():
    model = resnet("resnet14", preact=True)
    assert all(block.after is None and block.before is not None for block in model.blocks())
    assert [m.name for m in model.layers[-4:]] == ["post_bn", "post_relu", "avg_pool", "fc"]


def test_without_norm_there_are_no_buffers():
    for preact in (False, True):
        model = resnet("resnet8", norm=False, preact=preact)
        assert model.buffers() == []
        assert not any(isinstance(m, nn.BatchNorm) for m in model.modules())


def test_config_survives_json():
    config = resnet("resnet18", (64, 96, 3), 7, widths=(4, 4, 8, 8), dropout=0.1, last_gamma=0.0, seed=5).config
    assert nn.Config(**json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "resnet51"}, r"unknown arch 'resnet51': choose one of resnet8, .*resnet152, .*wide_resnet28_10"),
        ({"variant": "v3"}, r"unknown variant 'v3': choose one of course, v1, v2, v1\.5"),
        ({"shortcut": "C"}, "unknown shortcut 'C': choose one of A, B"),
        ({"init": "zeros"}, r"unknown init 'zeros': choose one of he, glorot"),
        ({"dropout": 1.0}, r"dropout: expected a number of at least 0 and below 1, got 1.0"),
        ({"classes": 1}, "classes: expected a whole number from 2 to 1,000,000, got 1"),
        ({"bn_momentum": 2}, "bn_momentum: expected a number of at least 0 and below 1, got 2"),
        ({"last_gamma": float("nan")}, "last_gamma: expected a finite number, got nan"),
        ({"widths": (4, 0, 4)}, r"widths: expected a width a stage, each a whole number from 1 .*got \(4, 0, 4\)"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
    ],
)
def test_settings_that_do_not_exist(options, message):
    with pytest.raises(ConfigError, match=message):
        resnet(**{"arch": "resnet8", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (64, 64)}, r"input shape must be \(height, width, channels\), got \(64, 64\)"),
        ({"widths": (4, 4)}, r"resnet18 has 4 stages, got 2 widths"),
        ({"input_shape": (3, 64, 64)}, r"resnet18 \(course\) on 3x64x64: pool1: the map of 2x32 .* larger image"),
    ],
)
def test_shapes_that_make_no_network(options, message):
    with pytest.raises(ShapeError, match=message):
        resnet(**{"arch": "resnet18", **options})


def test_an_image_too_small_for_the_head():
    with pytest.raises(ShapeError, match=r"resnet50 \(course\) on 32x32x3: avg_pool: the map of 1x1 .*fewer stages"):
        resnet50((32, 32, 3))


def test_shortcut_that_does_not_fit_names_the_projection():
    branch = nn.Sequential(nn.Conv2d("wide", 4, 8, 3, stride=2, pad=1), name="branch")
    block = nn.Block("unit", branch, nn.Block.IDENTITY, after=nn.ReLU("relu"))
    x = np.zeros((1, 8, 8, 4), np.float32)
    message = (
        r"unit\.add: the branch gives \(4, 4, 8\) but the shortcut \(8, 8, 4\).*"
        r"1x1 convolution 4 -> 8 with stride \(2, 2\)"
    )
    for call in (lambda: block(x), lambda: block.output_shape((8, 8, 4))):
        with pytest.raises(ShapeError, match=message):
            call()
