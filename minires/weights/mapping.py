"""From the arrays of a file to the arrays of a network: everything fits, or nothing is written.

Each reader (keras.py, torch.py, onnx.py) turns its file into a `Found`: arrays in our layout, under our names where the
file has them (order.py finds them where not). `fit` holds it against the network, says in one line what is wrong, and
copies only when nothing is.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minires.backend import to_numpy
from minires.errors import CheckpointError
from minires.nn import VARIANTS, Dense, Network
from minires.train.checkpoint import load_weights, spoilt
from minires.weights.found import Found, layer_list
from minires.weights.order import adopt, unfold


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


def fit(model: Network, found: Found, path: Path, *, skip_head: bool = False) -> ImportReport:
    """Copy `found` into the model; CheckpointError, and a model untouched, unless every array has its place."""
    state, head = model.state(), layer_list(model)[-1]
    own_head = [name for name in state if name.rpartition(".")[0] == head.name]
    _name(model, found, head.name)
    unused, missing = list(found.ignored), []
    if skip_head:
        dense = [f"{name}." for name, arrays in found.layers().items() if "w" in arrays and arrays["w"].ndim == 2]
        skipped = [n for n in found.arrays if n in own_head or (n not in state and n.startswith(tuple(dense)))]
        unused += [found.origin[name] for name in skipped]
        missing = own_head
        arrays = {name: array for name, array in found.arrays.items() if name not in skipped}
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
    notes = [*found.notes, *differences(model, found)]
    notes += [f"warning: {found.origin[name]} {what}" for name, what in odd.items() if what]
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


def _name(model: Network, found: Found, head: str) -> None:
    """Our names for the file's layers, where it has others."""
    unfold(model, found)
    theirs, own = found.layers(), {m.name for m in layer_list(model)}
    if own - {head} <= set(theirs):  # the one dense layer of the file is the classifier (fc1000, predictions, dense)
        dense = [name for name, arrays in theirs.items() if "w" in arrays and arrays["w"].ndim == 2]
        if head not in theirs and len(dense) == 1 and dense[0] not in own:
            found.rename_layers({dense[0]: head})
        return
    other = variant_of(set(theirs))
    if other is None or getattr(model.config, "variant", other) == other:
        adopt(model, found)


def differences(model, found: Found) -> list[str]:
    """Where the file states another convention than the network has: same shapes, other numbers."""
    notes = {}
    for m in layer_list(model):
        theirs = found.stated.get(m.name, {})
        for setting in ("stride", "dilation"):
            here, there = getattr(m, setting, None), theirs.get(setting)
            if here is not None and there is not None and tuple(there) != here:
                notes.setdefault(setting, (m.name, tuple(there), here))
        epsilon = getattr(m, "epsilon", None)
        if epsilon is not None and not math.isclose(theirs.get("epsilon", epsilon), epsilon, rel_tol=1e-6):
            notes.setdefault("epsilon", (m.name, f"{theirs['epsilon']:.4g}", epsilon))
    return [
        f"warning: {layer} has {what} {there} in the file and {here} in the network (and perhaps others too): "
        "the outputs will differ"
        for what, (layer, there, here) in notes.items()
    ]


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
            f"{size}: give the image size that it was trained with (--input), or load all but the classifier with "
            "--skip-head (skip_head=True)"
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
    if not any(name.endswith(".gamma") for name in given) and any(name.endswith(".gamma") for name in wanted):
        text += "; it has no batch normalisation, which exporters fold into the convolutions"
    raise CheckpointError(f"{text}: build the architecture and variant that it was saved from")


def variant_of(layers: set) -> str | None:
    """The variant whose layer names these are, seen at the first block's first convolution and norm."""
    first = {"stage": 2, "layer": 1, "letter": "a", "block": 1, "index": 0, "i": 1, "abc": "a", "before": "preact"}
    known = [key for key, variant in VARIANTS.items() if variant.names.conv.format(**first) in layers]
    normed = [key for key in known if VARIANTS[key].names.norm.format(**first) in layers]
    return next(iter(normed[::-1] + known), None)  # a later one has the names of the earlier, and more


def _some(names, limit: int = 3) -> str:
    """The first few names."""
    rest = len(names) - limit
    return ", ".join(list(names)[:limit]) + (f" and {rest} more" if rest > 0 else "")
