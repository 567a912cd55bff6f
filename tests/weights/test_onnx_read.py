"""ONNX files that others exported: read as PyTorch and onnxruntime predict, or refused in one line."""

import numpy as np
import pytest
from data_helpers import assert_one_line
from torch_peers import CLASSES, KINDS, WIDTHS, torchvision_resnet

from minires import nn, resnet
from minires.errors import CheckpointError
from minires.weights import export_weights, import_classifier, import_weights, read_use

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
helper, tensor_of = onnx.helper, onnx.numpy_helper.from_array


def network(arch="resnet18", **options):
    return resnet(arch, (32, 32, 3), CLASSES, **{"variant": "v1.5", "widths": WIDTHS, "seed": 3} | options)


def export(path, arch="resnet18", folded=False):
    """As torch.onnx.export writes it."""
    torch = pytest.importorskip("torch")
    twin = torchvision_resnet(torch, *KINDS[arch], widths=WIDTHS)
    kept = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(twin, torch.zeros(1, 3, 32, 32), path, dynamo=False, **({} if folded else kept))
    return path


def predict(path, model, channels_last=False):
    """(what onnxruntime says, what the model does) of the same images."""
    x = np.random.default_rng(1).standard_normal((1, 32, 32, 3)).astype(np.float32)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: x if channels_last else x.transpose(0, 3, 1, 2)})
    with nn.inference(model):
        return expected, model(x)


def assert_predicts_alike(path, model, **options):
    expected, got = predict(path, model, **options)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("folded", [False, True])
def test_torch_onnx_export(arch, folded, tmp_path):
    """With batch normalisation as it is, and folded away, as is usual: that is said."""
    path = export(tmp_path / "net.bin", arch, folded)
    assert read_use(path) is None
    classifier, report = import_classifier(path, network(arch))
    assert report.kind == "ONNX of pytorch"
    assert set(report.mapped) == set(classifier.model.state())
    assert any("names are not ours" in note for note in report.notes)
    assert any("folded batch normalisation" in note for note in report.notes) == folded
    assert_predicts_alike(path, classifier.model)


@pytest.mark.filterwarnings("ignore")
def test_what_was_folded_goes_into_networks_with_and_without_normalisation(tmp_path):
    """Also into one with a bias in each convolution, and one that has nothing but these."""
    path = export(tmp_path / "net.onnx", folded=True)
    for options in ({"norm": True}, {"norm": False}):
        model = network(**options)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.b = nn.module.Param(f"{layer.name}.b", np.ones(layer.w.data.shape[-1], np.float32))
        import_weights(model, path)
        assert_predicts_alike(path, model)


@pytest.mark.filterwarnings("ignore")
def test_another_stride_or_epsilon_is_told(tmp_path):
    model = network("resnet50")
    model.layers[0].layers[1].epsilon = 1e-3
    first, second = (next(m for m in model.modules() if m.name == f"layer2.0.conv{i}") for i in (1, 2))
    first.stride, second.stride = second.stride, first.stride
    notes = import_weights(model, export(tmp_path / "net.onnx", "resnet50")).notes
    assert any(note.startswith("warning: layer2.0.conv1 has stride (1, 1) in the file") for note in notes)
    assert any(note.startswith("warning: bn1 has epsilon 1e-05 in the file") for note in notes)


class Converter:
    """Writes a network of ours as tf2onnx does: channels last at both ends, MatMul and Add, shortcuts first."""

    def __init__(self, model):
        self.nodes, self.weights, self.model = [], [], model

    def node(self, op, inputs, **attributes):
        name = f"StatefulPartitionedCall/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def constant(self, array):
        name = f"const__{len(self.weights)}"
        self.weights.append(tensor_of(np.ascontiguousarray(array), name))
        return name

    def emit(self, layers, x):
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                kernel = self.constant(layer.w.data.transpose(3, 2, 0, 1))
                pad = layer.w.data.shape[0] // 2
                x = self.node("Conv", [x, kernel], pads=[pad] * 4, strides=layer.stride)
                if layer.b is not None:
                    x = self.node("Add", [self.constant(layer.b.data.reshape(1, -1, 1, 1)), x])
            elif isinstance(layer, nn.BatchNorm):
                inputs = [self.constant(v.data) for v in (layer.gamma, layer.beta, layer.mean, layer.var)]
                x = self.node("BatchNormalization", [x, *inputs], epsilon=layer.epsilon)
            elif isinstance(layer, nn.ReLU):
                x = self.node("Relu", [x])
        return x

    def write(self, path):
        x = self.node("Transpose", ["input"], perm=[0, 3, 1, 2])
        stem, *stages, _, dense = self.model.layers
        x = self.emit(stem.layers, x)
        for block in (b for stage in stages for b in stage.layers):
            skip = x if block.shortcut == nn.Block.IDENTITY else self.emit(block.shortcut.layers, x)
            x = self.node("Relu", [self.node("Add", [skip, self.emit(block.branch.layers, x)])])
        x = self.node("Transpose", [x], perm=[0, 2, 3, 1])
        x = self.node("ReduceMean", [x], axes=[1, 2], keepdims=0)
        x = self.node("MatMul", [x, self.constant(dense.w.data)])
        self.node("Add", [x, self.constant(dense.b.data)])
        self.nodes[-1].output[0] = "logits"
        floats = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "tf2onnx",
            [helper.make_tensor_value_info("input", floats, ["N", 32, 32, 3])],
            [helper.make_tensor_value_info("logits", floats, ["N", CLASSES])],
            self.weights,
        )
        opset = [helper.make_opsetid("", 13)]
        onnx.save(helper.make_model(graph, producer_name="tf2onnx", ir_version=8, opset_imports=opset), path)
        return path


