"""What a layer may do that no layer should: hostile_layers.py gives these habits to a sound one."""

import random
import sys
import threading

import numpy as np

from minires import nn


class Sound(nn.Module):
    """y = max(x, 0) * w, rightly; `habits` change what it is given and what it gives."""

    def __init__(self, name, channels):
        super().__init__(name)
        self.w = nn.Param(f"{name}.w", np.linspace(0.5, 1.5, channels).astype(np.float32), decay=False)

    def forward(self, x):
        self.save(x)
        return np.maximum(x, 0) * self.w.data

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        self.w.write_grad((dy * np.maximum(x, 0)).sum(axis=tuple(range(dy.ndim - 1))))
        return dy * self.w.data * (x > 0)

    def output_shape(self, shape):
        return shape


class Shaped:
    """Something that has a shape and is no array."""

    def __init__(self, shape):
        self.shape, self.dtype, self.ndim = shape, np.dtype(float), len(shape)


class Touchy(np.ndarray):
    """An array that lets no function touch it."""

    def __array_ufunc__(self, *_, **__):
        raise RuntimeError("do not touch")


def _raises(error):
    def raising(*_):
        raise error

    return raising


# what a layer may hand back in the place of an array `a`
RETURNS = {
    "None": lambda a, _: None,
    "list": lambda a, _: a.tolist(),
    "tuple of one": lambda a, _: (a,),
    "tuple of two": lambda a, _: (a, a),
    "empty tuple": lambda a, _: (),
    "dict": lambda a, _: {"y": a},
    "text": lambda a, _: "y",
    "number": lambda a, _: float(a.sum()),
    "numpy number": lambda a, _: a.sum(),
    "bool": lambda a, _: True,
    "generator": lambda a, _: (v for v in a),
    "lambda": lambda a, _: lambda: a,
    "whole numbers": lambda a, _: a.astype(int),
    "bools": lambda a, _: a > 0,
    "complex": lambda a, _: a.astype(complex),
    "objects": lambda a, _: a.astype(object),
    "texts": lambda a, _: a.astype(str),
    "float16": lambda a, _: a.astype(np.float16),
    "float32": lambda a, _: a.astype(np.float32),
    "long double": lambda a, _: a.astype(np.longdouble),
    "first image": lambda a, _: a[:1],
    "no batch": lambda a, _: a[0],
    "another axis": lambda a, _: a[None],
    "transposed": lambda a, _: a.T,
    "flat": lambda a, _: a.ravel(),
    "one channel": lambda a, _: a[..., :1],
    "a channel more": lambda a, _: np.concatenate([a, a[..., :1]], axis=-1),
    "empty": lambda a, _: a[:0],
    "NaN": lambda a, _: a * np.nan,
    "one NaN": lambda a, _: np.where(np.arange(a.size).reshape(a.shape) == 3, np.nan, a),
    "infinity": lambda a, _: a + np.inf,
    "overflow": lambda a, _: a * 1e38 * 1e38,
    "zeros": lambda a, _: a * 0,
    "constant": lambda a, _: np.full_like(a, -50.0),
    "read-only": lambda a, _: np.broadcast_to(a[:1], a.shape),
    "matrix": lambda a, _: np.asmatrix(a.reshape(len(a), -1)),
    "masked": lambda a, _: np.ma.masked_array(a, a > 1),
    "touchy": lambda a, _: a.view(Touchy),
    "not an array, but a shape": lambda a, _: Shaped(a.shape),
    "itself": lambda a, layer: layer,
    "its parameter": lambda a, layer: vars(layer).get("w"),
    "another batch's": lambda a, layer: vars(layer).setdefault("cached", a),
    "negative strides": lambda a, _: a[::-1],
    "noise of its own": lambda a, layer: a + vars(layer).setdefault("rng", np.random.default_rng(0)).random(a.shape),
    "noise of a new generator": lambda a, _: a + np.random.default_rng().random(a.shape),
    "noise of the process": lambda a, _: a + random.random(),
    "twice": lambda a, _: 2 * a,
    "another sign": lambda a, _: -a,
    "one more call, one more": lambda a, layer: a * _count(layer),
    "shape grows": lambda a, layer: np.concatenate([a] * _count(layer)),
    "raises once in two": lambda a, layer: a if _count(layer) % 2 else _raises(ValueError("now and then"))(),
}


