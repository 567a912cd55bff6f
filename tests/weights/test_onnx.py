"""The exported graph in onnxruntime against ours, for every kind of network that we build."""

import numpy as np
import pytest

from minires import nn, resnet
from minires.errors import ConfigError
from minires.weights import export_weights, to_onnx
from minires.weights.onnx_read import read_onnx

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

NARROW = {"widths": (4, 6, 8, 10)}
NETWORKS = {
    "resnet50 course, full size": ("resnet50", (64, 64, 3), {}),
    "resnet50 course, map flattened": ("resnet50", (128, 192, 3), NARROW),
    "resnet50 v1": ("resnet50", (64, 64, 3), {"variant": "v1", **NARROW}),
    "resnet50 v1.5": ("resnet50", (64, 64, 3), {"variant": "v1.5", **NARROW}),
    "resnet18 odd size": ("resnet18", (57, 75, 3), {"variant": "v1.5", **NARROW}),
    "resnet34 course": ("resnet34", (64, 64, 3), NARROW),
    "resnet8": ("resnet8", (16, 16, 3), {}),
    "resnet8 grey": ("resnet8", (16, 16, 1), {}),
    "plain": ("resnet50", (64, 64, 3), {"skip": False, **NARROW}),
    "preact": ("resnet50", (64, 64, 3), {"preact": True, **NARROW}),
    "preact v1.5": ("resnet18", (32, 32, 3), {"preact": True, "variant": "v1.5", **NARROW}),
    "no norm": ("resnet8", (16, 16, 3), {"norm": False}),
    "dropout": ("resnet8", (16, 16, 3), {"dropout": 0.5}),
}


def stirred(arch, shape, options):
    model = resnet(arch, shape, 5, **options)
    rng = np.random.default_rng(0)
    for v in model.params() + model.buffers():
        if v.data.ndim == 1:
            v.data += 0.2 * rng.random(v.data.shape, np.float32)
    return model


def run(path, x):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": x})[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_same_logits(name, tmp_path):
    """Relative to the largest logit; the batch size is free."""
    arch, shape, options = NETWORKS[name]
    model = stirred(arch, shape, options)
    export_weights(model, tmp_path / "a.onnx")
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, *shape)).astype(np.float32)
        with nn.inference(model):
            expected = model(x)
        assert np.abs(run(tmp_path / "a.onnx", x) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_graph_reads_like_the_network():
    """A Transpose at the front and where a map is flattened; a node for every layer, a weight for each of ours."""
    model = resnet("resnet50", (64, 64, 3), 5, **NARROW)
    graph = to_onnx(model).graph
    operators = [node.op_type for node in graph.node]
    assert operators[0] == "Transpose"
    assert [node.name for node in graph.node if node.op_type == "Transpose"] == ["to_nchw", "flatten.nhwc"]
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    layers = [m.name for m in model.modules() if not m.children()]
    assert set(layers) <= set(names)
    assert {w.name for w in graph.initializer} == {*model.state(), "conv1_pad.pads"}
    assert operators.count("Add") == 16
    (images,), (logits,) = graph.input, graph.output
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ["N", 64, 64, 3]
    assert logits.name == "logits"


def test_float64_is_exported_as_float32(tmp_path):
    model = stirred("resnet8", (16, 16, 3), {})
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    export_weights(model, tmp_path / "a.onnx")
    export_weights(model.astype(np.float64), tmp_path / "b.onnx")
    np.testing.assert_array_equal(run(tmp_path / "a.onnx", x), run(tmp_path / "b.onnx", x))


def test_an_unknown_ending(tmp_path):
    with pytest.raises(ConfigError, match=r"must end in one of .weights.h5, .safetensors, .npz, .pth, .onnx"):
        export_weights(resnet("resnet8", (16, 16, 3), 5), tmp_path / "a.pb")
    assert not list(tmp_path.iterdir())


OWN = {
    "grouped": lambda: nn.Conv2d("conv", 6, 4, 3, stride=2, pad=1, groups=2, bias=True),
    "depthwise, dilated": lambda: nn.Conv2d("conv", 6, 6, (3, 2), pad=(2, 1), dilation=(2, 1), groups=6),
    "same, dilated": lambda: nn.Conv2d("conv", 6, 6, 3, stride=2, pad="same", dilation=2),
    "max": lambda: nn.MaxPool2d("max", 3, 2, 1, dilation=2, ceil_mode=True),
    "average": lambda: nn.AvgPool2d("avg", 3, 2, 1, ceil_mode=True),
    "average, beyond": lambda: nn.AvgPool2d("avg", 4, 3, (1, 2), ceil_mode=True),
    "average of pixels": lambda: nn.AvgPool2d("avg", 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "leaky": lambda: nn.LeakyReLU("leaky", 0.2),
    "sigmoid": lambda: nn.Sigmoid("sigmoid"),
    "gelu": lambda: nn.GELU("gelu"),
    "groups": lambda: nn.GroupNorm("groups", 6, 3, epsilon=0.1),
    "layer": lambda: nn.LayerNorm("layer", 6, epsilon=0.1),
    "layer of rows": lambda: nn.LayerNorm("layer", (12, 6)),
    "layer of maps": lambda: nn.LayerNorm("layer", (13, 12, 6)),
    "depth": lambda: nn.StochasticDepth("depth", 0.5),
    "gated": lambda: nn.Branches("gated", nn.Identity("same"), nn.Sigmoid("sigmoid"), join=nn.Multiply("by")),
    "gated by channels": lambda: nn.Branches(
        "gated", nn.Identity("same"), nn.Sequential(nn.GlobalAvgPool2d("mean"), nn.Sigmoid("s")), join=nn.Multiply("by")
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_every_layer_with_its_settings(name, tmp_path):
    """In a network of its own, whose file comes back with the same weights."""
    layer, shape = OWN[name](), (13, 12, 6)
    C = layer.output_shape(shape)[2]
    head = nn.GlobalAvgPool2d("mean of all"), nn.Dense("fc", C, 5)
    model, rng = nn.Network(layer, *head, input_shape=shape, name="own"), np.random.default_rng(0)
    for p in model.params():
        p.data += 0.2 * rng.standard_normal(p.data.shape).astype(np.float32)
    export_weights(model, tmp_path / "a.onnx")
    x = rng.standard_normal((3, *shape)).astype(np.float32)
    with nn.inference(model):
        expected = model(x)
    assert np.abs(run(tmp_path / "a.onnx", x) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    found = read_onnx(tmp_path / "a.onnx", model).arrays
    assert found.keys() == model.state().keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, model.state()[name])
