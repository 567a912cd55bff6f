"""Layers of somebody else's, run so that whatever they do ends in an error of ours, which names the layer.

`guarded` wraps a module's forward or backward, `owned` a whole instrument, `copied` copies a network. What a layer
gets wrong before there is any number to judge (no array, another shape, an exception) is raised with a `finding`
of the same words, so that an instrument that reports faults can report this one.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minires.backend import Array
from minires.errors import ConfigError, MiniresError, ShapeError, StateError
from minires.instruments.findings import Finding
from minires.nn.module import MODES, Module, Param


def label(module: Module) -> str:
    """A module's name, or its type where it has none."""
    name = getattr(module, "name", "")
    return name if name and isinstance(name, str) else type(module).__name__


def fault(error: type[MiniresError], name: str, detail: str, fix: str) -> MiniresError:
    """An error of ours that carries the finding."""
    raised = error(f"{detail}: {fix}")
    raised.finding = Finding(name, "fail", detail, fix)
    return raised


def told(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' * bool(text)}{text[:160]}"


def kind(value) -> str:
    """What a value is, in words."""
    if value is None:
        return "None"
    name = type(value).__name__
    if isinstance(value, tuple | list):
        return f"a {name} of {len(value)}"
    return f"{name} {value.dtype} {tuple(value.shape)}" if is_array(value) else f"a value of type {name}"


def is_array(value) -> bool:
    """Whether it is an array of NumPy, CuPy or the like; a single number of NumPy's is none."""
    if isinstance(value, np.ndarray | np.generic):
        return isinstance(value, np.ndarray)
    return hasattr(value, "__array_namespace__") and hasattr(value, "dtype")


def is_plain(value) -> bool:
    """Whether it is an array, and of no class of its own, such as a matrix or a masked array."""
    return is_array(value) and (not isinstance(value, np.ndarray) or type(value) in (np.ndarray, np.memmap))


@contextmanager
def owned(what: str) -> Iterator[None]:
    """Inside, an exception of another kind than ours becomes one of ours, by the innermost layer that it went through.

    A layer that calls forbidden things is no reason to hide that memory is short."""
    try:
        yield
    except (MiniresError, MemoryError):
        raise
    except Exception as error:
        module, method, frame = None, "", error.__traceback__
        while frame:
            held = frame.tb_frame.f_locals.get("self")
            if isinstance(held, Module):
                module, method = held, frame.tb_frame.f_code.co_name
            frame = frame.tb_next
        where = f"{label(module)}.{method}" if module is not None else what
        fix = "mend the layer, or run it by itself to see the whole traceback"
        raise fault(StateError, "raises", f"{where} raises {told(error)}", fix) from error


def copied(model: Module) -> Module:
    """A deep copy; ConfigError naming what cannot be copied."""
    try:
        twin = copy.deepcopy(model)
        for one, other in zip(_reached(model), _reached(twin) if isinstance(twin, Module) else [twin], strict=False):
            if type(one) is not type(other):
                detail = f"a copy of {label(one)} ({type(one).__name__}) is {kind(other)}"
                raise fault(ConfigError, "not copied", detail, "let it be copied as it is: drop its __deepcopy__")
        return twin
    except (MiniresError, MemoryError):
        raise
    except Exception as error:
        held = [(m, key, value) for m in _reached(model) for key, value in vars(m).items()]
        for module, key, value in held[::-1]:  # what is inside comes before what holds it
            try:
                copy.deepcopy(value)
            except Exception:
                detail = f"{label(module)} holds {key} ({type(value).__name__}), which cannot be copied"
                fix = "make it where it is used, or keep arrays alone in a layer"
                raise fault(ConfigError, "not copied", detail, fix) from error
        fix = "keep arrays alone in a layer"
        raise fault(ConfigError, "not copied", f"{label(model)} cannot be copied: {told(error)}", fix) from error


def _reached(model) -> list[Module]:
    """Every module below, each once, also where a layer's own `modules` fails."""
    found, todo = [], [model]
    while todo:
        module = todo.pop()
        if any(module is other for other in found):
            continue
        found.append(module)
        members = (v for value in vars(module).values() for v in (value if isinstance(value, list) else [value]))
        todo += [m for m in members if isinstance(m, Module)]
    return found


def check_model(model: Module) -> None:
    """ConfigError, naming the layer, for what a Module has to have and does not."""
    if not isinstance(model, Module):
        raise ConfigError(f"expected a minires.Module, got {kind(model)}: derive the network from Module")
    for module in _reached(model):
        missing = sorted(name for name in (*MODES, "_slot") if not hasattr(module, name))
        if missing:
            detail = f"{label(module)} ({type(module).__name__}) has no {', '.join(missing[:3])}"
            raise fault(ConfigError, "not a layer", detail, "let its __init__ call super().__init__(name)")
        if not isinstance(module.name, str) or "\n" in module.name:
            detail = f"{type(module).__name__} has the name {module.name!r}, expected a text of one line"
            raise fault(ConfigError, "not a layer", detail, "call super().__init__(name) with such a text")
        for key, value in vars(module).items():
            if isinstance(value, Param) and not (is_array(value.data) and value.data.dtype.kind == "f"):
                detail = f"{label(module)}.{key}: expected an array of floats as data, got {kind(value.data)}"
                raise fault(ConfigError, "not a layer", detail, "hand Param a float array")
    with owned(f"{label(model)}.params"):
        own = list(model.params())
        below, buffers = list(model.modules()), list(model.buffers())
    for what, found in (("params", own), ("buffers", buffers), ("modules", below)):
        for value in found:
            fits = isinstance(value, Module) if what == "modules" else is_array(getattr(value, "data", None))
            if not fits:
                detail = f"{label(model)}.{what}() gives {kind(value)} ({value!r:.40}), expected {what.capitalize()}"
                raise fault(ConfigError, "not a layer", detail, f"let {what} be those of Module")
    known, names = {id(p) for p in own}, {}
    for p in own:
        if names.setdefault(p.name, p) is not p:
            detail = f"{label(model)}: two parameters are called {p.name!r}"
            raise fault(ConfigError, "not a layer", detail, "give each layer a name of its own")
    for module in below:
        for value in module._members():
            if isinstance(value, Param) and id(value) not in known:
                detail = f"{label(model)}.params() leaves out {value.name}: it would never be trained"
                raise fault(ConfigError, "not a layer", detail, "let params be that of Module, which finds every Param")


def call(module: Module, method: str, function, *args, **kwargs):
    """function(*args) for a module's forward or backward; StateError, naming it, for an exception of another kind."""
    try:
        return function(*args, **kwargs)
    except (MiniresError, MemoryError):
        raise
    except NotImplementedError as error:
        detail = f"{label(module)} ({type(module).__name__}) has no {method}"
        raise fault(StateError, "raises", detail, f"write it{_so_far(error)}") from error
    except Exception as error:
        given = ", ".join(kind(a) for a in args if is_array(a) or a is None)
        fix = _need_dx(module, method, error) or "mend it; what it was given it has to take"
        raise fault(
            StateError, "raises", f"{label(module)}.{method} raises {told(error)}, given {given}", fix
        ) from error


def _so_far(error) -> str:
    return f" ({error})" if str(error) else ""


def _need_dx(module, method, error) -> str:
    if method == "backward" and isinstance(error, TypeError) and "need_dx" in str(error):
        return "let it take need_dx: def backward(self, dy, need_dx=True)"
    return ""


def check_forward(module: Module, inputs: tuple, y) -> None:
    """StateError or ShapeError where a forward's result is no array of floats."""
    who = f"{label(module)}.forward"
    if not is_plain(y):
        raise fault(StateError, "no array", f"{who} returns {kind(y)}, expected one array", "return y, a plain array")
    if not y.size:
        raise fault(ShapeError, "shape", f"{who} returns no number at all, shape {y.shape}", "return one row an image")
    if y.dtype.kind == "f" and y.dtype.itemsize > 8:
        detail = f"{who} returns {kind(y)}, expected float64 or less"
        raise fault(StateError, "no floats", detail, "keep the dtype of x")
    if y.dtype.kind in "cOSUV" or (y.dtype.kind in "biu" and all(x.dtype.kind == "f" for x in inputs)):
        detail = f"{who} returns {kind(y)}, expected floats"
        raise fault(StateError, "no floats", detail, "keep the dtype of x: whole numbers have no derivative")
    if y.ndim == 0 and module.children():
        raise fault(ShapeError, "shape", f"{who} returns one number, expected (N, ...)", "keep the batch's axis")


def check_backward(module: Module, inputs: tuple, dx, need_dx: bool) -> tuple:
    """The gradients as a tuple; ShapeError or StateError where they are not one of each input's shape."""
    who = f"{label(module)}.backward"
    if isinstance(dx, list):
        dx = tuple(dx)
    given = dx if isinstance(dx, tuple) else (dx,)
    if isinstance(dx, tuple) and len(given) == len(inputs) == 1:
        detail = f"{who} returns a tuple of 1, expected dx itself"
        raise fault(ShapeError, "gradient's shape", detail, "return dx, not (dx,): look for a comma at the end")
    wanted = [tuple(x.shape) for x in inputs]
    shapes = ", ".join(map(str, wanted))
    if not need_dx and (dx is None or all(d is None for d in given)):
        return given
    if len(given) != len(inputs):
        detail = f"{who} returns {len(given)} gradients, expected {len(inputs)}, of shapes {shapes}"
        raise fault(ShapeError, "gradient's shape", detail, "return one for each input, in forward's order")
    for d, x, shape in zip(given, inputs, wanted, strict=True):
        if d is None and x.dtype.kind != "f":
            continue
        if d is None:
            detail = f"{who} returns None, expected dx of shape {shape}"
            raise fault(StateError, "never written", detail, "compute dx in backward, and return it")
        if not is_plain(d) or d.dtype.kind not in "fiu":
            detail = f"{who} returns {kind(d)}, expected an array of floats {shape}"
            raise fault(StateError, "no array", detail, "return dx as one array of x's shape and dtype")
        if tuple(d.shape) != shape:
            detail = f"{who} returns dx of shape {tuple(d.shape)}, expected {shape}, that of x"
            raised = fault(ShapeError, "gradient's shape", detail, "a gradient has the shape of what it is for")
            raised.module, raised.dx = module, d
            raise raised
    return given


def takes_need_dx(backward) -> bool:
    """Whether a backward can be told that no dx is needed."""
    try:
        taken = inspect.signature(backward).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == "need_dx" or p.kind == p.VAR_KEYWORD for p in taken)


