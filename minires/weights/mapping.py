"""From the arrays of a file to the arrays of a network: everything fits, or nothing is written.

Each reader (keras.py, torch.py) turns its file into a `Found`: arrays in our names and our layout. `fit` holds
it against the network, says in one line what is wrong, and copies only when nothing is.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from minires.backend import to_numpy
from minires.errors import CheckpointError
from minires.nn import VARIANTS, BatchNorm, Conv2d, Dense, Network
from minires.train.checkpoint import load_weights, spoilt

PARAMETRIC = (Conv2d, BatchNorm, Dense)  # the layers that have arrays


@dataclass
class Found:
    """What a reader found. arrays: our name -> array in our layout; origin: our name -> name in the file."""

    kind: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)  # arrays that no network of ours has a place for
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, array, origin: str) -> None:
        """Take up an array under our name."""
        self.arrays[name], self.origin[name] = array, origin

    def rename_layer(self, old: str, new: str) -> None:
        """Give a layer's arrays another layer's name."""
        for table in (self.arrays, self.origin):
            for name in [n for n in table if n.rpartition(".")[0] == old]:
                table[f"{new}.{name.rpartition('.')[2]}"] = table.pop(name)


@dataclass(frozen=True)
class ImportReport:
    """What an import did. mapped: our name -> the file's; unused: the file's names; missing: ours, unchanged."""

    path: str
    kind: str
    mapped: dict[str, str]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    preprocess: str = ""  # of `import_classifier`: "file", where the file says it, or a name in PREPROCESS

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kind}, {len(self.mapped)} arrays loaded"]
        if self.missing:
            lines.append(f"kept as they were: {', '.join(self.missing)}")
        if self.unused:
            lines.append(f"in the file, not used: {_some(self.unused)}")
        return "\n".join([*lines, *self.notes])


def layer_list(model) -> list:
    """The layers that have arrays, in the order of the forward pass."""
    return [m for m in model.modules() if isinstance(m, PARAMETRIC)]


def fit(model: Network, found: Found, path: Path, *, skip_head: bool = False) -> ImportReport:
    """Copy `found` into the model; CheckpointError, and a model untouched, unless every array has its place."""
    state, head = model.state(), layer_list(model)[-1]
    own_head = [name for name in state if name.rpartition(".")[0] == head.name]
    _adopt_head(found, state, head.name)
    unused, missing = list(found.ignored), []
    if skip_head:
        unused += [found.origin[name] for name in own_head if name in found.arrays]
        missing = own_head
        arrays = {name: array for name, array in found.arrays.items() if name not in own_head}
    else:
        arrays = found.arrays
        _check_head(model, found, head, path)
    _check_names(model, found, {n for n in state if n not in missing}, set(arrays), path)
    for name, array in arrays.items():
        if array.shape != state[name].shape:
            raise CheckpointError(
                f"{path}: {found.origin[name]} becomes {name} of shape {array.shape}, but the network needs "
                f"{state[name].shape}: build the network that these weights were trained in"
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise CheckpointError(
                f"{path}: {found.origin[name]} holds {array.dtype}, expected floating point numbers: "
                "export the weights unquantised"
            )
        if problem := spoilt(name, array):
            raise CheckpointError(f"{path}: {found.origin[name]} {problem}: use another copy of the file")
    odd = {name: implausible(name, array) for name, array in arrays.items()}
    notes = [*found.notes, *(f"warning: {found.origin[name]} {what}" for name, what in odd.items() if what)]
    kept = {name: to_numpy(state[name]) for name in missing}
    load_weights(model, {n: a.astype(state[n].dtype) for n, a in arrays.items()} | kept, str(path))
    mapped = {name: found.origin[name] for name in state if name in arrays}
    return ImportReport(str(path), found.kind, mapped, tuple(unused), tuple(missing), tuple(notes))


def implausible(name: str, array: np.ndarray) -> str | None:
    """What is unusual about an array of weights, as where a bit of an exponent changed; None for a plausible one."""
    role = name.rpartition(".")[2]
    largest = float(np.abs(array).max()) if array.size else 0.0
    if largest > (1e8 if role == "var" else 1e4):
        return f"has a value of size {largest:.3g}: the file may be damaged"
    if role == "w" and array.size >= 64:
        typical = float(np.median(np.abs(array.ravel(order="K")[:: max(1, array.size // 10_000)])))
        if largest > 1e4 * typical > 0:
            return f"has a value of size {largest:.3g} where {typical:.2g} is usual: the file may be damaged"
    return None


def _adopt_head(found: Found, state: dict, head: str) -> None:
    """The one dense layer of the file is the classifier, whatever it is called (fc1000, predictions, dense)."""
    dense = [name for name, array in found.arrays.items() if name.endswith(".w") and array.ndim == 2]
    if f"{head}.w" not in found.arrays and len(dense) == 1 and dense[0] not in state:
        found.rename_layer(dense[0].removesuffix(".w"), head)


def _check_head(model: Network, found: Found, head: Dense, path: Path) -> None:
    kernel = found.arrays.get(f"{head.name}.w")
    if kernel is None or kernel.ndim != 2:
        return  # told as missing, or as a wrong shape
    (features, classes), expected = kernel.shape, head.w.data.shape
    if classes != expected[1]:
        raise CheckpointError(
            f"{path}: its classifier {found.origin[f'{head.name}.w']} knows {classes} classes, the network "
            f"{expected[1]}: build the network with {classes} classes (--classes {classes}), or load all but the "
            "classifier with --skip-head (skip_head=True)"
        )
    if features != expected[0]:
        size = "x".join(map(str, model.input_shape))
        raise CheckpointError(
            f"{path}: its classifier reads {features} features, that of the network {expected[0]} for images of "
            f"{size}: give the image size and the widths that it was trained with (--input)"
        )


def _check_names(model: Network, found: Found, wanted: set, given: set, path: Path) -> None:
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    if not missing and not extra:
        return
    text = f"{path}: {found.kind} for another network than {model.title}: "
    if missing:
        text += f"{len(missing)} of {len(wanted)} arrays are missing ({_some(missing)})"
    if extra:
        text += f"{' and ' if missing else ''}{len(extra)} have no place ({_some([found.origin[n] for n in extra])})"
    head = layer_list(model)[-1].name
    if missing and not extra and all(name.startswith(f"{head}.") for name in missing):
        raise CheckpointError(f"{text}: it has no classifier; load the rest with --skip-head (skip_head=True)")
    other = variant_of({name.rpartition(".")[0] for name in given})
    if other not in (None, getattr(model.config, "variant", other)):
        raise CheckpointError(f"{text}: its names are those of variant {other}: build the network with that variant")
    raise CheckpointError(f"{text}: build the architecture and variant that it was saved from")


def variant_of(layers: set) -> str | None:
    """The variant whose layer names these are, seen at the first convolution of the first block."""
    first = {"stage": 2, "layer": 1, "letter": "a", "block": 1, "index": 0, "i": 1, "abc": "a"}
    for key, variant in VARIANTS.items():
        if variant.names.conv.format(**first) in layers:
            return key
    return None


def _some(names, limit: int = 3) -> str:
    """The first few names."""
    rest = len(names) - limit
    return ", ".join(list(names)[:limit]) + (f" and {rest} more" if rest > 0 else "")
