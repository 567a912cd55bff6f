"""What a network needs to be used: its classes, its preprocessing, its architecture. Files of weights carry it along.

One JSON text under the name KEY, where a format has room for words: the metadata of safetensors and ONNX, an
attribute of Keras's HDF5, PyTorch's own metadata of a state_dict (`_metadata`) in a .pth, the comment of an .npz.
Other programs pass over it; a file that they write again has lost it.
"""

import json
from dataclasses import asdict, dataclass

from minires.errors import CheckpointError, MiniresError
from minires.nn import Built, Config
from minires.train import parts
from minires.train.checkpoint import MAX_HEADER, construct, read_config, read_use
from minires.train.classifier import Classifier, Preprocess

KEY = "minires_use"

# how each world prepares its images, as (mean, std) of image / 255
PREPROCESS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tf": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
USUAL = {"course": "unit", "v1": "caffe", "v2": "tf", "v1.5": "imagenet", "keras-example": "unit"}


@dataclass(frozen=True)
class Use:
    """classes: by their outputs. config: None where the network has layers of somebody's own."""

    classes: tuple[str, ...]
    preprocess: Preprocess
    config: Config | Built | None


def to_text(classifier: Classifier) -> str:
    """The text for a file."""
    model = classifier.model
    twin = construct(model.config)
    known = twin is not None and parts.difference(parts.describe(model), twin) is None
    use = {
        "architecture": asdict(model.config) if known else None,
        "classes": classifier.classes,
        "preprocess": asdict(classifier.preprocess),
    }
    return json.dumps(use).replace("minires-seal:", "minires-seal\\u003a")  # what looks like a seal is none


def from_text(text: str | None, path) -> Use | None:
    """What `to_text` wrote; None for no text. CheckpointError for anything else."""
    if not text:
        return None
    try:
        use = json.loads(text) if len(text) <= MAX_HEADER else {}
        architecture = use["architecture"]
        config = None if architecture is None else read_config(architecture)
        # without one there may be any number of classes and channels
        sizes = {"classes": len(use["classes"]), "input_shape": (1, 1, len(use["preprocess"]["mean"]))}
        return Use(*read_use(use | {"architecture": architecture or sizes}), config)
    except MiniresError as error:
        raise CheckpointError(f"{path}: its metadata ({KEY}): {error}") from None
    except Exception as error:  # of other JSON anything may be raised
        problem = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path}: its metadata ({KEY}) cannot be read ({problem}): use another copy") from None
