"""Weights in torchvision's names: `.safetensors`, `.npz` and, through torch itself, `.pth`, each both ways.

torch keeps kernels (O, C, R, S) and matrices (O, C), so a transpose is the whole translation; our names of
variant v1.5 are torchvision's but for the last part. A `.pth` is a pickle, which can run any program when it
is opened: torch's own loader of plain tensors opens it, never we.
"""

import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from minires.backend import to_numpy
from minires.errors import CheckpointError, ConfigError, DataError, MiniresError
from minires.files import atomic_path
from minires.nn import BatchNorm, Config, Network
from minires.nn.resnet import TORCH_NAMES, VARIANTS
from minires.seal import BLANK, seal, sealed
from minires.weights.archives import check_archive, read_npz
from minires.weights.mapping import Found, layer_list
from minires.weights.use import KEY

# our name -> torch's; which of two a "weight" is, the layer's running_mean tells
ROLES = {
    "w": "weight",
    "b": "bias",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
COUNTER = "num_batches_tracked"
WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which training scripts store the weights
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")  # of DataParallel, torch.compile, wrappers


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """(R, S, C, O) -> (O, C, R, S), (C, O) -> (O, C); vectors stay."""
    return np.ascontiguousarray(array.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)))


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_layout`."""
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim))


def read_torch(path: Path) -> Found:
    """The arrays of a `.safetensors`, `.npz` or `.pth` file in torchvision's names."""
    return _carefully(lambda kind: translate(_READERS.get(kind, _read_pth)(path), f"PyTorch {kind}"), path)


def torch_use(path: Path) -> str | None:
    """What the file carries along of use.py, as text."""
    return _carefully(lambda kind: _WORDS[kind](path), path)


def _carefully(read, path: Path):
    """read(kind); whatever a damaged file makes others raise is one line."""
    kind = file_kind(path)
    try:
        return read(kind)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except MiniresError:
        raise
    except Exception as error:  # on damaged files NumPy, zipfile and safetensors raise almost anything
        problem = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path}: a damaged {kind} file ({problem}): download or write it again") from error


def file_kind(path: Path) -> str | None:
    """'.safetensors', '.npz' or '.pth' by what is in the file; None for anything else."""
    try:
        with path.open("rb") as raw:
            head = raw.read(9)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return ".pth"
            return ".npz" if names and all(name.endswith(".npy") for name in names) else None
    except Exception:  # zipfile raises almost anything on damaged archives; the reader that gets it next says so
        return None
    if head[:1] == b"\x80" and path.suffix in (".pth", ".pt"):
        return ".pth"
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return ".safetensors"
    return None


def translate(arrays: dict[str, np.ndarray], kind: str) -> Found:
    """A state_dict as NumPy arrays -> our names and layout."""
    found = Found(kind)
    prefix = _common_prefix(list(arrays))
    for origin, array in arrays.items():
        layer, _, part = origin.removeprefix(prefix).rpartition(".")
        if part == COUNTER:
            found.ignored.append(origin)
            continue
        norm = f"{prefix}{layer}.running_mean" in arrays
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


def _read_safetensors(path: Path) -> dict:
    with _open_safetensors(path) as (file, _):
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
        except TypeError as error:
            problem = f"{path}: a type of number that NumPy does not have ({error}): save the weights as float32"
            raise CheckpointError(problem) from None


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
    words = getattr(_load_pth(path), "_metadata", {}).get(KEY)
    return words if isinstance(words, str) else None


def _load_pth(path: Path):
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{path}: a .pth file is a pickle, which only PyTorch should open, and it is not installed: convert it "
            "where it is, with safetensors.torch.save_file(torch.load('FILE', weights_only=True), 'FILE.safetensors')"
        ) from None
    if zipfile.is_zipfile(path):
        check_archive(path, contents=True)  # torch does not look at the checksums
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds: unpickling, archive, memory
        problem = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: PyTorch does not open it as plain weights ({problem}): save model.state_dict() alone"
        ) from None


def _read_pth(path: Path) -> dict:
    content = _load_pth(path)
    import torch

    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise CheckpointError(f"{path}: expected a state_dict of tensors: save model.state_dict() alone")
    return {name: _plain_array(path, name, tensor) for name, tensor in content.items()}


def _plain_array(path: Path, name, tensor) -> np.ndarray:
    """A tensor as NumPy's; CheckpointError unless it is dense numbers under a name."""
    import torch

    odd = "a key that is no name" if not isinstance(name, str) else None
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        odd = "a sparse, quantised or empty tensor"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        odd = "a view that repeats its numbers"
    if odd:
        raise CheckpointError(f"{path}: {name!r} is {odd}: save dense floating point tensors, each under its name")
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


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


_READERS = {".npz": read_npz, ".safetensors": _read_safetensors, ".pth": _read_pth}
_WORDS = {".npz": _npz_words, ".safetensors": _safetensors_words, ".pth": _pth_words}
