"""What a gradient check moves and evaluates: a wrapped copy of a network, or (functions.py) a pair of functions.

A subject makes, of either, tensors by name, a forward, and the gradients at the starting point. Where forward is no
function, or not finite, or backward hands back no gradient, `stopped` says so: there is nothing to judge.
"""

import copy
import inspect
from functools import cached_property

import numpy as np

from minires import nn
from minires.errors import MiniresError, ShapeError
from minires.instruments import guard
from minires.instruments.dead import Rectifier, dead_relus, rectifies
from minires.instruments.findings import Finding
from minires.instruments.gradcheck import draws, notes
from minires.instruments.gradcheck.watch import Watch, copies, count_writes, crossing
from minires.instruments.guard import label

FLOAT32 = {"epsilon": 1e-2, "tolerance": 3e-2}  # what float32 can tell at best


class Subject:
    """What is checked: tensors by name that can be moved, a forward, and the gradients at the start."""

    module = pristine = None
    mode = "function"
    known = False  # whether forward was looked at before, as a part of a whole
    drew = False  # whether the process's own generator of random numbers moves in forward
    y = None

    def finish(self, dy, seed):
        """The pass at the starting point, from which everything else departs."""
        self.notes: list[Finding] = []
        self.stopped = False
        self.misshapen: dict[str, np.ndarray] = {}
        self.dy = self.error = None
        self.grads: dict = {}
        self.start = draws.process()
        with np.errstate(all="ignore"):
            if stop := self.look_at_forward():
                return self.stop(stop)
            # a stream of its own: a dy that equals the caller's x makes the dx of a batch norm vanish
            rng = np.random.default_rng([seed, 1])
            self.dy = rng.standard_normal(self.y.shape) if dy is None else guard.check_input("gradcheck: dy", dy)
            if self.dy.shape != self.y.shape:
                raise ShapeError(f"gradcheck: dy has shape {self.dy.shape}, expected {self.y.shape}, that of y")
            self.dy = self.dy.astype(self.y.dtype)
            before = {name: t.copy() for name, t in self.tensors.items()}
            try:
                grads = self.gradients(self.dy.copy())
            except MiniresError as error:
                if not hasattr(error, "finding"):
                    raise
                self.error = error
                return self.stop(error.finding)
        self.sort_gradients(grads)
        self.tensors = {n: t for n, t in self.tensors.items() if t.dtype.kind == "f" and n not in self.constant}
        self.put_back(before)
        if stop := self.after_first_pass():
            return self.stop(stop)
        if self.y.dtype == np.float32:
            where = self.first_float32()
            reason = f"from {where} on" if where else "as the input or the weights are"
            detail = f"{self.title} computes in float32, {reason}: judged to {FLOAT32['tolerance']:g} only"
            fix = "check in float64 (dtype=np.float64), and keep every constant and result in the dtype of x"
            self.notes.append(Finding("float32", "warn", detail, fix))

    def stop(self, finding):
        self.notes.append(finding)
        self.stopped = True

    def look_at_forward(self) -> Finding | None:
        """Two forwards of one input: what makes them useless for a gradient, if anything."""
        if bad := self.not_finite_before():
            return bad
        held = {name: t.copy() for name, t in self.tensors.items()}
        if self.known:
            self.y = np.array(self.forward("record"))
            return None if np.isfinite(self.y).all() else notes.not_finite_forward(self)
        first = self.forward("record")
        calls = dict(self.calls)
        self.drew = not draws.same(self.start, draws.process())
        self.put_back(held, in_forward=True)
        self.y = np.array(self.forward("record"))
        if not np.isfinite(self.y).all() or any(np.isnan(c.y).any() for c in self.calls.values()):
            return notes.not_finite_forward(self)
        if self.y.dtype.itemsize < 4:
            where = self.first_float32() or self.title
            detail = f"{where} computes in {self.y.dtype}, of which no difference can be taken"
            return Finding("low precision", "fail", detail, "keep every constant and result in the dtype of x")
        if not self.same(first):
            return notes.moving([], [], notes.first_that_differs(calls, self.calls))
        if self.drew:
            name = "the process's own generator"
            self.notes.append(notes.moving([], [name]))
        return None

    def same(self, y) -> bool:
        """Whether an output is the one at the starting point, to rounding."""
        y = np.asarray(y)
        return y.shape == self.y.shape and np.allclose(y, self.y, rtol=1e-9, atol=1e-12 * (1 + np.abs(self.y).max()))

    def not_finite_before(self) -> Finding | None:
        for name in self.input_names:
            x = self.tensors[name]
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                detail = f"{name} holds {int(x.size - np.isfinite(x).sum())} numbers that are not finite"
                return Finding("input not finite", "fail", detail, "check at an x of finite numbers")
        return None

    def put_back(self, before, in_forward=False):
        """Undo what forward or backward wrote into weights and inputs, and say so."""
        rebound = self.reattach()
        moved = [
            n
            for n, value in before.items()
            if n in rebound or not np.array_equal(value, self.all_tensors[n], equal_nan=True)
        ]
        for name in moved:
            self.all_tensors[name][...] = before[name]
        moved = [name for name in moved if name not in self.input_names]
        if moved:
            self.notes.append(notes.steps(moved, "forward" if in_forward else "backward"))

    def reattach(self) -> set[str]:
        """Give each Param the array that is moved about here; the names of those that had another."""
        return set()

    def sort_gradients(self, grads):
        """Into those of the right shape, and others."""
        for name, grad in grads.items():
            if grad is not None and grad.shape != self.all_tensors[name].shape:
                self.misshapen[name] = grad
                grad = None
            self.grads[name] = grad

    def norm(self, name) -> float:
        grad = self.grads.get(name)
        return 0.0 if grad is None else float(np.linalg.norm(grad.astype(np.float64)))

    @cached_property
    def whole(self) -> float:
        """The norm of all gradients together."""
        return float(np.sqrt(sum(self.norm(name) ** 2 for name in self.tensors)))

    def analytic(self, directions: dict) -> float:
        parts = ((self.grads.get(name), d) for name, d in directions.items())
        return float(sum(np.sum(g * d, dtype=np.float64) for g, d in parts if g is not None))

    def slope(self, directions: dict, epsilon: float, mode: str = "pattern"):
        """(the central difference along the directions, the kink that lies between its ends or None)."""
        before = {name: self.tensors[name].copy() for name in directions}
        ends = []
        for sign in (1, -1):
            for name, d in directions.items():
                self.tensors[name][...] = before[name] + (sign * epsilon) * d
            ends.append((np.array(self.forward(mode, set(directions)), np.float64), self.patterns()))
        for name, value in before.items():
            self.tensors[name][...] = value
        (high, one), (low, other) = ends
        return float(np.sum((high - low) * self.dy)) / (2 * epsilon), crossing(one, other)

    def moved_inputs(self) -> dict:
        """The inputs, each next to where it was: off any kink on which it lay."""
        rng = np.random.default_rng(0)
        return {
            name: a + 1e-3 * rng.standard_normal(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a
            for name, a in zip(self.input_names, self.inputs, strict=True)
        }


class ModuleSubject(Subject):
    def __init__(self, pristine, arrays, dy, seed, *, whole=None):
        """whole: the subject of which this is a part, whose forward was looked at."""
        self.known, self.drew = whole is not None, whole is not None and whole.drew
        self.pristine, self.module = pristine, copy.deepcopy(pristine)  # the second one is wrapped and moved about
        self.title = label(pristine)
        self.mode = "training" if pristine.training else "evaluation"
        params = list(self.module.params())
        for p in params:
            p.grad, p.trainable = None, True  # also of what is frozen
        names = [p for p in inspect.signature(type(pristine).forward).parameters if p != "self"] or ["x"]
        self.inputs = tuple(arrays.values())
        self.input_names = [n if isinstance(n, str) else names[min(n, len(names) - 1)] for n in arrays]
        if len(set(self.input_names)) < len(self.input_names):  # forward(*xs)
            self.input_names = [f"{name}{i}" for i, name in enumerate(self.input_names)]
        self.tensors = dict(zip(self.input_names, self.inputs, strict=True)) | {p.name: p.data for p in params}
        self.all_tensors = dict(self.tensors)
        self.params = params
        self.buffers = {b.name: (b, b.data.copy()) for b in self.module.buffers()}
        drawing = [(m, g) for m in self.module.modules() for g in vars(m).values() if draws.draws(g)]
        self.drawing, self.states = drawing, [draws.state(g) for _, g in drawing]
        self.units = [self.module] if drawing else _chain(self.module)
        self.modules = list(self.module.modules())
        self.watch = Watch(self.module)
        self.writes = {p.name: count_writes(p) for p in params}
        self.constant: set = set()
        self.first: dict = {}
        self.finish(dy, seed)

    def nearby(self):
        return ModuleSubject(copy.deepcopy(self.pristine), self.moved_inputs(), self.dy, 0)

    @property
    def calls(self):
        return self.watch.calls

    def not_finite_before(self):
        return guard.not_finite(self.module) or super().not_finite_before()

    def reattach(self):
        rebound = {p.name for p in self.params if p.data is not self.all_tensors[p.name]}
        for p in self.params:
            p.data = self.all_tensors[p.name]
        return rebound

    def restore(self):
        """Buffers and generators as at the start: every evaluation is of one function."""
        self.reattach()
        for buffer, data in self.buffers.values():
            buffer.data[...] = data
        for (_, generator), state in zip(self.drawing, self.states, strict=True):
            draws.set_state(generator, state)
        if self.drew:
            draws.set_process(self.start)

    def forward(self, mode="off", moved=(), restore=True):
        """y; what comes before the first moved tensor is not computed again."""
        if restore:
            self.restore()
        self.watch.begin(mode)
        if mode == "record":
            self.watch.calls.clear()
            self.watch.again.clear()
        start = 0 if mode == "record" else min((self.first.get(name, 0) for name in moved), default=0)
        values = copies(self.inputs if start == 0 else self.calls[self.units[start]].inputs)
        for unit in self.units[start:]:
            values = (unit.forward(*values),)
        return values[0]

    def patterns(self):
        return self.watch.patterns

    def gradients(self, dy):
        states = [draws.state(g) for _, g in self.drawing]
        dx = dy
        for unit in reversed(self.units):
            dx = unit.backward(dx)
        self.redraws = [
            label(m) for (m, g), s in zip(self.drawing, states, strict=True) if not draws.same(draws.state(g), s)
        ]
        dx = dx if isinstance(dx, tuple) else (dx,)
        grads = dict(zip(self.input_names, dx, strict=True)) | {p.name: p.grad for p in self.params}
        for name, g in grads.items():
            if g is not None and not guard.is_array(g):
                detail = f"the gradient of {name} is {guard.kind(g)}, expected an array {self.tensors[name].shape}"
                raise guard.fault(ShapeError, "no array", detail, "hand write_grad one array of its Param's shape")
        return {name: None if g is None else _floats(g) for name, g in grads.items()}

    def another(self, dy, *, inputs=None, rewind=False, keep=False) -> dict:
        """The gradients of a further pass, of other inputs where given, and the subject at its start again.

        rewind: the generators before backward as before forward; keep: the gradients of the pass before are left.
        """
        usual, calls, written = self.inputs, dict(self.calls), list(self.watch.written)
        held = {p.name: p.data.copy() for p in self.params}
        for module in self.modules:
            module.save_for_backward = True
        for p in () if keep else self.params:
            p.grad = None
        try:
            self.inputs = usual if inputs is None else inputs
            self.forward("record")
            if rewind:
                self.restore()
            grads = self.gradients(dy)
            self.last_calls = dict(self.calls)
            return grads
        finally:
            self.inputs, self.watch.written = usual, written
            self.calls.clear()
            self.calls.update(calls)
            self.reattach()
            for name, data in held.items():
                self.all_tensors[name][...] = data
            for module in self.modules:
                module.save_for_backward = False

    def after_first_pass(self):
        self.first = {p.name: i for i, unit in enumerate(self.units) for p in unit.params()}
        for module in self.modules:
            module.save_for_backward = False
        if not self.same(self.forward(restore=False)):
            moved = [name for name, (buffer, data) in self.buffers.items() if not np.array_equal(buffer.data, data)]
            if moved or self.drawing:
                self.notes.append(notes.moving(moved, [label(m) for m, _ in self.drawing]))
        if not self.known and not self.same(self.forward()):
            return notes.changed_by_backward(self.title)
        self.notes += notes.other_shapes(self.calls)
        self.forward("pattern")
        self.watch.base = self.watch.patterns
        self.notes += dead_relus(self.rectifiers(), 1.0, "warn") if self.module.children() else []
        for module, what in self.watch.written:
            self.notes.append(notes.in_place(self.module, module, what))
        return None

    def rectifiers(self):
        """The layers that rectified in the recorded pass."""
        return {
            m: Rectifier(label(m), float((c.y == 0).mean()), float(c.inputs[0].max()))
            for m, c in self.calls.items()
            if not m.children() and len(c.inputs) == 1 and rectifies(c.inputs[0], c.y)
        }

    def first_float32(self):
        return self.watch.first_float32()


def _floats(g) -> np.ndarray:
    """A copy; whole numbers as floats."""
    return np.array(g, np.float64 if g.dtype.kind != "f" else g.dtype)


def _chain(module) -> list[nn.Module]:
    """The modules whose composition `module` is."""
    if (
        type(module).forward is nn.Sequential.forward
        and type(module).backward is nn.Sequential.backward
        and module.layers
    ):
        return [unit for layer in module.layers for unit in _chain(layer)]
    return [module]
