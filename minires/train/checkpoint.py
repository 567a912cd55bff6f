"""A checkpoint: one HDF5 file that holds everything, written atomically and sealed, with no pickle anywhere.

    /weights/<name>       every parameter and buffer
    /optimizer/<slot>     the optimiser's state, in the order of its buffer
    attribute "minires"   JSON: format, architecture, modules, classes, preprocessing, and the state of training

`load_classifier` builds the network from the file alone, or refuses where that would give another one. Format 1, of
earlier versions, had neither a seal nor the list of modules.
"""

import json
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from minires.backend import Array, get_xp, to_numpy
from minires.data.folder import has_images
from minires.data.hdf5 import SEALED, atomic_hdf5, open_hdf5
from minires.data.images import MAX_PIXELS
from minires.data.kinds import of_hdf5
from minires.errors import CheckpointError, DataError, MiniresError
from minires.nn import Built, Config, Module, Network, from_config
from minires.nn.init import undrawn
from minires.nn.network import BUILDERS, as_network
from minires.train import parts
from minires.train.classifier import Classifier, Preprocess

FORMAT = 2
MAX_HEADER = 2**24  # bytes of JSON


@dataclass
class Checkpoint:
    """What a file held: the classifier, the optimiser's arrays, and the training state as plain data."""

    classifier: Classifier
    optimizer: dict[str, np.ndarray]
    training: dict


def save_checkpoint(
    path: Path, classifier: Classifier, *, optimizer: dict | None = None, training: dict | None = None
) -> None:
    """Write the file; the old one survives every failure. `training` must be JSON data."""
    _write(path, *_contents(classifier, optimizer, training))


class Snapshot:
    """What `save_checkpoint` would write, as it is at `take`: for `write`, in a thread, while training goes on.

    Each `take` uses the memory of the one before, so it has to wait for its `write`.
    """

    def __init__(self):
        self.header, self.groups = {}, {}

    def take(self, classifier: Classifier, *, optimizer: dict | None = None, training: dict | None = None) -> None:
        self.header, groups = _contents(classifier, optimizer, training)
        for group, arrays in groups.items():
            copies = self.groups.setdefault(group, {})
            for name, array in arrays.items():
                here = to_numpy(array)
                if name not in copies or copies[name].shape != here.shape:
                    copies[name] = np.empty_like(here)
                copies[name][...] = here

    def write(self, path: Path) -> None:
        _write(path, self.header, self.groups)


def _contents(classifier, optimizer, training) -> tuple[dict, dict]:
    """The header, and the groups of arrays (not copied)."""
    header = {
        "format": FORMAT,
        "architecture": asdict(classifier.model.config),
        "modules": parts.describe(classifier.model),
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


def load_checkpoint(path: Path, model: Module | None = None) -> Checkpoint:
    """Read a file of `save_checkpoint`. CheckpointError, one line, for anything else.

    model: the network, where its configuration alone does not build it (layers of one's own); it takes the weights.
    """
    with _opened(path) as (file, header):
        return _read(file, header, path, model)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one of `save_checkpoint`; CheckpointError for HDF5 that is damaged."""
    if not Path(path).is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with open_hdf5(path, "weights") as file:
            return "minires" in file.attrs
    except DataError as error:
        raise CheckpointError(str(error)) from None


def read_header(path: Path) -> dict:
    """All but the arrays: architecture, classes, preprocessing, the state of training; CheckpointError as above."""
    with _opened(path) as (_, header):
        return header


@contextmanager
def _opened(path):
    """(the file, its header). What is not as it should be may raise anything inside: one line is made of it."""
    try:
        with open_hdf5(path, "a minires checkpoint") as file:
            if "minires" not in file.attrs:
                what, remedy = of_hdf5(file)
                raise CheckpointError(
                    f"{path}: expected a minires checkpoint (the model.h5 of a run), found {what}: {remedy}"
                )
            try:
                yield file, _header(file)
            except MiniresError as error:
                if str(path) in str(error):
                    raise
                raise CheckpointError(f"{path}: {error}") from None
    except DataError as error:
        raise CheckpointError(str(error)) from None


def _header(file) -> dict:
    header = json.loads(file.attrs["minires"]) if len(file.attrs["minires"]) <= MAX_HEADER else {}
    if header["format"] > FORMAT:
        raise CheckpointError(f"written by a newer minires (format {header['format']}): update minires")
    if header["format"] > 1 and SEALED not in file.attrs:
        raise CheckpointError("has lost the seal that it was written with: use another copy")
    return header


def _read(file, header, path, model) -> Checkpoint:
    classes, preprocess = read_use(header)
    weights, slots = ({name: group[name] for name in group} for group in (file["weights"], file["optimizer"]))
    numbers = sum(array.size for array in weights.values())
    config = read_config(header["architecture"])
    rebuilt = as_network(model, config.input_shape) if model else build(config, numbers)
    if header["format"] > 1 and (other := parts.difference(header["modules"], rebuilt, by_hand=model is not None)):
        raise CheckpointError(
            f"{path}: holds another network than this one ({other}): put it together as it was, and give it to "
            f"load_classifier({str(path)!r}, model=...)"
        )
    load_weights(rebuilt, weights, str(path))
    if large := [slot for slot, array in slots.items() if array.size > numbers]:
        raise CheckpointError(f"the optimiser's {large[0]} has more numbers than the network: use another copy")
    for module in _drawing(rebuilt):
        module.rng.bit_generator.state = header["generators"][module.name]
    optimizer = {slot: array[()] for slot, array in slots.items()}
    return Checkpoint(Classifier(rebuilt, classes, preprocess), optimizer, dict(header["training"]))


def read_config(architecture: dict) -> Config | Built:
    """What builds a network again, from a file's JSON."""
    return (Built if "builder" in architecture else Config)(**architecture)


def construct(config: Config | Built) -> Network | None:
    """The network that a config builds, its kernels zeros; None where no registered function does."""
    with undrawn():
        return from_config(config) if isinstance(config, Config) or config.builder in BUILDERS else None


def read_use(header: dict) -> tuple[tuple, Preprocess]:
    """Classes and preprocessing, if they fit the network."""
    classes, wanted = header["classes"], header["architecture"]["classes"]
    if len(classes) != wanted or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"names {len(classes)} classes for a network of {wanted}: use another copy")
    preprocess = Preprocess(**{k: tuple(map(float, v)) for k, v in header["preprocess"].items()})
    numbers, channels = (preprocess.mean, preprocess.std), header["architecture"]["input_shape"][2]
    if not all(len(n) == channels and all(map(math.isfinite, n)) for n in numbers) or min(preprocess.std) <= 0:
        raise CheckpointError(f"its preprocessing cannot be used ({preprocess}): use another copy")
    return tuple(classes), preprocess


