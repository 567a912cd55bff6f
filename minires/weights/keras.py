"""Keras's weights, read and written with h5py alone.

    full model or weights only, `.h5` (Keras 2)   [model_weights/]<layer>/<layer>/kernel:0, order in attributes
    weights only, `.weights.h5` (Keras 3)         layers/<class>_<n>/vars/0, 1, ...; newer ones note the layer's name
    full model, `.keras` (Keras 3)                a zip of config.json and model.weights.h5

Layers are found by name. A file that has lost the names, or whose author never gave any, is read in Keras's
layer order (order.py): by distance from the output, ties in the order in which Add got its inputs.
"""

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from minires.backend import to_numpy
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.data.kinds import KERAS, of_hdf5
from minires.errors import CheckpointError
from minires.nn import BatchNorm, Conv2d, Dense, Network
from minires.weights.archives import check_archive, understood
from minires.weights.found import Found
from minires.weights.order import keras_block, walk
from minires.weights.use import KEY

WHAT = "a weights file (of Keras, PyTorch, safetensors, NumPy or ONNX)"
ROLES = {
    "kernel": "w",
    "bias": "b",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "mean",
    "moving_variance": "var",
}
# our layer -> (what Keras 3 calls its group, the order of its arrays)
KINDS = {
    Conv2d: ("conv2d", ("w", "b")),
    BatchNorm: ("batch_normalization", ("gamma", "beta", "mean", "var")),
    Dense: ("dense", ("w", "b")),
}


@dataclass
class KerasLayer:
    """One layer of the file with the arrays it has, in their order."""

    name: str
    arrays: list[np.ndarray]
    variables: list[str]  # paths in the file

    @property
    def kind(self) -> type | None:
        """The layer of ours that it is, told by the shapes; None for any other."""
        ranks = [a.ndim for a in self.arrays]
        if ranks[1:] in ([], [1]):
            return {4: Conv2d, 2: Dense}.get(ranks[0])
        return BatchNorm if ranks == [1, 1, 1, 1] else None

    def roles(self) -> list[str]:
        """Our name for each array: by its name in the file, else by its place."""
        known = [ROLES.get(v.rpartition("/")[2].partition(":")[0]) for v in self.variables]
        return known if all(known) else list(KINDS[self.kind][1][: len(known)])


def read_keras(path: Path) -> Found:
    """The arrays of any Keras file, in its order of layers."""
    with understood(path, "Keras"):
        if path.is_file() and zipfile.is_zipfile(path):
            kind, layers, config = _read_archive(path)
        elif _starts_like_zip(path):  # but the index at its end is missing
            raise CheckpointError(f"{path}: expected {WHAT}, but it is a truncated zip archive: download it again")
        else:
            with open_hdf5(path, WHAT) as file:
                kind, layers, config = _read_hdf5(file, path)
        found = Found(kind, stated=_stated(config), ordered=True)
    for layer in layers:
        if layer.kind is None:
            found.ignored += layer.variables
            continue
        for role, array, variable in zip(layer.roles(), layer.arrays, layer.variables, strict=True):
            found.add(f"{layer.name}.{role}", array, variable)
    return found


def _stated(config: dict) -> dict[str, dict]:
    """Layer -> its stride and epsilon, as the model's own configuration states them."""
    stated = {}
    for layer in config.get("config", {}).get("layers", []):
        names = (("stride", "strides"), ("dilation", "dilation_rate"), ("epsilon", "epsilon"))
        facts = {ours: layer["config"].get(theirs) for ours, theirs in names}
        stated[layer["config"].get("name")] = {key: value for key, value in facts.items() if value is not None}
    return stated


def keras_use(path: Path) -> str | None:
    """What the file carries along of use.py, as text: a `.weights.h5` of ours does."""
    if not path.is_file() or zipfile.is_zipfile(path):
        return None
    with understood(path, "Keras"), open_hdf5(path, WHAT) as file:
        words = file.attrs.get(KEY)
    return words if isinstance(words, str) else None


def _starts_like_zip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as raw:
        return raw.read(4) == b"PK\x03\x04"


