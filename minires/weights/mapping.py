"""From the arrays of a file to the arrays of a network: everything fits, or nothing is written.

Each reader (keras.py, torch.py, onnx.py) turns its file into a `Found`: arrays in our layout, under our names where the
file has them (order.py finds them where not). `fit` holds it against the network, says in one line what is wrong, and
copies only when nothing is.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minires.backend import to_numpy
from minires.errors import CheckpointError
from minires.nn import Network
from minires.train.checkpoint import load_weights, spoilt
from minires.weights.found import Found, layer_list
from minires.weights.naming import name_layers
from minires.weights.unfit import differences, refusal, some


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
            lines.append(f"in the file, not used: {some(self.unused)}")
        return "\n".join([*lines, *self.notes])


def fit(model: Network, found: Found, path: Path, *, skip_head: bool = False) -> ImportReport:
    """Copy `found` into the model; CheckpointError, and a model untouched, unless every array has its place."""
    state, head = model.state(), layer_list(model)[-1]
    own_head = [name for name in state if name.rpartition(".")[0] == head.name]
    as_read = found.copy()
    name_layers(model, found, head.name)
    unused, missing = list(found.ignored), []
    if skip_head:
        dense = [f"{name}." for name, arrays in found.layers().items() if "w" in arrays and arrays["w"].ndim == 2]
        skipped = [n for n in found.arrays if n in own_head or (n not in state and n.startswith(tuple(dense)))]
        unused += [found.origin[name] for name in skipped]
        missing = own_head
        arrays = {name: array for name, array in found.arrays.items() if name not in skipped}
    else:
        arrays = found.arrays
    wanted = {name: array for name, array in state.items() if name not in missing}
    if {name: a.shape for name, a in arrays.items()} != {name: a.shape for name, a in wanted.items()}:
        found.arrays = arrays
        raise CheckpointError(f"{path}: {refusal(model, as_read, found, wanted, skip_head)}")
    for name, array in arrays.items():
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
