"""A checkpoint: one HDF5 file that holds everything, written atomically, with no pickle anywhere.

    /weights/<name>       every parameter and buffer
    /optimizer/<slot>     the optimiser's state, in the order of its buffer
    attribute "minires"   JSON: format, architecture, classes, preprocessing, and the state of training

`load_classifier` builds the network from the file alone.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minires.backend import get_xp, to_numpy
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.errors import CheckpointError, DataError
from minires.nn import Config, Module, ResNet
from minires.train.classifier import Classifier, Preprocess

FORMAT = 1


@dataclass
class Checkpoint:
    """What a file held: the classifier, the optimiser's arrays, and the training state as plain data."""

    classifier: Classifier
    optimizer: dict[str, np.ndarray]
    training: dict


def save_checkpoint(path: Path, classifier: Classifier, *, optimizer: dict | None = None, training: dict | None = None):
    """Write the file; the old one survives every failure. `training` must be JSON data."""
    _write(path, *_contents(classifier, optimizer, training))


class Snapshot:
    """What `save_checkpoint` would write, as it is at `take`: for `write`, in a thread, while training goes on.

    Each `take` uses the memory of the one before, so it has to wait for its `write`.
    """

    def __init__(self):
        self.header, self.groups = {}, {}

    def take(self, classifier: Classifier, *, optimizer: dict | None = None, training: dict | None = None):
        self.header, groups = _contents(classifier, optimizer, training)
        for group, arrays in groups.items():
            copies = self.groups.setdefault(group, {})
            for name, array in arrays.items():
                here = to_numpy(array)
                if name not in copies:
                    copies[name] = np.empty_like(here)
                copies[name][...] = here

    def write(self, path: Path):
        _write(path, self.header, self.groups)


def _contents(classifier, optimizer, training) -> tuple[dict, dict]:
    """The header, and the groups of arrays (not copied)."""
    header = {
        "format": FORMAT,
        "architecture": asdict(classifier.model.config),
        "classes": classifier.classes,
        "preprocess": asdict(classifier.preprocess),
        "generators": {m.name: m.rng.bit_generator.state for m in _drawing(classifier.model)},
        "training": training or {},
    }
    return header, {"weights": classifier.model.state(), "optimizer": optimizer or {}}


def _write(path, header, groups):
    with atomic_hdf5(path) as file:
        file.attrs["minires"] = json.dumps(header)
        for group, arrays in groups.items():
            folder = file.create_group(group)
            for name, array in arrays.items():
                folder.create_dataset(name, data=to_numpy(array))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file of `save_checkpoint`. CheckpointError, one line, for anything else."""
    try:
        with open_hdf5(path, "a minires checkpoint") as file:
            if "minires" not in file.attrs:
                raise CheckpointError(
                    f"{path}: expected a minires checkpoint, found HDF5 with {', '.join(file) or 'nothing'}: "
                    "give the model.h5 of a run"
                )
            header = json.loads(file.attrs["minires"])
            if header["format"] > FORMAT:
                raise CheckpointError(f"{path}: written by a newer minires (format {header['format']}): update minires")
            model = ResNet(Config(**header["architecture"]))
            load_weights(model, file["weights"], str(path))
            optimizer = {slot: array[()] for slot, array in file["optimizer"].items()}
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except (KeyError, TypeError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: a damaged checkpoint ({error}): use another copy") from None
    for module in _drawing(model):
        module.rng.bit_generator.state = header["generators"][module.name]
    preprocess = Preprocess(**{k: tuple(v) for k, v in header["preprocess"].items()})
    return Checkpoint(Classifier(model, tuple(header["classes"]), preprocess), optimizer, header["training"])


def load_weights(model: Module, arrays, source: str) -> None:
    """Copy `arrays` (a mapping or an HDF5 group, by name) into the model, in place; nothing is copied if one is off."""
    state = model.state()
    found = {name: arrays[name] for name in state if name in arrays}
    missing = [name for name in state if name not in found]
    extra = len(arrays) - len(found)
    if missing or extra:
        raise CheckpointError(
            f"{source}: a checkpoint of another architecture: {len(missing)} of {len(state)} arrays are missing"
            + (f" (first: {missing[0]})" if missing else "")
            + f", {extra} are not used: build the network that it was saved from"
        )
    for name, target in state.items():
        if found[name].shape != target.shape:
            raise CheckpointError(
                f"{source}: a checkpoint of another architecture: {name} has shape {found[name].shape}, "
                f"the network needs {target.shape}: build the network that it was saved from"
            )
    for v in model.params() + model.buffers():
        value = get_xp(v.data).asarray(found[v.name][()])
        if value.dtype == v.data.dtype:
            v.data[...] = value
        else:
            v.data = value


def load_classifier(path: Path, *, best: bool = False) -> Classifier:
    """The network in a file or a run's folder (its last epoch, or the best), with classes and preprocessing."""
    path = Path(path)
    if path.is_dir():
        name = "best.h5" if best else "model.h5"
        if not (path / name).exists():
            raise CheckpointError(f"{path}: no {name} in this folder: give a run folder that training wrote")
        path = path / name
    return load_checkpoint(path).classifier


def _drawing(model: Module) -> list:
    """The layers that draw random numbers."""
    return [m for m in model.modules() if hasattr(m, "rng")]
