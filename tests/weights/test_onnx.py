"""The exported graph in onnxruntime against ours, for every kind of network that we build."""

import numpy as np
import pytest

from minires import nn, resnet
from minires.errors import ConfigError
from minires.weights import export_weights, to_onnx

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
