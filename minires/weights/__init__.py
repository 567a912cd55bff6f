"""Weights from and for other worlds: Keras, PyTorch, ONNX; and what explains a difference between two networks.

report = import_weights(model, "resnet50.safetensors")
export_weights(model, "resnet50.weights.h5")
print(compare(model, torch_activations(twin, x), x))
"""

import os
from pathlib import Path

from minires.errors import ConfigError
from minires.nn import ResNet
from minires.weights.compare import (
    Comparison,
    activations,
    compare,
    keras_activations,
    load_activations,
    torch_activations,
)
from minires.weights.keras import read_keras, write_keras
from minires.weights.mapping import ImportReport, fit
from minires.weights.onnx import to_onnx, write_onnx
from minires.weights.presets import PRESETS, Preset
from minires.weights.torch import file_kind, read_torch, state_dict, write_npz, write_safetensors

__all__ = [
    "PRESETS",
    "Comparison",
    "ImportReport",
    "Preset",
    "activations",
    "compare",
    "export_weights",
    "import_weights",
    "keras_activations",
    "load_activations",
    "state_dict",
    "to_onnx",
    "torch_activations",
]

WRITERS = {".weights.h5": write_keras, ".safetensors": write_safetensors, ".npz": write_npz, ".onnx": write_onnx}


def import_weights(model: ResNet, path: str | os.PathLike, *, skip_head: bool = False) -> ImportReport:
    """Load weights that Keras or PyTorch wrote into `model`, in place and in its precision.

    What the file is, its content tells. Every array must have its place, else CheckpointError and the model is
    as it was. `skip_head` leaves the classifier alone, for a file with other classes or with none.
    """
    path = Path(path)
    found = read_torch(path) if file_kind(path) else read_keras(path, model)
    return fit(model, found, path, skip_head=skip_head)


def export_weights(model: ResNet, path: str | os.PathLike) -> None:
    """Write as the name ends: .weights.h5 (Keras 3), .safetensors or .npz (PyTorch), .onnx (the whole network)."""
    path = Path(path)
    for suffix, write in WRITERS.items():
        if path.name.endswith(suffix):
            return write(model, path)
    raise ConfigError(f"{path}: the name must end in one of {', '.join(WRITERS)}: they say what to write")