def build(config: Config | Built, numbers: int) -> Network:
    """The network, its kernels zeros; its widths are no larger than a file of so many numbers can fill.

    CheckpointError where it was built by a function that is not registered: a file brings no code along.
    """
    height, width, channels = config.input_shape
    widths = getattr(config, "widths", None) or ()
    if max(config.classes, channels, *widths) > numbers or height * width > MAX_PIXELS:
        raise CheckpointError(f"describes a network that its {numbers:,} numbers cannot fill: use another copy")
    if (network := construct(config)) is not None:
        return network
    if not config.builder:
        raise CheckpointError("holds a network that was put together by hand: give it to load_classifier(..., model=)")
    raise CheckpointError(
        f"holds a network of one's own, built by {config.builder}: name that (--arch FILE.py:FUNCTION; in Python "
        "minires.register the function, or load_classifier(..., model=))"
    )


def load_weights(model: Module, arrays: Array, source: str) -> None:
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
    found = {name: array[()] for name, array in found.items()}
    for name, array in found.items():
        if problem := spoilt(name, array):
            raise CheckpointError(f"{source}: {name} {problem}: use a copy from before")
    for v in model.params() + model.buffers():
        value = get_xp(v.data).asarray(found[v.name])
        if value.dtype == v.data.dtype:
            v.data[...] = value
        else:
            v.data = value


def spoilt(name: str, array: np.ndarray) -> str | None:
    """Why nothing can be computed with an array of weights, in words; None where it can."""
    if array.dtype.kind != "f":
        return f"holds {array.dtype} in place of floating point numbers"
    low, high = (array.min(), array.max()) if array.size else (0, 0)  # a NaN is both
    if not (np.isfinite(low) and np.isfinite(high)):
        return "holds values that are not finite"
    return f"holds a negative variance ({low:.3g})" if name.endswith(".var") and low < 0 else None


def load_classifier(path: Path, *, best: bool = False, model: Module | None = None) -> Classifier:
    """The network in a file or a run's folder, with classes and preprocessing.

    Of a folder that is the last epoch, or the best one where `best` is asked for or a validation part chose it.
    model: as in `load_checkpoint`, a network with layers of one's own.
    """
    path = Path(path)
    if path.is_dir():
        progress = _progress(path / "model.h5")
        best = best or progress.get("judge") == "validation"
        # where the last epoch is the best one a kill may have come before `best.h5` was made the same
        name = "best.h5" if best and not (progress and last_is_best(progress)) else "model.h5"
        if not (path / name).exists():
            remedy = "name images with --data" if has_images(path) else "give a run folder that training wrote"
            raise CheckpointError(f"{path}: no {name} in this folder, which is no run: {remedy}")
        path = path / name
    return load_checkpoint(path, model).classifier


def _progress(path: Path) -> dict:
    """Where the run stood that wrote a checkpoint; nothing where that cannot be read."""
    try:
        return read_header(path)["training"].get("progress", {})
    except CheckpointError:
        return {}


def last_is_best(progress: dict) -> bool:
    """Whether a state of training lies at the end of the best epoch so far."""
    return 0 < progress.get("best_epoch", 0) == progress["epoch"] and progress["batch"] == 0


def _drawing(model: Module) -> list:
    """The layers that draw random numbers."""
    return [m for m in model.modules() if hasattr(m, "rng")]
