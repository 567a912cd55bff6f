"""Modules: the slot between forward and backward, modes, running statistics, dropout, the errors."""

import numpy as np
import pytest

from minires import nn, ops, resnet
from minires.errors import ConfigError, ShapeError, StateError


def images(n=3, size=16, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((n, size, size, 3)).astype(dtype)


def all_layers():
    """One of each layer, with an input shape."""
    return [
        (nn.Conv2d("conv", 3, 4, 3, bias=True), (6, 6, 3)),
        (nn.Conv2d("groups of a dilated conv", 6, 4, 3, dilation=2, groups=2), (6, 6, 6)),
        (nn.Conv2d("depthwise conv", 6, 6, 3, pad=1, groups=6), (6, 6, 6)),
        (nn.BatchNorm("norm", 3), (6, 6, 3)),
        (nn.BatchNorm("norm of vectors", 3), (3,)),
        (nn.LayerNorm("layer", 3), (6, 6, 3)),
        (nn.LayerNorm("layer of maps", (6, 6, 3)), (6, 6, 3)),
        (nn.GroupNorm("groups", 6, 3), (4, 5, 6)),
        (nn.ReLU("relu"), (6, 6, 3)),
        (nn.LeakyReLU("leaky"), (6, 6, 3)),
        (nn.Sigmoid("sigmoid"), (6, 6, 3)),
        (nn.GELU("gelu"), (6, 6, 3)),
        (nn.ZeroPad2d("pad", 1), (6, 6, 3)),
        (nn.MaxPool2d("max", 2), (6, 6, 3)),
        (nn.MaxPool2d("dilated max", 2, dilation=2, ceil_mode=True), (6, 6, 3)),
        (nn.AvgPool2d("avg", 2), (6, 6, 3)),
        (nn.AvgPool2d("avg without", 4, 3, 1, ceil_mode=True, count_include_pad=False), (6, 6, 3)),
        (nn.GlobalAvgPool2d("global"), (6, 6, 3)),
        (nn.GlobalAvgPool2d("kept global", keep=True), (6, 6, 3)),
        (nn.Subsample("subsample", 2, 3, 8), (5, 6, 3)),
        (nn.SqueezeExcite("excite", 4, 2), (5, 6, 4)),
        (nn.Flatten("flatten"), (6, 6, 3)),
        (nn.Dense("dense", 5, 4), (5,)),
        (nn.Dropout("dropout", 0.5), (6, 6, 3)),
        (nn.StochasticDepth("depth", 0.5), (6, 6, 3)),
    ]


LAYERS = [pytest.param(layer, shape, id=layer.name) for layer, shape in all_layers()]


def slots(model):
    return [m.name for m in model.modules() if m._slot is not None]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_layer_shapes_and_dtypes(layer, shape):
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    x.setflags(write=False)
    y = layer(x)
    assert y.shape == (2, *layer.output_shape(shape))
    dy = np.ones_like(y)
    dy.setflags(write=False)
    dx = layer.backward(dy)
    assert (dx.shape, dx.dtype, y.dtype) == (x.shape, x.dtype, x.dtype)
    assert slots(layer) == []
    for p in layer.params():
        assert (p.grad.shape, p.grad.dtype) == (p.data.shape, p.data.dtype)


@pytest.mark.parametrize(("layer", "shape"), [p for p in LAYERS if p.id != "pad"])  # padding has nothing to keep
def test_backward_needs_a_forward_each_time(layer, shape):
    layer.release()
    x = np.ones((2, *shape), np.float32)
    dy = np.ones((2, *layer.output_shape(shape)), np.float32)
    with pytest.raises(StateError, match=rf"^{layer.name}(\.\w+)?: backward without a forward"):
        layer.backward(dy)
    layer(x)
    layer.backward(dy)
    with pytest.raises(StateError, match=rf"^{layer.name}(\.\w+)?: backward without a forward"):
        layer.backward(dy)


@pytest.mark.parametrize("options", [{}, {"preact": True}, {"skip": False}, {"dropout": 0.3}])
def test_without_dx_the_gradients_are_the_same_and_nothing_is_left(options):
    model = resnet("resnet8", (16, 16, 3), **options)
    x, dy = images(), np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    found = []
    for need_dx in (True, False):
        for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout)):
            dropout.rng = np.random.default_rng(0)  # the same mask twice
        model(x)
        assert slots(model)
        dx = model.backward(dy, need_dx=need_dx)
        assert slots(model) == []
        assert (dx is not None) == need_dx
        found.append([p.grad.copy() for p in model.params()])
    for with_dx, without in zip(*found, strict=True):
        np.testing.assert_array_equal(with_dx, without)