def check_input(what: str, x: Array) -> np.ndarray:
    """The array of numbers that x is; ShapeError where it is none."""
    try:
        x = np.array(x.get() if hasattr(x, "get") and not isinstance(x, np.ndarray | dict) else x)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{what}: expected an array of numbers, got {kind(x)}: {told(error)}") from error
    if x.dtype.kind not in "fiub":
        raise ShapeError(f"{what}: expected an array of real numbers, got {kind(x)}: convert it with astype(float)")
    if not x.size:
        raise ShapeError(f"{what}: expected at least one number, got an array of shape {x.shape}: give it some images")
    return x


def not_finite(model: Module) -> Finding | None:
    """The first parameter or buffer that holds a NaN or an infinity, and how many more."""
    bad = []
    for what, held in (("parameter", model.params()), ("buffer", model.buffers())):
        for value in {id(v): v for v in held}.values():
            count = int(value.data.size - np.isfinite(_host(value.data)).sum())
            if count:
                bad.append((what, value.name, count, value.data.size))
    if not bad:
        return None
    what, name, count, size = bad[0]
    more = f" (and {len(bad) - 1} more)" if bad[1:] else ""
    detail = f"{count} of {size} numbers of the {what} {name} are not finite{more}: nothing else can be told"
    fix = "load other weights, or train anew at a lower rate: the loss was NaN before they were"
    return Finding("weights not finite", "fail", detail, fix)


def _host(x):
    return x if isinstance(x, np.ndarray) else x.get()