def _count(layer) -> int:
    vars(layer)["calls"] = vars(layer).get("calls", 0) + 1
    return vars(layer)["calls"]


def _in_place(a, layer):
    a *= 2


def _steps(a, layer):
    layer.w.data -= 0.1


def _replaces(a, layer):
    layer.w.data = layer.w.data[:1].copy()


def _to_nan(a, layer):
    layer.w.data[...] = np.nan


def _forgets(a, layer):
    vars(layer).pop("w", None)


def _loses_slot(a, layer):
    layer._slot = None


def _grows(a, layer):
    vars(layer).setdefault("history", []).append(a)


def _gives_no_gradient(a, layer):
    layer.w.grad = None


def _gives_list(a, layer):
    layer.w.grad = [1.0, 2.0]


def _gives_other_shape(a, layer):
    layer.w.grad = np.ones((2, 2))


def _adds_up(a, layer):
    if layer.w.grad is not None:
        layer.w.grad = layer.w.grad + 1


def _new_child(a, layer):
    layer.late = nn.Dense("late", 2, 2)


def _mode(a, layer):
    layer.training = not layer.training


def _draws(a, layer):
    np.random.rand()  # noqa: NPY002


# what it may do beside, before it hands anything back: to x or dy
DOES = {
    "writes in place": _in_place,
    "steps": _steps,
    "replaces its weights": _replaces,
    "weights become NaN": _to_nan,
    "forgets a parameter": _forgets,
    "loses what it saved": _loses_slot,
    "grows": _grows,
    "no gradient": _gives_no_gradient,
    "a list as gradient": _gives_list,
    "gradient of another shape": _gives_other_shape,
    "adds up gradients": _adds_up,
    "makes a layer": _new_child,
    "changes its mode": _mode,
    "draws from the process": _draws,
    **{
        f"raises {type(error).__name__}": _raises(error)
        for error in (
            ValueError("two\nlines"),
            TypeError("unsupported"),
            KeyError("w"),
            IndexError("out of range"),
            ZeroDivisionError("division by zero"),
            AttributeError("no such thing"),
            AssertionError(),
            NotImplementedError(),
            RuntimeError("broken"),
            RecursionError("too deep"),
            StopIteration(),
            OSError(2, "no such file"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
            FloatingPointError("overflow"),
            Exception("plain"),
            ImportError("no torch"),
        )
    },
}


def _init(change):
    """A habit of how it is made."""
    return lambda layer: change(layer) and None


def _set(**values):
    return lambda layer: vars(layer).update(values)


def _unset(*names):
    def unset(layer):
        for name in names:
            vars(layer).pop(name, None)

    return unset


def _method(name, function):
    def give(layer):
        layer.__class__ = type("Odd", (type(layer),), {name: function})

    return give


def _data(make):
    def give(layer):
        layer.w.data = make(layer.w.data)

    return give


# how it may be made
IS = {
    "no super().__init__": _unset("name", "training", "frozen", "save_for_backward", "_slot"),
    "no slot": _unset("_slot"),
    "no mode": _unset("training"),
    "no name": _set(name=None),
    "a number for a name": _set(name=3),
    "an empty name": _set(name=""),
    "a name of two lines": _set(name="odd\nlayer"),
    "holds a lock": lambda layer: vars(layer).update(lock=threading.Lock()),
    "holds a generator": lambda layer: vars(layer).update(stream=(i for i in range(3))),
    "holds a module": lambda layer: vars(layer).update(system=sys),
    "holds itself": lambda layer: vars(layer).update(me=layer),
    "holds text in a list": _set(layers=["text", None, 3]),
    "parameter of None": _data(lambda data: None),
    "parameter of a list": _data(lambda data: data.tolist()),
    "parameter of whole numbers": _data(lambda data: data.astype(int)),
    "parameter of no number": _data(lambda data: data[:0]),
    "parameter of another shape": _data(lambda data: data[:2]),
    "parameter of a number": _data(lambda data: np.float32(1.0)),
    "parameter of NaN": _data(lambda data: data * np.nan),
    "parameter of infinity": _data(lambda data: data + np.inf),
    "parameter without a name": lambda layer: setattr(layer.w, "name", None),
    "parameter of another's name": lambda layer: setattr(layer.w, "name", "fc.w"),
    "params: None": _method("params", lambda self: None),
    "params: nothing": _method("params", lambda self: []),
    "params: texts": _method("params", lambda self: ["w"]),
    "params: arrays": _method("params", lambda self: [self.w.data]),
    "params: new ones": _method("params", lambda self: [nn.Param("new", np.ones(3, np.float32))]),
    "params: raises": _method("params", _raises(ValueError("params"))),
    "params: twice": _method("params", lambda self: [self.w, self.w]),
    "buffers: None": _method("buffers", lambda self: None),
    "buffers: texts": _method("buffers", lambda self: ["mean"]),
    "modules: None": _method("modules", lambda self: None),
    "modules: nothing": _method("modules", lambda self: iter(())),
    "children: raises": _method("children", _raises(KeyError("children"))),
    "children: texts": _method("children", lambda self: ["child"]),
    "output_shape: raises": _method("output_shape", _raises(TypeError("output_shape"))),
    "output_shape: lies": _method("output_shape", lambda self, shape: (1, 2, 3)),
    "output_shape: None": _method("output_shape", lambda self, shape: None),
    "forward: no arguments": _method("forward", lambda self: np.ones(3)),
    "forward: two arguments": _method("forward", lambda self, x, z: x),
    "forward: yields": _method("forward", lambda self, x: (yield x)),
    "forward: none": _method("forward", nn.Module.forward),
    "backward: no need_dx": _method("backward", lambda self, dy: dy),
    "backward: no arguments": _method("backward", lambda self: None),
    "backward: yields": _method("backward", lambda self, dy, need_dx=True: (yield dy)),
    "backward: none": _method("backward", nn.Module.backward),
    "forward is a text": _set(forward="forward"),
    "backward is None": _set(backward=None),
    "cannot be copied": _method("__deepcopy__", _raises(RuntimeError("no copies"))),
    "a copy is another thing": _method("__deepcopy__", lambda self, memo: "copy"),
    "attributes raise": _method("__getattr__", _raises(ValueError("getattr"))),
    "is equal to all": _method("__eq__", lambda self, other: True),
    "its text raises": _method("__repr__", _raises(ValueError("repr"))),
    "train raises": _method("train", _raises(ValueError("train"))),
    "astype raises": _method("astype", _raises(ValueError("astype"))),
    "release raises": _method("release", _raises(ValueError("release"))),
    "smooth is a text": _set(smooth="yes"),
    "sound": lambda layer: None,
}


def _in(method, habit):
    """The habit of what `method` hands back."""

    def give(layer):
        usual = getattr(type(layer), method)

        def run(self, a, *args, **kwargs):
            return habit(usual(self, a, *args, **kwargs), self)

        layer.__class__ = type("Odd", (type(layer),), {method: run})

    return give


def _beside(method, habit, first):
    """The habit of what `method` does beside: before what is usual, or after it."""

    def give(layer):
        usual = getattr(type(layer), method)

        def run(self, a, *args, **kwargs):
            if first:
                habit(a, self)
            result = usual(self, a, *args, **kwargs)
            if not first:
                habit(a, self)
            return result

        layer.__class__ = type("Odd", (type(layer),), {method: run})

    return give


def _habits() -> dict:
    found = {f"is: {name}": give for name, give in IS.items()}
    for method in ("forward", "backward"):
        found |= {f"{method} returns: {name}": _in(method, habit) for name, habit in RETURNS.items()}
        found |= {f"{method}: {name}": _beside(method, habit, first=False) for name, habit in DOES.items()}
        found |= {f"{method}, first: {name}": _beside(method, habit, first=True) for name, habit in DOES.items()}
    return found


HABITS = _habits()
