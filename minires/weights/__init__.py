"""Weights from and for other worlds: Keras, PyTorch, ONNX; and what explains a difference between two networks.

report = import_weights(model, "resnet50.safetensors")
export_weights(classifier, "photos.safetensors")
classifier, report = import_classifier("photos.safetensors")
print(compare(model, torch_activations(twin, x), x))
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minires.errors import CheckpointError, ConfigError
from minires.nn import Config, Network, ResNet
from minires.train.checkpoint import build, is_checkpoint
from minires.train.classifier import Classifier, Preprocess
from minires.weights.archives import file_kind
from minires.weights.compare import (
    Comparison,
    activations,
    compare,
    keras_activations,
    load_activations,
    torch_activations,
)
from minires.weights.found import Found
from minires.weights.keras import keras_use, read_keras, write_keras
from minires.weights.mapping import ImportReport, fit
from minires.weights.onnx import to_onnx, write_onnx
from minires.weights.onnx_read import onnx_use, read_onnx
from minires.weights.presets import PRESETS, Preset
from minires.weights.torch import (
    read_torch,
    state_dict,
    torch_use,
    write_npz,
    write_pth,
    write_safetensors,
)
from minires.weights.use import PREPROCESS, USUAL, Use, from_text, to_text

__all__ = [
    "PREPROCESS",
    "PRESETS",
    "Comparison",
    "ImportReport",
    "Preset",
    "activations",
    "compare",
    "export_weights",
    "import_classifier",
    "import_weights",
    "is_checkpoint",
    "keras_activations",
    "load_activations",
    "read_use",
    "state_dict",
    "to_onnx",
    "torch_activations",
]

WRITERS = {
    ".weights.h5": write_keras,
    ".safetensors": write_safetensors,
    ".npz": write_npz,
    ".pth": write_pth,
    ".onnx": write_onnx,
}


def import_weights(model: Network, path: str | os.PathLike, *, skip_head: bool = False) -> ImportReport:
    """Load weights that Keras, PyTorch or `export_weights` wrote into `model`, in place and in its precision.

    What the file is, its content tells. Every array must have its place, else CheckpointError and the model is
    as it was. `skip_head` leaves the classifier alone, for a file with other classes or with none.

    >>> theirs, ours = (minires.resnet("resnet8", (16, 16, 3), 6, seed=seed) for seed in (0, 1))
    >>> minires.export_weights(theirs, "theirs.safetensors")
    >>> report = minires.import_weights(ours, "theirs.safetensors")
    >>> all(numpy.array_equal(a, b) for a, b in zip(theirs.state().values(), ours.state().values()))
    True
    """
    path = Path(path)
    return fit(model, read(path, model), path, skip_head=skip_head)


def read(path: Path, model: Network | None = None) -> Found:
    """The arrays in a file of weights of any kind; of a map that is flattened in ONNX only the model knows the size."""
    kind = file_kind(path)
    if kind == ".onnx":
        return read_onnx(path, model)
    return read_torch(path) if kind else read_keras(path)


def read_use(path: str | os.PathLike) -> Use | None:
    """Classes, preprocessing and architecture that a file of weights carries along; None where it does not."""
    path = Path(path)
    kind = file_kind(path)
    words = onnx_use if kind == ".onnx" else torch_use if kind else keras_use
    return from_text(words(path), path)


def import_classifier(
    path: str | os.PathLike,
    model: Network | None = None,
    *,
    skip_head: bool = False,
    preprocess: str | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[Classifier, ImportReport]:
    """A network that is ready to use, from a file of weights; its report says how images will be prepared.

    model: takes the weights; None where the file says itself which network it is of, as those of `export_weights` do.
    preprocess: a name in PREPROCESS; None: the file's own, else what is usual for the variant.
    classes: their names in the order of the outputs; None: the file's own, else numbers.
    CheckpointError as `import_weights`, or where a model is needed.
    """
    path = Path(path)
    use = read_use(path)
    if model is None:
        if use is None or use.config is None:
            raise CheckpointError(
                f"{path}: does not say which network it is of: build it (--arch, --variant, --input, --classes), "
                "as it was trained"
            )
        model = build(use.config, path.stat().st_size)
        if skip_head and isinstance(use.config, Config):
            model = ResNet(use.config)  # only so is there a head to begin with
    report = import_weights(model, path, skip_head=skip_head)
    config = model.config
    if use and not preprocess:
        usual, prepared, note = "file", use.preprocess, f"images will be prepared as the file says: {use.preprocess}"
    else:
        usual = preprocess or USUAL[getattr(config, "variant", "course")]
        prepared = Preprocess(*(numbers[: config.input_shape[2]] for numbers in PREPROCESS[usual]))
        note = f"images will be prepared as '{usual}'"
        if usual == "caffe":
            kernel = next(m for m in model.modules() if hasattr(m, "w")).w.data
            kernel[...] = kernel[:, :, ::-1].copy()
            note += "; those weights expect BGR, so the first kernel's input channels were turned round for RGB"
    notes = []
    if classes is not None:
        if len(set(classes)) != config.classes or len(classes) != config.classes:
            raise ConfigError(f"{path}: {len(classes)} names for {config.classes} classes: name each of them once")
    elif use and len(use.classes) == config.classes and not skip_head:
        classes = use.classes
    else:
        classes = tuple(map(str, range(config.classes)))
        notes += [] if skip_head else [_numbered(config.classes)]
    report = replace(report, notes=(*report.notes, *notes, note), preprocess=usual)
    return Classifier(model, tuple(map(str, classes)), prepared), report


def _numbered(classes: int) -> str:
    """What to know of classes whose names the file does not say."""
    text = f"the file names no classes: they are called 0 to {classes - 1}, in the order of its outputs"
    if classes > 10:
        text += (
            "; folders called 0, 1, 2 ... are sorted as text by Keras and PyTorch (0, 1, 10, 11 ...), by number here: "
            "give the names in their order with --names 0,1,10,11,... (classes=)"
        )
    return text


def export_weights(source: Network | Classifier, path: str | os.PathLike) -> None:
    """Write as the name ends: .weights.h5 (Keras 3), .safetensors, .npz or .pth (PyTorch), .onnx (the whole network).

    source: a classifier, whose preprocessing and classes the file then carries along (use.py), or a bare network.

    >>> minires.export_weights(minires.resnet("resnet8", (16, 16, 3), 6), "net.npz")
    >>> minires.export_weights(minires.resnet("resnet8", (16, 16, 3), 6), "net.pdf")
    Traceback (most recent call last):
    minires.errors.ConfigError: net.pdf: the name must end in one of ...
    """
    path = Path(path)
    model, use = (source.model, to_text(source)) if isinstance(source, Classifier) else (source, "")
    for suffix, write in WRITERS.items():
        if path.name.endswith(suffix):
            return write(model, path, use)
    raise ConfigError(f"{path}: the name must end in one of {', '.join(WRITERS)}: they say what to write")
