"""Weights out of ONNX files, ours and those that others exported: the nodes that hold weights, in the order they run.

Initializers are taken at the node that reads them, through Identity, Constant and Transpose; a bias may come behind its
MatMul or Conv in an Add of its own. Where an exporter folded batch normalisation away, order.py makes up for it.
"""

from pathlib import Path

import numpy as np

from minires.errors import CheckpointError, ConfigError
from minires.nn import Flatten, Network
from minires.seal import sealed
from minires.weights.archives import understood
from minires.weights.found import Found
from minires.weights.torch import from_torch_layout
from minires.weights.use import KEY

PRODUCER = "minires"
MAX_BYTES = 2**31  # of what protobuf can hold, and of a file beside it


def package():
    """The module onnx."""
    try:
        import onnx
    except ImportError:
        raise ConfigError("ONNX needs the package onnx: pip install 'minires[onnx]'") from None
    return onnx


def _open(path: Path):
    """The ModelProto."""
    whole = sealed(path)
    proto = package().load_model_from_string(path.read_bytes())  # no file that it refers to is opened
    if not whole and any(entry.key in ("seal", KEY) for entry in proto.metadata_props):
        raise CheckpointError(f"{path}: the seal that it was written with is damaged: use another copy")
    return proto


def onnx_use(path: Path) -> str | None:
    """What the file carries along of use.py, as text."""
    with understood(path, "ONNX"):
        return next((entry.value for entry in _open(path).metadata_props if entry.key == KEY), None)


def read_onnx(path: Path, model: Network | None = None) -> Found:
    """The arrays of an ONNX file in the order of its graph; the model says how its map is flattened."""
    with understood(path, "ONNX"):
        proto = _open(path)
        found = Found(f"ONNX of {proto.producer_name or 'an unnamed program'}", ordered=True)
        graph = _Graph(proto.graph, path)
        for node in proto.graph.node:
            graph.take(node, found)
        if proto.producer_name == PRODUCER:  # what other layers of ours hold stands under its name
            graph.take_named(found)
        if not found.arrays:
            operators = sorted({node.op_type for node in proto.graph.node})
            raise CheckpointError(
                f"{path}: an ONNX file without weights of Conv, BatchNormalization, Gemm or MatMul (it has "
                f"{', '.join(operators)[:80] or 'nothing'}): give the float network that it was made from"
            )
        if graph.flat and model is not None:
            _unflatten(model, found, graph.flat)
    return found


def _unflatten(model: Network, found: Found, layer: str) -> None:
    """The dense kernel behind a flattened map: ONNX's run (C, H, W), ours (H, W, C)."""
    shape = model.input_shape
    for own in model.layers:
        name, array = f"{layer}.w", found.arrays[f"{layer}.w"]
        if isinstance(own, Flatten) and np.prod(shape) == array.shape[0]:
            H, W, C = shape
            found.arrays[name] = array.reshape(C, H, W, -1).transpose(1, 2, 0, 3).reshape(array.shape)
        shape = own.output_shape(shape)


