"""Each convention in which libraries differ, planted in one network, is found, at its layer, with its name."""

import re

import numpy as np
import pytest

from minires import nn, resnet
from minires.errors import ConfigError, DataError
from minires.weights import activations, compare, keras_activations, load_activations, torch_activations

pytestmark = pytest.mark.slow

NARROW = {"widths": (4, 6, 8, 10), "seed": 0}
X = np.random.default_rng(1).standard_normal((2, 64, 64, 3)).astype(np.float32)


def network(arch="resnet50", dtype=np.float32, x=X, **options):
    model = resnet(arch, x.shape[1:], 5, **NARROW, **options)
    rng = np.random.default_rng(0)
    for v in model.params() + model.buffers():  # biases, betas and means start at 0, where nothing shows
        if v.data.ndim == 1:
            v.data += 0.2 * rng.random(v.data.shape, np.float32)
    return model.astype(dtype)


def layer(model, name):
    (found,) = (m for m in model.modules() if m.name == name)
    return found


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm)]


def set_epsilon(value):
    def plant(model):
        for m in norms(model):
            m.epsilon = value

    return plant


def change(name, **fields):
    """Plant by setting fields of one layer; a callable gets the old value."""

    def plant(model):
        for field, value in fields.items():
            target = layer(model, name)
            setattr(target, field, value(getattr(target, field)) if callable(value) else value)

    return plant


def kernel(name, turn):
    def plant(model):
        w = layer(model, name).w
        w.data = np.ascontiguousarray(turn(w.data))

    return plant


def scale_variance(factor):
    def plant(model):
        for m in norms(model):
            m.var.data *= factor

    return plant


def no_bias(name):
    def plant(model):
        layer(model, name).b = None

    return plant


def running_like_a_batch(model):
    """The network in training mode, as an evaluation pass would see it: each norm takes its batch's statistics."""
    for m in norms(model):
        m.forward = lambda x, m=m: nn.BatchNorm.forward(m.train(), x)