def test_layers_before_the_first_parameter_are_released():
    model = nn.Sequential(nn.ZeroPad2d("pad", 1), nn.ReLU("relu"), nn.Conv2d("conv", 3, 2, 3))
    y = model(images())
    assert slots(model) == ["relu", "conv"]
    assert model.backward(np.ones_like(y), need_dx=False) is None
    assert slots(model) == []


def test_write_grad_fills_the_buffer_that_is_there():
    p = nn.Param("p", np.zeros(3))
    first = np.ones(3)
    p.write_grad(first)
    kept = p.grad
    p.write_grad(np.full(3, 2.0))
    assert p.grad is kept
    assert p.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize("unbiased", [False, True])
def test_running_statistics(unbiased):
    """running <- 0.9 running + 0.1 batch, from mean 0 and variance 1, twice."""
    norm = nn.BatchNorm("norm", 3, momentum=0.9, unbiased=unbiased)
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(2):
        x = images(seed=seed) * 2 + 1
        norm(x)
        mean = 0.9 * mean + 0.1 * x.mean((0, 1, 2), np.float64)
        var = 0.9 * var + 0.1 * x.var((0, 1, 2), np.float64, ddof=int(unbiased))
    np.testing.assert_allclose(norm.mean.data, mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var.data, var, rtol=1e-6)
    assert norm.var.data.dtype == np.float32


def test_evaluation_uses_the_running_statistics_and_keeps_them():
    norm = nn.BatchNorm("norm", 3, epsilon=1e-3)
    norm.mean.data[:], norm.var.data[:] = (1, 2, 3), (4, 5, 6)
    norm.gamma.data[:], norm.beta.data[:] = (1, -1, 2), (0, 1, 0)
    before = {name: array.copy() for name, array in norm.state().items()}
    x = images(dtype=np.float32)
    y = norm.eval()(x)
    expected = norm.gamma.data * (x - norm.mean.data) / np.sqrt(norm.var.data + 1e-3) + norm.beta.data
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    for name, array in norm.state().items():
        np.testing.assert_array_equal(array, before[name])
    dy = images(seed=1)
    np.testing.assert_allclose(norm.backward(dy), dy * norm.gamma.data / np.sqrt(norm.var.data + 1e-3), rtol=1e-5)


def test_evaluation_treats_images_one_by_one_and_training_does_not():
    model = resnet("resnet8", (16, 16, 3))
    x = images(4)
    for mode, equal in (("eval", True), ("train", False)):
        getattr(model, mode)()
        assert np.allclose(model(x)[:2], model(x[:2]), rtol=1e-4, atol=1e-5) is equal


def test_backward_uses_the_mode_of_its_forward():
    norm = nn.BatchNorm("norm", 3)
    x, dy = images(), images(seed=1)
    norm(x)
    expected = norm.backward(dy)
    norm(x)
    norm.eval()
    np.testing.assert_array_equal(norm.backward(dy), expected)


def test_inference_keeps_nothing_and_restores_every_mode():
    model = resnet("resnet8", (16, 16, 3), dropout=0.5)
    model.blocks()[1].eval()
    model(images())
    before = [(m.training, m.save_for_backward) for m in model.modules()]
    expected = None
    with nn.inference(model) as same:
        assert same is model
        assert slots(model) == []
        y = model(images())
        expected = y
        assert slots(model) == []
        with pytest.raises(StateError, match=r"inference\(\)"):
            model.backward(y)
    assert [(m.training, m.save_for_backward) for m in model.modules()] == before
    np.testing.assert_array_equal(model.eval()(images()), expected)


def test_inference_restores_the_modes_after_an_error():
    model = resnet("resnet8", (16, 16, 3))
    with pytest.raises(ZeroDivisionError), nn.inference(model):
        1 / 0  # noqa: B018
    assert all(m.training and m.save_for_backward for m in model.modules())