def stirred(model):
    rng = np.random.default_rng(0)
    for v in model.params() + model.buffers():
        v.data += (0.2 * rng.random(v.data.shape)).astype(np.float32)
    return model


def test_a_graph_as_tf2onnx_writes_it(tmp_path):
    source = stirred(network("resnet20", widths=(4, 6, 8)))
    path = Converter(source).write(tmp_path / "net.onnx")
    model = network("resnet20", widths=(4, 6, 8), seed=4)
    assert import_weights(model, path).kind == "ONNX of tf2onnx"
    assert all(np.array_equal(array, model.state()[name]) for name, array in source.state().items())
    assert_predicts_alike(path, model, channels_last=True)


def test_a_map_that_is_flattened_in_either_order(tmp_path):
    """Ours run (H, W, C); a file has (C, H, W) unless it turned the map before."""
    model = stirred(resnet("resnet18", (128, 128, 3), 4, widths=WIDTHS))
    export_weights(model, tmp_path / "ours.onnx")
    proto = onnx.load(tmp_path / "ours.onnx")
    proto.ClearField("metadata_props")
    for i, node in enumerate(proto.graph.node):
        node.name = f"n{i}"
    onnx.save(proto, tmp_path / "theirs.onnx")
    head = next(node for node in proto.graph.node if node.op_type == "Gemm")
    flatten = next(node for node in proto.graph.node if node.op_type == "Flatten")
    turn = helper.make_node("Transpose", [flatten.input[0]], ["turned"], perm=[0, 2, 3, 1])
    flatten.input[0] = "turned"
    proto.graph.node.insert(list(proto.graph.node).index(flatten), turn)
    kernel = next(w for w in proto.graph.initializer if w.name == head.input[1])
    kernel.CopyFrom(tensor_of(np.ascontiguousarray(model.layers[-1].w.data.T), kernel.name))
    onnx.save(proto, tmp_path / "turned.onnx")
    for name in ("theirs.onnx", "turned.onnx"):
        other = resnet("resnet18", (128, 128, 3), 4, widths=WIDTHS, seed=1)
        import_weights(other, tmp_path / name)
        assert all(np.array_equal(array, other.state()[n]) for n, array in model.state().items()), name


def test_numbers_beside_the_file(tmp_path):
    """As large exports have them: read from a file of a plain name beside it, and from nowhere else."""
    model = stirred(network())
    export_weights(model, tmp_path / "one.onnx")
    proto = onnx.load(tmp_path / "one.onnx")
    proto.ClearField("metadata_props")
    path = tmp_path / "two.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="two.data", size_threshold=0, convert_attribute=False)
    other = network(seed=4)
    import_weights(other, path)
    assert all(np.array_equal(array, other.state()[name]) for name, array in model.state().items())
    (tmp_path / "two.data").write_bytes((tmp_path / "two.data").read_bytes()[:500])
    refused(path, other, "that two.data does not hold")
    (tmp_path / "two.data").rename(tmp_path / "secret")
    (tmp_path / "two.data").symlink_to(tmp_path / "secret")
    refused(path, other, "refers to another file ('two.data')")
    changed = onnx.load(path, load_external_data=False)
    next(e for e in changed.graph.initializer[0].external_data if e.key == "location").value = "../secret"
    path.write_bytes(changed.SerializeToString())
    refused(path, other, "refers to another file ('../secret')")


def refused(path, model, *words):
    before = {name: array.copy() for name, array in model.state().items()}
    with pytest.raises(CheckpointError) as error:
        import_weights(model, path)
    assert_one_line(error, path, *words)
    assert all(np.array_equal(array, before[name]) for name, array in model.state().items())


def test_what_is_no_float_network_or_another_one(tmp_path):
    nodes = [helper.make_node("QLinearConv", ["x"] * 8, ["y"])]
    proto = helper.make_model(helper.make_graph(nodes, "q", [], []), producer_name="onnx.quantize")
    (tmp_path / "q.onnx").write_bytes(proto.SerializeToString())
    refused(tmp_path / "q.onnx", network(), "without weights of Conv", "QLinearConv")
    path = Converter(stirred(network("resnet20", widths=(4, 6, 8)))).write(tmp_path / "net.onnx")
    refused(path, network(), "ONNX of tf2onnx for another network than resnet18 (v1.5)")
    path.write_bytes(path.read_bytes()[:3000])
    refused(path, network(), "a damaged ONNX file")
