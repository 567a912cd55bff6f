"""ONNX: the network in evaluation mode, for any runtime and for a look at it in Netron; and back (onnx_read.py).

The public input stays NHWC, as everywhere here; one Transpose at the front leads to ONNX's NCHW. Needs the extra
`onnx`.
"""

from pathlib import Path

import numpy as np

from minires import __version__
from minires.backend import to_numpy
from minires.errors import ConfigError
from minires.files import atomic_path
from minires.geometry import resolve_padding
from minires.nn import (
    AvgPool2d,
    BatchNorm,
    Block,
    Conv2d,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    ReLU,
    ResNet,
    Sequential,
    ZeroPad2d,
)
from minires.seal import BLANK, seal
from minires.weights.onnx_read import package
from minires.weights.torch import to_torch_layout
from minires.weights.use import KEY

OPSET = 17  # the last before operators changed that older runtimes lack
IR_VERSION = 8
PRODUCER = "minires"


def write_onnx(model: ResNet, path: Path, use: str = "") -> None:
    """Write the checked model; input `images` (N, H, W, C) float32, preprocessed, output `logits` (N, K)."""
    proto = to_onnx(model)
    if use:
        proto.metadata_props.add(key=KEY, value=use)
    proto.metadata_props.add(key="seal", value=BLANK)
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        seal(temporary)


def to_onnx(model: ResNet):
    """The onnx.ModelProto, passed by onnx.checker."""
    onnx = package()
    graph = _Graph(onnx)
    shape = model.config.input_shape
    x = graph.node("Transpose", "to_nchw", ["images"], perm=[0, 3, 1, 2])
    for layer in model.layers:
        x, shape = graph.emit(layer, x, shape)
    graph.nodes[-1].output[0] = "logits"
    tensor, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            f"{model.config.arch}_{model.config.variant}",
            [tensor("images", kind, ["N", *model.config.input_shape])],
            [tensor("logits", kind, ["N", model.config.classes])],
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
        self.flattened = None  # (H, W, C) of a map that was flattened, until a dense layer reads it

    def node(self, op: str, name: str, inputs: list[str], **attributes) -> str:
        """Add a node; returns its value's name."""
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, array) -> str:
        """Add an array that belongs to the network; returns its name."""
        self.weights.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, v, array=None) -> str:
        array = to_torch_layout(to_numpy(v.data)) if array is None else array
        return self.constant(v.name, array.astype(np.float32))

    def emit(self, layer, x: str, shape: tuple) -> tuple[str, tuple]:
        """Nodes for `layer` on the value x of this shape (H, W, C); the value and the shape that it gives."""
        match layer:
            case Sequential():
                for inner in layer.layers:
                    x, shape = self.emit(inner, x, shape)
                return x, shape
            case Block():
                return self.block(layer, x, shape), layer.output_shape(shape)
            case Conv2d():
                kernel = layer.w.data.shape[:2]
                inputs = [x, *(self.weight(v) for v in (layer.w, layer.b) if v is not None)]
                x = self.node("Conv", layer.name, inputs, **_window(kernel, layer.stride, layer.pad, shape))
            case BatchNorm():
                inputs = [x, *map(self.weight, (layer.gamma, layer.beta, layer.mean, layer.var))]
                x = self.node("BatchNormalization", layer.name, inputs, epsilon=layer.epsilon)
            case ReLU():
                x = self.node("Relu", layer.name, [x])
            case ZeroPad2d():
                (top, bottom), (left, right) = resolve_padding(layer.pad, shape[:2], (1, 1), (1, 1))
                pads = self.constant(f"{layer.name}.pads", np.array([0, 0, top, left, 0, 0, bottom, right]))
                x = self.node("Pad", layer.name, [x, pads])
            case MaxPool2d():
                x = self.node("MaxPool", layer.name, [x], **_window(layer.kernel, layer.stride, layer.pad, shape))
            case AvgPool2d():
                window = _window(layer.kernel, layer.stride, layer.pad, shape)
                x = self.node("AveragePool", layer.name, [x], count_include_pad=1, **window)
            case GlobalAvgPool2d():
                x = self.node("GlobalAveragePool", layer.name, [x])
                x = self.node("Flatten", f"{layer.name}.flatten", [x])
            case Flatten():
                x, self.flattened = self.node("Flatten", layer.name, [x]), shape
            case Dense():
                inputs = [x, self.weight(layer.w, self.dense_kernel(layer))]
                inputs += [] if layer.b is None else [self.weight(layer.b)]
                x = self.node("Gemm", layer.name, inputs, transB=1)
            case Dropout():
                pass  # nothing is dropped in evaluation
            case _:
                raise ConfigError(f"{layer.name}: no ONNX operator is known for {type(layer).__name__}")
        return x, layer.output_shape(shape)

    def block(self, block: Block, x: str, shape: tuple) -> str:
        """Both paths and their sum."""
        h, inner = (x, shape) if block.before is None else self.emit(block.before, x, shape)
        y, out = self.emit(block.branch, h, inner)
        if block.shortcut is not None:
            shortcut = x if block.shortcut == Block.IDENTITY else self.emit(block.shortcut, h, inner)[0]
            y = self.node("Add", block.add.name, [y, shortcut])
        return y if block.after is None else self.emit(block.after, y, out)[0]

    def dense_kernel(self, layer: Dense) -> np.ndarray:
        """(O, C). Our flattened maps run (H, W, C), ONNX's (C, H, W): the columns move instead of the data."""
        w = to_numpy(layer.w.data)
        if self.flattened is not None:
            w = w.reshape(*self.flattened, -1).transpose(2, 0, 1, 3).reshape(w.shape)
            self.flattened = None
        return w.T


def _window(kernel, stride, pad, shape) -> dict:
    """ONNX's attributes of a sliding window."""
    (top, bottom), (left, right) = resolve_padding(pad, shape[:2], kernel, stride)
    return {"kernel_shape": kernel, "strides": stride, "pads": [top, left, bottom, right]}
