"""ONNX: the network in evaluation mode, for any runtime and for a look at it in Netron; and back (onnx_read.py).

The public input stays NHWC, as everywhere here; one Transpose at the front leads to ONNX's NCHW. Needs the extra
`onnx`.
"""

import re
from pathlib import Path

import numpy as np

from minires import __version__
from minires.backend import to_numpy
from minires.files import atomic_path
from minires.nn import Buffer, Module, Network, Param, walk
from minires.seal import BLANK, seal
from minires.weights.onnx_read import PRODUCER, package
from minires.weights.torch import to_torch_layout
from minires.weights.use import KEY

OPSET = 17  # the last before operators changed that older runtimes lack
IR_VERSION = 8


def write_onnx(model: Network, path: Path, use: str = "") -> None:
    """Write the checked model; input `images` (N, H, W, C) float32, preprocessed, output `logits` (N, K)."""
    proto = to_onnx(model)
    if use:
        proto.metadata_props.add(key=KEY, value=use)
    proto.metadata_props.add(key="seal", value=BLANK)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        seal(temporary)


def to_onnx(model: Network):
    """The onnx.ModelProto, passed by onnx.checker."""
    onnx = package()
    graph = _Graph(onnx)
    x = graph.node("Transpose", "to_nchw", ["images"], perm=[0, 3, 1, 2])
    walk(model, graph.emit, (x, model.input_shape))
    graph.nodes[-1].output[0] = "logits"
    tensor, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            re.sub(r"\W+", "_", model.title),
            [tensor("images", kind, ["N", *model.input_shape])],
            [tensor("logits", kind, ["N", model.classes])],
            graph.weights,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
        producer_version=__version__,
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


class _Graph:
    """Nodes and weights as they gather; a value is called like the node that gives it."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.weights = onnx, [], []

    def node(self, op: str, name: str, inputs: list[str], **attributes) -> str:
        """Add a node; returns its value's name."""
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, array) -> str:
        """Add an array that belongs to the network; returns its name."""
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def hold(self, *held: Param | Buffer | None) -> list[str]:
        """Add parameters and buffers in PyTorch's layout; the names of those that there are."""
        arrays = ((v.name, to_torch_layout(to_numpy(v.data))) for v in held if v is not None)
        return [self.constant(name, array.astype(np.float32)) for name, array in arrays]

    def emit(self, layer: Module, *inputs: tuple[str, tuple]) -> tuple[str, tuple]:
        """Nodes for `layer` on values and their shapes, without the batch; the value and the shape that it gives."""
        values, shapes = zip(*inputs, strict=True)
        one = len(inputs) == 1
        value = layer.onnx(self, values[0] if one else values, shapes[0] if one else shapes)
        return value, layer.output_shape(*shapes)

    def window(self, kernel, stride, pads, dilation=(1, 1)) -> dict:
        """The attributes of a sliding window; padding in full."""
        (top, bottom), (left, right) = pads
        dilated = {} if dilation == (1, 1) else {"dilations": dilation}
        return {"kernel_shape": kernel, "strides": stride, "pads": [top, left, bottom, right]} | dilated

    def pad(self, name: str, x: str, pads) -> str:
        """Zeros around the map x; padding in full."""
        (top, bottom), (left, right) = pads
        margins = self.constant(f"{name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
        return self.node("Pad", name, [x, margins])

    def number(self, name: str, value) -> str:
        """Add a number, or several, that are no part of the network's state; returns the name."""
        tensor = self.onnx.numpy_helper.from_array(np.asarray(value, np.float32), name)
        return self.node("Constant", name, [], value=tensor)
