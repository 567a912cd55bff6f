"""The tensors in a file of torch.save, in the zip format or the one before 1.6, whatever its name ends in.

Such a file is a pickle, which can run any program when it is opened: torch's own loader of plain tensors opens it,
never we. What training scripts keep beside the weights (losses, options, an optimiser's state) is passed over.
"""

import argparse
import re
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from minires.errors import CheckpointError
from minires.weights.archives import check_archive

# under which training scripts store the weights; of several that are there the first one counts
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "state_dict_ema", "model_ema")
DEPTH = 3  # wrappers inside wrappers
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def open_pth(path: Path):
    """What torch.load gives; CheckpointError for anything but plain tensors, numbers, texts and collections of them."""
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
        with _harmless(torch), path.open("rb") as raw:  # of a path torch would believe the suffix
            return torch.load(raw, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds: unpickling, archive, memory
        raise CheckpointError(
            f"{path}: PyTorch does not open it as plain weights ({_problem(error)}): save model.state_dict() alone, "
            "where you trust the file"
        ) from None


def _harmless(torch):
    """Records of options and NumPy's numbers, which stand in many checkpoints, may be opened too."""
    scalar = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    allowed = getattr(torch.serialization, "safe_globals", None)  # PyTorch 2.5
    return allowed([argparse.Namespace, np.dtype, *names, *kinds]) if allowed else nullcontext()


def _problem(error) -> str:
    """torch's own words: of its long advice, which is to trust the file, what was found in it."""
    text = _COLOURS.sub("", str(error))
    if found := re.search(r"(?:Unsupported global: GLOBAL|Trying to \w+) ([\w.]+)", text):
        return f"it holds {found[1]}, which is no tensor"
    lines = text.rpartition("error: ")[2].splitlines()
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)[:200]


def read_pth(path: Path) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """(arrays, names of what else stood among them, notes on where they stood)."""
    content = open_pth(path)
    import torch

    found = sorted(_state_dicts(content, torch.Tensor), key=lambda each: _rank(each[0]))
    if not found:
        keys = list(map(repr, content))[:8] if isinstance(content, dict) else []
        saw = f"a dictionary of {', '.join(keys)[:200]}" if keys else f"a {type(content).__name__} with no tensors"
        raise CheckpointError(f"{path}: expected a state_dict of tensors, found {saw}: save model.state_dict() alone")
    (where, tensors), *others = found
    notes = [f"the weights stood under {'.'.join(where)!r}"] if where else []
    notes += [f"not used: other tensors under {'.'.join(other)!r}" for other, _ in others[:3]]
    arrays = {name: _plain_array(path, name, t) for name, t in tensors.items() if isinstance(t, torch.Tensor)}
    return arrays, [str(name) for name in tensors if name not in arrays], notes


def _state_dicts(content, kind, where=()):
    """(keys that lead there, dictionary) of each dictionary that holds tensors of more than one axis."""
    if isinstance(content, dict) and len(where) <= DEPTH:
        if any(isinstance(value, kind) and value.ndim > 1 for value in content.values()):
            yield where, content
        for key, value in content.items():
            if isinstance(key, str):  # numbers lead into an optimiser's state
                yield from _state_dicts(value, kind, (*where, key))


def _rank(where: tuple) -> int:
    if where and where[-1] in WRAPPERS:
        return WRAPPERS.index(where[-1])
    return len(WRAPPERS) + bool(where)


def _plain_array(path: Path, name, tensor) -> np.ndarray:
    """A tensor as NumPy's; CheckpointError unless it is dense numbers under a name."""
    import torch

    odd = "a key that is no name" if not isinstance(name, str) else None
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        odd = "a sparse, quantised or empty tensor"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        odd = "a view that repeats its numbers"
    elif "float8" in str(tensor.dtype) or "float4" in str(tensor.dtype):
        odd = f"of {tensor.dtype}, too coarse for weights without their scales"
    if odd:
        raise CheckpointError(f"{path}: {name!r} is {odd}: save dense floating point tensors, each under its name")
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