def test_dropout_drops_the_stated_share_and_keeps_the_mean():
    layer, x = nn.Dropout("dropout", 0.25, seed=1), np.ones((200, 200), np.float32)
    y = layer(x)
    assert np.mean(y == 0) == pytest.approx(0.25, abs=0.02)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(layer.backward(x), y)  # the same mask
    assert not np.array_equal(layer(x), y)  # and a new one each time
    assert layer.eval()(x) is x


def test_each_dropout_has_a_mask_of_its_own():
    x = np.ones((1, 400), np.float32)
    masks = [nn.Dropout(name, 0.5, seed=seed)(x) for name, seed in (("a", 0), ("b", 0), ("a", 1), ("a", 0))]
    assert not any(np.array_equal(masks[0], other) for other in masks[1:3])
    np.testing.assert_array_equal(masks[0], masks[3])


def test_conversion_drops_gradients_and_slots():
    model = resnet("resnet8", (16, 16, 3))
    model.backward(model(images()))
    model(images())
    assert model.astype(np.float64) is model
    assert slots(model) == []
    assert all(a.dtype == np.float64 for a in model.state().values())
    assert all(p.grad is None for p in model.params())
    assert model.dtype == np.float64
    assert model(images(dtype=np.float64)).dtype == np.float64


def test_the_last_of_two_that_infer_gives_the_modes_back():
    """Two threads with one network: who leaves first must not put the other's in training mode."""
    model = resnet("resnet8", (16, 16, 3))
    model.layers[0].eval()
    before = [m.training for m in model.modules()]
    first, second = nn.inference(model), nn.inference(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(m.training or m.save_for_backward for m in model.modules())
    second.__exit__(None, None, None)
    assert [m.training for m in model.modules()] == before
    assert all(m.save_for_backward for m in model.modules())


def test_weight_decay_spares_norms_and_biases():
    model = resnet("resnet18", (64, 64, 3), widths=(2, 2, 2, 2))
    kinds = {(p.name.rpartition(".")[2], p.decay) for p in model.params()}
    assert kinds == {("w", True), ("b", False), ("gamma", False), ("beta", False)}
    assert model.layers[0].layers[1].b is not None  # convolutions' biases among them


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (nn.Conv2d("c1", 3, 4, 3), np.zeros((1, 8, 8, 4)), r"^c1: expected \(H, W, C\) with C = 3, got \(8, 8, 4\)"),
        (nn.Conv2d("c1", 3, 4, 3), np.zeros((8, 8, 3)), r"^c1: expected \(H, W, C\) with C = 3, got \(8, 3\)"),
        (nn.BatchNorm("b1", 3), np.zeros((1, 8, 8, 4)), r"^b1: expected \(H, W, C\) with C = 3, got \(8, 8, 4\)"),
        (nn.Dense("d1", 3, 4), np.zeros((1, 4)), r"^d1: expected \(C,\) with C = 3, got \(4,\)"),
    ],
)
def test_channels_that_do_not_fit_name_the_layer(layer, x, message):
    with pytest.raises(ShapeError, match=message):
        layer(x)


def test_map_smaller_than_the_window_names_the_layer():
    with pytest.raises(ShapeError, match=r"^c1: the map of 2x8 that arrives is smaller than the window"):
        nn.Conv2d("c1", 3, 4, 3).output_shape((2, 8, 3))


@pytest.mark.parametrize("options", [{}, {"preact": True}, {"skip": False}])
def test_gradients_arrive_as_if_there_were_no_slots(options):
    """The block's backward against its pieces put together by hand."""
    block = resnet("resnet8", (16, 16, 3), **options).blocks()[1].astype(np.float64)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 6, 16))
    dy = rng.standard_normal(block(x).shape)
    dx = block.backward(dy)
    step, direction = 1e-6, rng.standard_normal(x.shape)
    change = (block(x + step * direction) - block(x - step * direction)) / (2 * step)
    assert np.sum(dx * direction) == pytest.approx(np.sum(change * dy), rel=1e-5)


