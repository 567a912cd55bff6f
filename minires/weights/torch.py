"""Weights in PyTorch's layout: `.safetensors`, `.npz` and, through torch itself (pth.py), `.pth`, each both ways.

torch keeps kernels (O, C, R, S) and matrices (O, C), so a transpose is the whole translation; our names of
variant v1.5 are torchvision's but for the last part.
"""

import json
import math
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from minires.backend import to_numpy
from minires.data.arrays import by_names
from minires.data.kinds import described
from minires.errors import CheckpointError, ConfigError, DataError
from minires.files import atomic_path
from minires.nn import BatchNorm, Config, Network
from minires.nn.resnet import TORCH_NAMES, VARIANTS
from minires.seal import BLANK, seal, sealed
from minires.weights.archives import check_archive, file_kind, read_npz, understood
from minires.weights.found import Found, layer_list
from minires.weights.pth import open_pth, read_pth
from minires.weights.use import KEY

# our name -> torch's; which of two a "weight" is, its number of axes tells
ROLES = {
    "w": "weight",
    "b": "bias",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
COUNTER = "num_batches_tracked"
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")  # of DataParallel, torch.compile, wrappers


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """(R, S, C, O) -> (O, C, R, S), (C, O) -> (O, C); vectors stay."""
    return np.ascontiguousarray(array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)))


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_layout`."""
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim))


def read_torch(path: Path) -> Found:
    """The arrays of a `.safetensors`, `.npz` or `.pth` file in torchvision's names."""
    kind = file_kind(path)
    with understood(path, kind):
        arrays, ignored, notes = _READERS[kind](path)
        found = translate(arrays, f"PyTorch {kind}")
    found.ignored += ignored
    found.notes += notes
    return found


def torch_use(path: Path) -> str | None:
    """What the file carries along of use.py, as text."""
    kind = file_kind(path)
    with understood(path, kind):
        return _WORDS[kind](path)


def translate(arrays: dict[str, np.ndarray], kind: str) -> Found:
    """A state_dict as NumPy arrays -> our names and layout."""
    found = Found(kind)
    prefix = _common_prefix(list(arrays))
    for origin, array in arrays.items():
        layer, _, part = origin.removeprefix(prefix).rpartition(".")
        if array.ndim == 0:  # a counter, such as num_batches_tracked
            found.ignored.append(origin)
            continue
        scale = arrays.get(f"{prefix}{layer}.weight")  # of a normalisation it is a vector
        norm = scale is None or scale.ndim == 1
        roles = [role for role, name in ROLES.items() if name == part and (role in ("w", "b")) != norm]
        name = f"{layer}.{roles[0]}" if roles else origin.removeprefix(prefix)
        found.add(name, from_torch_layout(array), origin)
    return found


def _common_prefix(names: list[str]) -> str:
    """What wrappers put before every name."""
    prefix = ""
    while names and (more := next((p for p in PREFIXES if all(n.startswith(prefix + p) for n in names)), "")):
        prefix += more
    return prefix


@contextmanager
def _open_safetensors(path: Path):
    """(the file, its metadata)."""
    _require_safetensors(path)
    from safetensors import safe_open

    whole = sealed(path)
    with safe_open(path, framework="np") as file:
        words = file.metadata() or {}
        if not whole and ("seal" in words or KEY in words):
            raise CheckpointError(f"{path}: the seal that it was written with is damaged: use another copy")
        yield file, words


def _read_safetensors(path: Path):
    with _open_safetensors(path) as (file, _):
        return {name: _tensor(file, name, path) for name in file.keys()}, [], []  # noqa: SIM118 - the file is no dict


def _tensor(file, name: str, path: Path) -> np.ndarray:
    """One array; those of bfloat16, which NumPy does not have, as float32."""
    kind = file.get_slice(name).get_dtype()
    if kind == "BF16":
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            entry = json.loads(raw.read(size))[name]  # all of it was checked when the file was opened
            raw.seek(8 + size + entry["data_offsets"][0])
            halves = np.frombuffer(raw.read(2 * math.prod(entry["shape"])), "<u2")
        return (halves.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
    if kind.startswith(("F8", "F6", "F4")):
        raise CheckpointError(f"{path}: {name} holds {kind}, too coarse without scales: save the weights as float32")
    return file.get_tensor(name)


def _require_safetensors(path: Path) -> None:
    if find_spec("safetensors") is None:
        raise ConfigError(f"{path}: needs the package safetensors: pip install 'minires[torch-files]', or use .npz")


def _safetensors_words(path: Path) -> str | None:
    with _open_safetensors(path) as (_, words):
        return words.get(KEY, "")[len(BLANK) :]  # the seal stands in front


def _npz_words(path: Path) -> str | None:
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        return archive.comment.rpartition(BLANK.partition(":")[0].encode())[0].decode()  # the seal stands behind


def _pth_words(path: Path) -> str | None:
    words = getattr(open_pth(path), "_metadata", {}).get(KEY)
    return words if isinstance(words, str) else None


def _arrays_of_npz(path: Path):
    arrays = read_npz(path)
    if not any("." in name for name in arrays) and (parts := _parts_of_data(arrays)):
        raise CheckpointError(
            f"{path}: expected weights, found images and labels ({', '.join(parts)}): name it with --data"
        )
    return arrays, [], []


def _parts_of_data(arrays: dict) -> list[str]:
    """The names in a data set of NumPy's; none where images or labels are missing."""
    try:
        found = by_names(arrays, "")
    except DataError:
        return []
    return list(arrays)[:4] if any({"images", "labels"} <= set(part) for part in found.values()) else []


def _no_weights(path: Path):
    what, remedy = described(path)
    raise CheckpointError(f"{path}: expected weights, but it is {what}: {remedy}")


def state_dict(model: Network) -> dict[str, np.ndarray]:
    """The weights in torchvision's names and layout, as `load_state_dict` wants them."""
    if isinstance(model.config, Config) and VARIANTS[model.config.variant].names is not TORCH_NAMES:
        raise CheckpointError(
            f"{model.config.arch} ({model.config.variant}) has no twin in torchvision, whose networks are variant "
            "v1.5: export it to .weights.h5 for Keras, or to .onnx"
        )
    arrays = {}
    for layer in layer_list(model):
        for v in layer.params() + layer.buffers():
            arrays[f"{layer.name}.{ROLES[v.name.rpartition('.')[2]]}"] = to_torch_layout(to_numpy(v.data))
        if isinstance(layer, BatchNorm):
            arrays[f"{layer.name}.{COUNTER}"] = np.array(0)
    return arrays


def write_safetensors(model: Network, path: Path, use: str = "") -> None:
    """The `state_dict` as `.safetensors`."""
    _require_safetensors(path)
    from safetensors.numpy import save_file

    arrays = state_dict(model)
    with atomic_path(path) as temporary:
        words = (
            {KEY: BLANK + use} if use else {"seal": BLANK}
        )  # their order is anyone's: the seal must be near the start
        save_file(arrays, temporary, metadata={"format": "pt", **words})
        seal(temporary)


def write_npz(model: Network, path: Path, use: str = "") -> None:
    """The `state_dict` as `.npz`. CheckpointError where `use` is too long for it."""
    arrays, comment = state_dict(model), (use + BLANK).encode()
    if len(comment) > zipfile.ZIP_MAX_COMMENT:
        raise CheckpointError(f"{path}: an .npz has no room for so many names of classes: export to .safetensors")
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = comment
        seal(temporary)


def write_pth(model: Network, path: Path, use: str = "") -> None:
    """The `state_dict` as torch saves it, for `model.load_state_dict(torch.load(path))`; needs PyTorch."""
    try:
        import torch
    except ImportError:
        raise ConfigError(f"{path}: only PyTorch writes .pth, and it is not installed: use .safetensors") from None
    arrays = OrderedDict((name, torch.from_numpy(array)) for name, array in state_dict(model).items())
    arrays._metadata = OrderedDict({"": {"version": 1}} | ({KEY: use} if use else {}))
    with atomic_path(path) as temporary:
        torch.save(arrays, temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = BLANK.encode()
        seal(temporary)


_READERS = {
    ".npz": _arrays_of_npz,
    ".safetensors": _read_safetensors,
    ".pth": read_pth,
    **dict.fromkeys(("TorchScript", ".pt2", "pickle"), _no_weights),
}
_WORDS = {**_READERS, ".npz": _npz_words, ".safetensors": _safetensors_words, ".pth": _pth_words}