class _Graph:
    """Constants by name, and who reads what."""

    def __init__(self, graph, path: Path):
        self.path, self.flat = path, None  # flat: the first dense layer behind a map in ONNX's order
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.made = {out: node for node in graph.node for out in node.output}
        self.readers: dict[str, list] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def array(self, name: str, depth: int = 0) -> np.ndarray | None:
        """The constant of this name; None for what is computed from the images."""
        onnx = package()
        if name in self.tensors:
            return self._numbers(self.tensors[name])
        node = self.made.get(name)
        if node is None or depth > 8:
            return None
        attributes = {a.name: a for a in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            return self._numbers(attributes["value"].t)
        if node.op_type not in ("Identity", "Transpose"):
            return None
        array = self.array(node.input[0], depth + 1)
        if array is None or node.op_type == "Identity":
            return array
        return array.transpose(onnx.helper.get_attribute_value(attributes["perm"]) if "perm" in attributes else None)

    def _numbers(self, tensor) -> np.ndarray:
        if tensor.data_location:
            tensor = self._beside(tensor)
        array = package().numpy_helper.to_array(tensor)
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    def _beside(self, tensor):
        """A tensor whose numbers stand in a file beside this one, of a plain name."""
        words = {entry.key: entry.value for entry in tensor.external_data}
        name = words.get("location", "")
        other = self.path.parent / name
        if name != Path(name).name or other.is_symlink() or not other.is_file():
            raise CheckpointError(
                f"{self.path}: {tensor.name} refers to another file ({name!r}), and none of that name is beside it: "
                "put it there, or give a file that holds its numbers"
            )
        start = int(words.get("offset", 0))
        size = int(words.get("length", other.stat().st_size - start))
        if not 0 <= start <= start + size <= min(other.stat().st_size, start + MAX_BYTES):
            raise CheckpointError(f"{self.path}: {tensor.name} refers to numbers that {other.name} does not hold")
        with other.open("rb") as raw:
            raw.seek(start)
            content = raw.read(size)
        whole = package().TensorProto()
        whole.CopyFrom(tensor)
        whole.ClearField("external_data")
        whole.ClearField("data_location")
        whole.raw_data = content
        return whole

    def take(self, node, found: Found) -> None:
        """Add the weights that a node reads."""
        arrays = [(role, name) for role, name in zip(_ROLES.get(node.op_type, ()), node.input, strict=False) if role]
        held = {role: (name, self.array(name)) for role, name in arrays if name}
        if node.op_type == "MatMul" and held["w"][1] is not None and held["w"][1].ndim != 2:
            return
        if not held or any(array is None for _, array in held.values()):
            return
        facts = {a.name: package().helper.get_attribute_value(a) for a in node.attribute}
        layer = node.name or node.output[0]
        if node.op_type in ("Conv", "MatMul") and "b" not in held:
            held |= self._bias_behind(node, held["w"][1])
        for role, (name, array) in held.items():
            found.add(f"{layer}.{role}", self._ours(node.op_type, role, array, facts), name)
        if node.op_type == "Conv":
            found.stated[layer] = {"stride": tuple(facts.get("strides", (1, 1)))}
        elif node.op_type == "BatchNormalization":
            found.stated[layer] = {"epsilon": facts.get("epsilon", 1e-5)}
        elif self.flat is None and node.op_type in ("Gemm", "MatMul") and self._channels_first(node.input[0]):
            self.flat = layer

    def take_named(self, found: Found) -> None:
        """Add all numbers that no node took, under their own names."""
        taken = set(found.origin.values())
        for name, tensor in self.tensors.items():
            if name not in taken and tensor.data_type != package().TensorProto.INT64:  # margins, axes
                found.add(name, from_torch_layout(self._numbers(tensor)), name)

    def _ours(self, operator: str, role: str, array, facts) -> np.ndarray:
        """In our layout, with what Gemm multiplies by."""
        if operator == "Gemm" and facts.get("alpha" if role == "w" else "beta", 1.0) != 1:
            array = array * array.dtype.type(facts["alpha" if role == "w" else "beta"])
        if role == "w" and (operator == "Conv" or facts.get("transB")):
            return from_torch_layout(array)
        return array

    def _bias_behind(self, node, kernel) -> dict[str, tuple]:
        """What the next node adds to every output alike."""
        outputs = kernel.shape[0 if node.op_type == "Conv" else -1]
        after = self.readers.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type != "Add":
            return {}
        for name in after[0].input:
            array = self.array(name)
            if array is not None and array.size == outputs and outputs in array.shape:
                return {"b": (name, array.reshape(-1))}
        return {}

    def _channels_first(self, value: str) -> bool:
        """Whether a flattened map is on the way to `value` that nobody turned to channels last."""
        node = self.made.get(value)
        while node is not None and node.op_type not in ("Conv", "Transpose"):
            node = self.made.get(node.input[0]) if node.input else None
        return node is None or node.op_type == "Conv"


_ROLES = {
    "Conv": (None, "w", "b"),
    "BatchNormalization": (None, "gamma", "beta", "mean", "var"),
    "Gemm": (None, "w", "b"),
    "MatMul": (None, "w"),
}