def test_sequential_is_the_composition():
    dense, relu = nn.Dense("dense", 3, 2), nn.ReLU("relu")
    model = nn.Sequential(dense, relu)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    expected = ops.relu_forward(ops.dense_forward(x, dense.w.data, dense.b.data))
    np.testing.assert_array_equal(model(x), expected)
    assert [m.name for m in model.modules()] == ["", "dense", "relu"]
    assert [p.name for p in model.params()] == ["dense.w", "dense.b"]


def test_a_printed_network_tells_every_module_its_settings_and_its_numbers():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__("mine")
            self.factor = 2.5

    convolution = nn.Conv2d("conv", 3, 4, (3, 5), stride=2, bias=True)
    expected = [
        "net: Sequential()  188 parameters",
        "  conv: Conv2d(stride=(2, 2), pad=0, dilation=(1, 1), groups=1, w=(3, 5, 3, 4), b=(4,))  184 parameters",
        "  mine: Scale(factor=2.5)",
        "  relu: ReLU()",
    ]
    norm = nn.BatchNorm("norm", 1)
    lines = repr(nn.Sequential(convolution, Scale(), nn.ReLU("relu"), norm, name="net")).splitlines()
    assert lines[:4] == expected
    assert lines[4].startswith("  norm: BatchNorm(epsilon=1e-05, ")
    model = resnet("resnet8", (8, 8, 3), 4)
    assert len(str(model).splitlines()) == len(list(model.modules()))


def test_a_layer_without_a_name_is_told_by_its_type():
    with pytest.raises(StateError, match=r"^ReLU: backward without a forward"):
        nn.ReLU("").backward(np.ones(3, np.float32))
    with pytest.raises(StateError, match=r"^mine: backward without a forward"):
        nn.ReLU("mine").backward(np.ones(3, np.float32))


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    layer, x = nn.StochasticDepth("depth", 0.25, seed=1), np.ones((4000, 2, 3, 2), np.float32)
    y = layer(x)
    kept = y[:, 0, 0, 0]
    assert (y == kept[:, None, None, None]).all()
    assert np.mean(kept == 0) == pytest.approx(0.25, abs=0.03)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(layer.backward(x), y)  # the same images
    assert not np.array_equal(layer(x), y)  # and others each time
    same, other = nn.StochasticDepth("depth", 0.25, seed=1)(x), nn.StochasticDepth("other", 0.25, seed=1)(x)
    np.testing.assert_array_equal(same, y)
    assert not np.array_equal(other, y)
    assert layer.eval()(x) is x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d("mine", 6, 4, 3, groups=3), "mine: 6 channels in and 4 out do not make 3 equal groups"),
        (lambda: nn.Conv2d("mine", 6, 4, 3, groups=0), "mine: 6 channels in and 4 out do not make 0 equal groups"),
        (lambda: nn.LeakyReLU("mine", -0.1), "mine: the slope must be a number of at least 0, got -0.1"),
        (lambda: nn.LeakyReLU("mine", float("nan")), "mine: the slope must be a number of at least 0, got nan"),
        (lambda: nn.StochasticDepth("mine", 1.0), r"mine: the rate at which to drop must lie in \[0, 1\), got 1.0"),
    ],
)
def test_settings_that_no_layer_has(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d("mine", 6, 4, 3, groups=2), (5, 5, 3), r"mine: expected \(H, W, C\) with C = 6, got \(5, 5, 3\)"),
        (nn.Conv2d("mine", 3, 4, 3, dilation=3), (6, 9, 3), "mine: the map of 6x9 that arrives is smaller"),
        (nn.MaxPool2d("mine", 3, dilation=3), (6, 9, 3), "mine: the map of 6x9 that arrives is smaller"),
        (nn.LayerNorm("mine", 6), (5, 5, 3), r"mine: expected \(6,\) as the last axes, got \(5, 5, 3\)"),
        (nn.LayerNorm("mine", (5, 3)), (5, 4, 3), r"mine: expected \(5, 3\) as the last axes, got \(5, 4, 3\)"),
        (nn.LayerNorm("mine", (5, 3)), (3,), r"mine: expected \(5, 3\) as the last axes, got \(3,\)"),
    ],
)
def test_maps_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.output_shape(shape)