def probabilities(model):
    dense = layer(model, "fc5")

    def forward(x):
        y = nn.Dense.forward(dense, x)
        e = np.exp(y - y.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    dense.forward = forward


# what is planted in the other network -> the first layer that diverges, words of the cause
PLANTED = {
    "epsilon of PyTorch": ({}, set_epsilon(1e-5), "bn_conv1", r"epsilon is 1e-05 \(PyTorch's default\), here 0.001"),
    "epsilon of Keras": (
        {"variant": "v1.5"},
        set_epsilon(1e-3),
        "bn1",
        r"epsilon is 0.001 \(Keras's default\), here 1e-05",
    ),
    "epsilon of keras.applications, float64": (
        {"variant": "v1.5", "dtype": np.float64},
        set_epsilon(1.001e-5),
        "bn1",
        r"epsilon is 1.001e-05 \(keras.applications\)",
    ),
    "same padding": (
        {"variant": "v1.5"},
        change("conv1", pad="same"),
        "conv1",
        r"pads \(\(2, 3\), \(2, 3\)\), here \(\(3, 3\), \(3, 3\)\): 'same' puts the odd zero at the bottom",
    ),
    "padding as a layer": ({}, change("conv1_pad", pad=((2, 3), (2, 3))), "conv1", "'same' puts the odd zero"),
    "pool padding": (
        {"variant": "v1.5"},
        change("pool1", pad=((0, 1), (0, 1))),
        "pool1",
        r"pads \(\(0, 1\), \(0, 1\)\), here \(\(1, 1\), \(1, 1\)\)",
    ),
    "flipped": ({}, kernel("res3b_branch2b", lambda w: w[::-1, ::-1]), "res3b_branch2b", "turned by 180 degrees"),
    "transposed": (
        {},
        kernel("res3b_branch2b", lambda w: w.transpose(1, 0, 2, 3)),
        "res3b_branch2b",
        "rows and columns of its kernel are exchanged",
    ),
    "channels exchanged": (
        {},
        kernel("res3b_branch2b", lambda w: w.transpose(0, 1, 3, 2)),
        "res3b_branch2b",
        "input and output channels of its kernel are exchanged",
    ),
    "reshaped, not transposed": (
        {},
        kernel("res2a_branch2c", lambda w: w.transpose(3, 2, 0, 1).reshape(w.shape)),
        "res2a_branch2c",
        r"kernel was reshaped from \(O, C, R, S\)",
    ),
    "BGR": ({}, kernel("conv1", lambda w: w[:, :, ::-1]), "conv1", "BGR"),
    "no bias": ({}, no_bias("res2a_branch2b"), "res2a_branch2b", "the other adds no bias"),
    "another bias": ({"variant": "v1.5"}, change("fc", b=None), "fc", "the other adds no bias"),
    "training mode": ({}, running_like_a_batch, "bn_conv1", "the other is in training mode"),
    "unbiased variance": (
        {},
        scale_variance(32 / 31),
        "bn_conv1",
        r"it is unbiased, here biased \(over m - 1 or over m, with m = 32 values",
    ),
    "biased variance": ({}, scale_variance(31 / 32), "bn_conv1", "it is biased, here unbiased .* m = 32 values"),
    "another gamma": (
        {},
        lambda model: layer(model, "bn3b_branch2a").gamma.data.__imul__(np.linspace(0.5, 2, 6, dtype=np.float32)),
        "bn3b_branch2a",
        "gamma, beta or the running statistics",
    ),
    "softmax": ({}, probabilities, "fc5", "its softmax is inside"),
    "other weights": (
        {},
        kernel("res3b_branch2b", lambda w: w[::-1, :, ::-1] * 3),
        "res3b_branch2b",
        "none of the known conventions explains it: compare the weights",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted(name):
    options, plant, first, cause = PLANTED[name]
    x = X.astype(options.get("dtype", np.float32))
    model, other = network(**options), network(**options)
    assert compare(model, other, x).first is None
    plant(other)
    result = compare(model, other, x)
    assert result.first == first, result
    assert re.search(cause, result.cause), result
    assert result.first in str(result)


def test_the_odd_zero_on_top():
    """Only between two ways of "same": a symmetric padding of 3 leaves its last zero unread."""
    model, other = network(variant="v1.5"), network(variant="v1.5")
    layer(model, "conv1").pad, layer(other, "conv1").pad = "same", ((3, 2), (3, 2))
    result = compare(model, other, X)
    assert result.first == "conv1"
    assert "pads ((3, 2), (3, 2)), here ((2, 3), (2, 3)): the odd zero of 'same' goes to the top" in result.cause


def test_stride_placement():
    """Variants v1 and v1.5 with the same weights: the first 1x1 of stage 3 gives maps of another size."""
    model, other = network(variant="v1"), network(variant="v1.5")
    weights = [[m for m in n.modules() if isinstance(m, nn.Conv2d | nn.Dense | nn.BatchNorm)] for n in (model, other)]
    for a, b in zip(*weights, strict=True):
        if isinstance(a, nn.BatchNorm):
            b.gamma.data, b.beta.data, b.mean.data, b.var.data = a.gamma.data, a.beta.data, a.mean.data, a.var.data
            continue
        b.w.data = a.w.data
        if b.b is None:
            a.b.data = np.zeros_like(a.b.data)
        else:
            b.b.data = a.b.data
    result = compare(model, other, X)
    assert result.first == "conv3_block1_1_conv"
    assert "its stride is 1, here 2" in result.cause
    assert next(row for row in result.rows if row.name == result.first).difference is None
    assert "v1.5 the 3x3" in str(result)


def test_flattened_channels_first():
    """As a network in NCHW flattens its last map; only the dense layer's output is recorded."""
    x = np.random.default_rng(2).standard_normal((2, 96, 160, 3)).astype(np.float32)
    model = network(x=x)
    record = activations(model, x)
    flat = record["avg_pool"].transpose(0, 3, 1, 2).reshape(2, -1)
    dense = layer(model, "fc5")
    theirs = {name: y for name, y in record.items() if name != "flatten"} | {"fc5": flat @ dense.w.data + dense.b.data}
    result = compare(model, theirs, x)
    assert result.first == "fc5"
    assert "flattens its map channels first" in result.cause


def test_nothing_is_left_behind():
    """Comparing leaves the model as it was: its methods, its mode, its statistics."""
    model = network()
    before = {name: a.copy() for name, a in model.state().items()}
    compare(model, network(), X)
    assert all(m.training and "forward" not in vars(m) for m in model.modules())
    assert all(np.array_equal(a, before[name]) for name, a in model.state().items())


def test_activations_from_a_file(tmp_path):
    model = network()
    np.savez(tmp_path / "a.npz", input=X, **activations(model, X))
    loaded = load_activations(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.pop("input"), X)
    result = compare(model, loaded, X)
    assert result.first is None
    assert len(result.rows) == len(activations(model, X)) - 1  # without conv1_pad
    assert max(row.difference for row in result.rows) == 0
    (tmp_path / "b.npz").write_text("no")
    for name in ("b.npz", "none.npz"):
        with pytest.raises(DataError, match=name):
            load_activations(tmp_path / name)


def test_channels_first_recordings_are_recognised():
    model = network()
    theirs = {name: y.transpose(0, 3, 1, 2) for name, y in activations(model, X).items() if y.ndim == 4}
    assert "channels first" in compare(model, theirs, X).cause


def test_nothing_in_common():
    with pytest.raises(ConfigError, match="no layer name in common"):
        compare(network(), {"a": X}, X)
    with pytest.raises(ConfigError, match="one architecture"):
        compare(network(), network("resnet18"), X)


def test_against_torch():
    """A network of PyTorch under our names; its epsilon changed, it is found there."""
    torch = pytest.importorskip("torch")
    from minires.benchmarks.peers import to_torch

    model = network("resnet18", variant="v1.5")
    twin = to_torch(model).train()
    modules = dict(twin.named_modules())
    theirs = torch_activations(twin, X)
    assert twin.training
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm | nn.Dense)]
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)
    names = dict(zip((n for n, m in modules.items() if isinstance(m, kinds)), (m.name for m in convs), strict=True))
    result = compare(model, {names[n]: y for n, y in theirs.items() if n in names}, X)
    # the twin is built without running statistics: those of ours start elsewhere, at the first norm
    assert result.first == "bn1"
    for ours, m in zip(norms(model), (m for m in twin.modules() if isinstance(m, kinds[1])), strict=True):
        m.running_mean, m.running_var = torch.tensor(ours.mean.data), torch.tensor(ours.var.data)
        m.eps = 1e-3
    result = compare(model, {names[n]: y for n, y in torch_activations(twin, X).items() if n in names}, X)
    assert result.first == "bn1"
    assert "epsilon is 0.001" in result.cause
    for m in twin.modules():
        if isinstance(m, kinds[1]):
            m.eps = 1e-5
    result = compare(model, {names[n]: y for n, y in torch_activations(twin, X).items() if n in names}, X)
    assert result.first is None
    assert len(result.rows) == len(convs)


def test_against_keras(tmp_path):
    """keras.applications' names are ours of v1; logits meet logits, without the softmax."""
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    from minires.weights import import_weights

    twin = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=5)
    x = np.random.default_rng(3).random((2, 32, 32, 3), np.float32)
    twin.save_weights(tmp_path / "a.weights.h5")
    model = resnet("resnet50", (32, 32, 3), 5, variant="v1")
    import_weights(model, tmp_path / "a.weights.h5")
    result = compare(model, keras_activations(twin, x), x)
    assert result.first is None, result
    assert {"conv1_conv", "conv5_block3_3_bn", "predictions"} <= {row.name for row in result.rows}
    assert twin.layers[-1].activation is keras.activations.softmax
    layer(model, "conv4_block2_1_bn").epsilon = 1e-3
    result = compare(model, keras_activations(twin, x), x)
    assert result.first == "conv4_block2_1_bn"
    assert "here 0.001" in result.cause
