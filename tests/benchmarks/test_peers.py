"""Peers of inference compute what minires computes, in the way that the benchmarks say they do."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from demand import on_demand
from minires.benchmarks import contenders
from minires.benchmarks.peers import to_onnx_nchw

from minires import resnet
from minires.nn import BatchNorm, inference

pytestmark = pytest.mark.slow

OPTIONS = {"arch": "resnet8", "size": 16, "batch": 2, "optimizer": "adam", "threads": None}


def trained_like(arch, size):
    """A network whose normalisations do something in evaluation mode."""
    model, rng = resnet(arch, (size, size, 3), 6), np.random.default_rng(0)
    for norm in (m for m in model.modules() if isinstance(m, BatchNorm)):
        for v, low in ((norm.gamma, 0.5), (norm.beta, -0.5), (norm.mean, -0.5), (norm.var, 0.5)):
            v.data[...] = low + rng.random(v.data.shape)
    return model


def logits_of(model, x):
    with inference(model):
        return model.forward(x)


def session_of(proto, **settings):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("arch", "size", "batch"), [("resnet50", 64, 1), ("resnet20", 32, 3)])
def test_onnxruntimes_logits_are_ours(arch, size, batch):
    """The head of one flattens a map, whose order differs; that of the other averages it."""
    pytest.importorskip("onnx")
    model = trained_like(arch, size)
    session = session_of(to_onnx_nchw(model, batch))
    (images,) = session.get_inputs()
    assert images.shape == [batch, 3, size, size]
    x = np.random.default_rng(1).standard_normal((batch, size, size, 3), np.float32)
    (logits,) = session.run(None, {images.name: x.transpose(0, 3, 1, 2).copy()})
    expected = logits_of(model, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_contender_is_that_network_on_that_batch():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    x, _ = contenders.batch(OPTIONS)
    expected = logits_of(contenders.network(OPTIONS), x)
    logits = contenders.build_onnxruntime("inference", OPTIONS)()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("arch", "size"), [("resnet50", 64), ("resnet20", 32)])
def test_onnxruntime_convolves_directly_in_blocks_of_channels(arch, size, tmp_path):
    """On x86; benchmarks/README.md says so."""
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "optimised.onnx"
    model = resnet(arch, (size, size, 3), 6)
    session_of(to_onnx_nchw(model, 1), optimized_model_filepath=str(path), log_severity_level=3)
    nodes = onnx.load(path).graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == {"resnet50": 53, "resnet20": 21}[arch]
    if os.uname().machine == "x86_64":
        assert {node.domain for node in convolutions} == {"com.microsoft.nchwc"}
    assert not {"Transpose", "BatchNormalization", "Relu", "Add"} & {node.op_type for node in nodes}  # all fused


WATCHED = """
import json, sys
import numpy as np
from minires.benchmarks import contenders
name, task, options, path = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
how = {"channels_last": name != "torch", "compiled": name == "torch_compile"}
np.save(path, contenders.build_torch(task, options, **how)().numpy())
"""


@pytest.fixture
def convolutions_of(tmp_path):
    """A function: what oneDNN says of each convolution of a contender in PyTorch, and the call's result."""
    pytest.importorskip("torch")
    if os.uname().machine != "x86_64":
        pytest.skip("PyTorch convolves by oneDNN on x86")

    def run(name, task):
        path, arguments = tmp_path / "result.npy", [name, task, json.dumps(OPTIONS)]
        told = subprocess.run(
            [sys.executable, "-c", WATCHED, *arguments, str(path)],
            env=os.environ | {"ONEDNN_VERBOSE": "1"},
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stderr
        return [line for line in told.stdout.splitlines() if ",exec,cpu,convolution," in line], np.load(path)

    return run


@on_demand
@pytest.mark.parametrize("name", ["torch", "torch_channels_last"])
def test_pytorch_does_not_use_winograds_algorithm(convolutions_of, name):
    """Nor anything beside oneDNN: each of the nine convolutions is there, forward and twice backward."""
    found, _ = convolutions_of(name, "training")
    assert len(found) == 9 + 9 + 8
    assert not any("wino" in line for line in found)


@on_demand
def test_a_compiled_inference_is_folded_and_fused(convolutions_of):
    """Its weights are frozen: ReLU and the shortcuts' sums are left to oneDNN, and the logits are ours."""
    if not contenders.compiler():
        pytest.skip("no C++ compiler")
    found, logits = convolutions_of("torch_compile", "inference")
    assert len(found) == 9
    assert sum("eltwise_relu" in line for line in found) == 7  # all but the two projections
    assert sum("sum" in line for line in found) == 3  # a block
    x, _ = contenders.batch(OPTIONS)
    np.testing.assert_allclose(logits, logits_of(contenders.network(OPTIONS), x), rtol=1e-3, atol=1e-4)
