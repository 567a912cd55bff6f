"""What a network is made of, as plain data: so that a checkpoint is never rebuilt as another network in silence."""

import zlib
from itertools import zip_longest

import numpy as np

from minires.backend import to_numpy
from minires.nn import Module
from minires.nn.module import Buffer, Param

# what differs from one use of the same network to the next
_MODES = {"name", "training", "frozen", "save_for_backward", "update_running_stats"}


def describe(model: Module) -> list[dict]:
    """Each module, depth first: its name, class, the functions that it runs, and its settings; JSON data."""
    return [
        {
            "name": m.name,
            "class": _qualified(type(m)),
            "runs": [_qualified(type(m).forward), _qualified(type(m).backward)],
            "settings": {
                key: _plain(value)
                for key, value in vars(m).items()
                if not (key.startswith("_") or key in _MODES or _holds_state(value))
            },
        }
        for m in model.modules()
    ]


def difference(stored: list[dict], model: Module, *, by_hand: bool = False) -> str | None:
    """The first module in which `model` is not what was stored, in words; None where it is the same.

    by_hand: the network was put together by its user, so a class of the same name in another module will do.
    """
    for theirs, ours in zip_longest(stored, describe(model)):
        if theirs is None or ours is None:
            name, was, now = (theirs or ours)["name"], *(m["class"] if m else "nothing" for m in (theirs, ours))
            return f"{name} was {was}, here it is {now}"
        if by_hand:
            theirs, ours = ({**m, "class": m["class"].rpartition(".")[2], "runs": []} for m in (theirs, ours))
        for key in ("class", "runs"):
            if theirs[key] != ours[key]:
                return f"{theirs['name'] or ours['name']} was {_words(theirs[key])}, here it is {_words(ours[key])}"
        for key, value in theirs["settings"].items():
            if ours["settings"].get(key) != value:
                return f"{theirs['name']} had {key} {value}, here it is {ours['settings'].get(key)}"
    return None


def _words(what) -> str:
    return what if isinstance(what, str) else f"run by {', '.join(what)}"


def _holds_state(value) -> bool:
    """Modules have entries of their own, arrays are in the file."""
    return any(isinstance(v, Module | Param | Buffer) for v in (value if isinstance(value, list) else [value]))


def _qualified(thing) -> str:
    """The name of a class or function; of ours without the file, which may change."""
    package = thing.__module__
    return f"{'minires' if package.startswith('minires.') else package}.{thing.__qualname__}"


def _plain(value):
    """A setting as JSON data; an object of any other kind by its type."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "__array__"):
        array = np.ascontiguousarray(to_numpy(value))
        return ["array", str(array.dtype), list(array.shape), zlib.crc32(array)]
    return _qualified(value if hasattr(value, "__qualname__") else type(value))
