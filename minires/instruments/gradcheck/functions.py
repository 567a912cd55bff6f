"""The subject that a pair of functions (forward, backward) is, and the choice between it and a module's."""

import inspect

import numpy as np

from minires import nn
from minires.errors import ConfigError, MiniresError, ShapeError
from minires.instruments import guard
from minires.instruments.findings import Finding
from minires.instruments.gradcheck import draws, notes
from minires.instruments.gradcheck.subject import ModuleSubject, Subject
from minires.instruments.gradcheck.watch import copies


def make_subject(target, x, *, dtype, training=None, dy=None, seed=0):
    """The subject of a Module, or of a pair (forward, backward); arguments as `gradcheck.gradcheck` has them."""
    arrays = x if isinstance(x, dict) else dict(enumerate(x if isinstance(x, tuple) else (x,)))
    arrays = {name: guard.check_input("gradcheck", a) for name, a in arrays.items()}
    single = dtype is not None and any(a.dtype == np.float32 for a in arrays.values())
    if dtype is not None:
        arrays = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    if isinstance(target, nn.Module):
        guard.check_model(target)
        module = guard.copied(target).to("cpu")
        module = module if dtype is None else module.astype(dtype)
        module = module if training is None else module.train(training)
        for part in module.modules():
            part.save_for_backward = True
        subject = _of_whole_numbers(module, arrays, dy, seed) or ModuleSubject(module, arrays, dy, seed)
    else:
        if not (isinstance(target, tuple | list) and len(target) == 2 and all(map(callable, target))):
            got = guard.kind(target)
            raise ConfigError(f"gradcheck: expected a minires.Module, or a pair (forward, backward), got {got}")
        subject = FunctionSubject(*target, arrays, dy, seed)
    if single and not subject.stopped and subject.y.dtype == np.float64:
        detail = "x is float32: a copy was checked in float64, since float32 differences have 2 or 3 digits"
        subject.notes.append(Finding("float32", "ok", detail))
    return subject


def _of_whole_numbers(module, arrays, dy, seed):
    """The subject with whole numbers as floats; None where there are none, or the layer takes them as places."""
    if any(a.dtype.kind == "f" for a in arrays.values()):
        return None
    floats = {name: a.astype(np.float64) for name, a in arrays.items()}
    try:
        subject = ModuleSubject(module, floats, dy, seed)
    except MiniresError:
        return None
    detail = "x holds whole numbers: a copy in float64 was checked"
    subject.notes.append(Finding("whole numbers", "ok", detail))
    return subject


class FunctionSubject(Subject):
    def __init__(self, forward, backward, arrays, dy, seed):
        self._forward, self._backward = forward, backward
        self.title = getattr(forward, "__name__", "function").strip("<>")
        try:
            names = list(inspect.signature(forward).parameters)
        except (TypeError, ValueError):  # of a built-in one
            names = []
        names = names or [f"x{i}" for i in range(len(arrays))]
        self.input_names = [n if isinstance(n, str) else names[min(n, len(names) - 1)] for n in arrays]
        if len(set(self.input_names)) < len(self.input_names):  # forward(*xs)
            self.input_names = [f"{name}{i}" for i, name in enumerate(self.input_names)]
        self.tensors = self.all = dict(zip(self.input_names, arrays.values(), strict=True))
        self.all_tensors = self.all
        self.inputs, self.calls, self.constant = tuple(arrays.values()), {}, set()
        self.finish(dy, seed)

    def nearby(self):
        return FunctionSubject(self._forward, self._backward, self.moved_inputs(), self.dy, 0)

    def forward(self, mode="off", moved=()):
        if self.drew:
            draws.set_process(self.start)
        with guard.owned(self.title):
            y = self._forward(*copies(self.all.values()))
        if isinstance(y, float | int):
            y = np.float64(y)
        if not isinstance(y, np.ndarray | np.generic) or y.dtype.kind not in "fiub":
            detail = f"{self.title} returns {guard.kind(y)}, expected one array of floats"
            raise guard.fault(ShapeError, "no array", detail, "return y alone, an array")
        return y.astype(np.float64) if y.dtype.kind in "iub" else y

    def patterns(self):
        return {}

    def gradients(self, dy):
        given = [dy, *self.all.values()]
        before = [a.copy() for a in given]
        name = getattr(self._backward, "__name__", "backward").strip("<>")
        name = "backward" if name == "lambda" else name
        with guard.owned(name):
            grads = self._backward(*given)
        self.changed = [
            name for name, a, b in zip(["dy", *self.all], given, before, strict=True) if not np.array_equal(a, b)
        ]
        for a, b in zip(given, before, strict=True):
            a[...] = b
        grads = tuple(grads) if isinstance(grads, tuple | list) else (grads,)
        if len(grads) != len(self.all):
            detail = f"{name} returns {len(grads)} gradients, expected {len(self.all)}: {', '.join(self.all)}"
            raise guard.fault(ShapeError, "gradient's shape", detail, "return one for each input, None for a label")
        self.constant = {name for name, g in zip(self.all, grads, strict=True) if g is None}
        if self.constant == set(self.all):
            detail = f"{name} returns None, expected the gradient of {', '.join(self.all)}"
            raise guard.fault(ShapeError, "never written", detail, "return it")
        grads = {name: None if g is None else np.array(g) for name, g in zip(self.all, grads, strict=True)}
        for tensor, g in grads.items():
            if g is not None and g.dtype.kind not in "fiub":
                detail = f"{name} returns {guard.kind(g)} as the gradient of {tensor}, expected floats"
                raise guard.fault(ShapeError, "no array", detail, f"return an array {self.all[tensor].shape}")
        return grads

    def another(self, dy, **_) -> dict:
        """The gradients of a further pass."""
        return self.gradients(dy)

    def after_first_pass(self):
        for name in self.changed:
            detail = f"{self.title}: backward writes in place into the {name} it was handed"
            fix = f"compute a new array, such as dx = dy * (y > 0), and leave {name} as it is"
            self.notes.append(Finding("in-place write", "warn", detail, fix))
        return None if self.same(self.forward()) else notes.changed_by_backward(self.title)

    def first_float32(self):
        return self.title