def _read_archive(path: Path):
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if "model.weights.h5" not in members:
            raise CheckpointError(
                f"{path}: expected {WHAT}, but it is a zip with {', '.join(members[:3]) or 'nothing in it'}: "
                "give the file that model.save() wrote"
            )
        config = json.loads(archive.read("config.json")) if "config.json" in members else {}
        with open_hdf5(path, WHAT, archive.read("model.weights.h5")) as file:
            return "Keras 3 full model", _keras3_layers(file), config


def _read_hdf5(file: h5py.File, path: Path):
    """(what it is, its layers, the model's configuration or {})."""
    what, remedy = of_hdf5(file)
    if what != KERAS:
        if what.startswith("HDF5"):
            remedy = "give a file of model.save() or model.save_weights()"
        raise CheckpointError(f"{path}: expected weights, found {what}: {remedy}")
    if "model_weights" in file:
        config = json.loads(file.attrs["model_config"]) if "model_config" in file.attrs else {}
        return "Keras 2 full model", _keras2_layers(file["model_weights"]), config
    if "layer_names" in file.attrs:
        return "Keras 2 weights", _keras2_layers(file), {}
    return "Keras 3 weights", _keras3_layers(file), {}


def _datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Path -> array."""
    found = {}
    group.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def _keras2_layers(group: h5py.Group) -> list[KerasLayer]:
    """Layers in the order of the model. A model inside the model (a frozen base) is one group with many layers."""
    datasets, layers = _datasets(group), {}
    for outer in map(_text, group.attrs["layer_names"]):
        variables = [_text(v) for v in group[outer].attrs["weight_names"]]
        nested = len(variables) > 4
        for variable in variables:
            name = variable.split("/")[-2] if nested and "/" in variable else outer
            layer = layers.setdefault(name, KerasLayer(name, [], []))
            layer.arrays.append(np.asarray(datasets[f"{outer}/{variable}"][()]))
            layer.variables.append(variable)
    return list(layers.values())


def _keras3_layers(file: h5py.File) -> list[KerasLayer]:
    """Layers in the order of the model within each class: conv2d, conv2d_1, ... conv2d_10."""
    groups: dict[str, list] = {}
    for path, dataset in _datasets(file).items():
        folder, _, number = path.rpartition("/")
        if folder.endswith("/vars") and not path.startswith("optimizer"):
            groups.setdefault(folder, []).append((int(number), path, dataset))
    layers = []
    for folder in sorted(groups, key=_natural):
        _, paths, arrays = zip(*sorted(groups[folder]), strict=True)
        name = _text(file[folder].attrs.get("name", "")) or folder.split("/")[-2]
        layers.append(KerasLayer(name, [np.asarray(a[()]) for a in arrays], list(paths)))
    return layers


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(path: str) -> list:
    """A sort key that puts conv2d_2 before conv2d_10, and conv2d before both."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(?<=_)(\d+)$", p)] for p in path.split("/")]


def keras_order(model: Network, shortcut_first: bool) -> list:
    """The layers that have arrays in the order of Keras's `model.layers`; `shortcut_first`: as Add got its inputs."""
    return list(walk(model, lambda block: keras_block(block, shortcut_first)))


def write_keras(model: Network, path: Path, use: str = "") -> None:
    """A `.weights.h5` that `model.load_weights` of Keras 3 loads into a model of the same architecture.

    Keras finds layers by class and order alone: the model must call Add([x, shortcut]), as the course does,
    or, for variants v1 and v2, Add([shortcut, x]), as keras.applications does.
    """
    counts = dict.fromkeys(KINDS, 0)
    with atomic_hdf5(path) as file:
        if use:
            file.attrs[KEY] = use
        for m in keras_order(model, getattr(model.config, "variant", "") in ("v1", "v2")):
            group, roles = KINDS[type(m)]
            suffix = f"_{counts[type(m)]}" if counts[type(m)] else ""
            counts[type(m)] += 1
            folder = file.create_group(f"layers/{group}{suffix}/vars")
            folder.attrs["name"] = m.name
            arrays = [getattr(m, role) for role in roles]
            for index, variable in enumerate(v for v in arrays if v is not None):
                folder.create_dataset(str(index), data=to_numpy(variable.data))
