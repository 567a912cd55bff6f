"""A gradient check that explains itself.

    report = gradcheck(model, x)
    report.ok, report.table(), report.findings

L = <forward(x), dy> for a random dy. For the input and for every parameter, the analytic slope <dL/dt, d> along
a random direction d, and at single coordinates, is held against the central difference
(L(t + e d) - L(t - e d)) / 2e in float64, whose error is of order e^2 (curvature) and 1e-16 / e (round-off).

Where the two differ, the check looks for the reason before it blames backward: another epsilon, a ReLU or a
pool that the stencil's ends see from two sides. What is left is a fault, and the report names the innermost
layer in which it arises, the index, both values, and the mistake that explains them (causes.py).
Everything happens on a copy on the CPU; the module given is left as it was.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from rich import box
from rich.table import Table

from minires.backend import Array, blas_threads
from minires.console import Shown
from minires.errors import ConfigError
from minires.instruments.findings import Finding
from minires.instruments.gradcheck.causes import Evidence, explain, sharp
from minires.instruments.gradcheck.subject import FLOAT32, ModuleSubject, copies, make_subject
from minires.nn import Module, Network, resnet

LADDER = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-4, 1e-3)  # other epsilons, to see whether the one that failed is to blame
SAMPLE = 96  # coordinates at which a wrong gradient is measured to find its cause, of one layer or block
FEW = 8  # the same where a whole network has to be run for each


@dataclass(frozen=True)
class Check:
    """One stencil. where: 'direction' or an index; error: relative to the norm of the gradient."""

    tensor: str
    where: str
    epsilon: float
    numeric: float
    analytic: float
    error: float
    ok: bool


@dataclass(frozen=True)
class Report(Shown):
    """What the stencils said. findings: status 'fail' is a wrong gradient, 'warn' what to know about the check."""

    title: str
    mode: str
    epsilon: float
    tolerance: float
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    layers: int = 0  # checked one by one, each on the input and the gradient that it meets in the network

    @property
    def ok(self) -> bool:
        """Whether every gradient is right."""
        return not any(f.status == "fail" for f in self.findings)

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max(c.error for c in self.checks)

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self) | {"ok": self.ok, "worst": self.worst}

    def table(self, most: int = 24) -> Table:
        """One row a tensor with its worst stencil; of many, the worst ones."""
        rows: dict[str, list[Check]] = {}
        for check in self.checks:
            rows.setdefault(check.tensor, []).append(check)
        ranked = sorted(rows, key=lambda name: -max(c.error for c in rows[name]))[:most]
        title = f"{self.title}: {'right' if self.ok else 'WRONG'}"
        look = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
        table = Table(title=title, title_justify="left", **look)
        table.caption = f"{self.mode} mode, epsilon {self.epsilon:g}, tolerance {self.tolerance:g}" + (
            f", {self.layers} layers one by one" if self.layers else ""
        )
        if len(ranked) < len(rows):
            table.caption += f"; the {most} worst of {len(rows)} tensors"
        verdict = [] if self.ok else [{True: "ok", False: "WRONG"}]
        for heading in ["gradient of", "checks", "numeric", "analytic", "error", "worst at", *("" for _ in verdict)]:
            left = heading in ("gradient of", "worst at")
            # a name stays whole in 80 columns; what is long is a place, which may go on in the next line
            table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "worst at")
        for name in (name for name in rows if name in ranked):
            worst = max(rows[name], key=lambda c: (not c.ok, c.error))
            numbers = f"{worst.numeric:.4g}", f"{worst.analytic:.4g}", f"{worst.error:.1e}"
            table.add_row(name, str(len(rows[name])), *numbers, worst.where, *(words[worst.ok] for words in verdict))
        return table


def gradcheck(
    target: Module | tuple[Callable, Callable],
    x: Array | tuple | dict,
    *,
    dy: Array | None = None,
    epsilon: float = 1e-6,
    tolerance: float = 1e-6,
    coordinates: int = 4,
    training: bool | None = None,
    dtype: DTypeLike | None = np.float64,
    hold: bool = False,
    layers: bool = False,
    seed: int = 0,
    title: str | None = None,
) -> Report:
    """Check the gradients of a Module, or of a pair of functions (forward, backward), at x.

    x         an array; a tuple or a dict by name where there are several. For functions: forward(*arrays) -> y
              and backward(dy, *arrays) -> the gradients in the same order (None: not differentiated)
    dy        the gradient that arrives, of y's shape; random by default
    training  the mode for the check; None keeps the modules' own
    dtype     None keeps that of x and the weights (float32 is then named for what it is)
    hold      let every ReLU and max pool keep the side that it has at x, in place of the usual way, which is
              to do so only where a stencil crosses a kink. The derivative at x is the same; large networks,
              in which every stencil crosses some, are checked to many digits in half the time
    layers    also check each layer by itself, on the input and the gradient that it meets in the network

    Raises ConfigError for an epsilon that is not positive, ShapeError and StateError as the module does.

    >>> layer = minires.Dense("fc", 3, 2)
    >>> minires.gradcheck(layer, numpy.ones((4, 3))).ok
    True
    >>> wrong = lambda x: x**3, lambda dy, x: 2 * dy * x**2  # 3 is right
    >>> report = minires.gradcheck(wrong, numpy.ones((2, 2)))
    >>> report.ok
    False
    """
    if not epsilon > 0:
        raise ConfigError(f"gradcheck: epsilon must be positive, got {epsilon}: 1e-6 suits float64")
    subject = make_subject(target, x, dy=dy, dtype=dtype, training=training, seed=seed)
    if subject.y.dtype == np.float32:
        epsilon, tolerance = max(epsilon, FLOAT32["epsilon"]), max(tolerance, FLOAT32["tolerance"])
    checker = _Checker(subject, epsilon, tolerance, hold, seed)
    for name in subject.tensors:
        checker.check_tensor(name, coordinates)
    wrong = [c for c in checker.checks if not c.ok]
    # writing in place is a fault where it does harm
    status = "fail" if wrong else "warn"
    notes = [replace(note, status=status) if note.name == "in-place write" else note for note in subject.notes]
    culprits, count = _locate(subject, checker, everything=bool(wrong)) if wrong or layers else ([], 0)
    if wrong and not culprits and count and len(subject.units) > 1 and all(note.status != "fail" for note in notes):
        notes.append(sharp(subject.calls, wrong, count))
    elif wrong and not culprits:
        culprits = [(subject, list(dict.fromkeys(c.tensor for c in wrong)))]
    notes += checker.notes() + _faults(culprits, seed)
    return Report(
        title or subject.title,
        subject.mode,
        epsilon,
        tolerance,
        tuple(checker.checks),
        tuple(notes),
        count if layers else 0,
    )


def gradcheck_model(
    arch: str | Network = "resnet50",
    *,
    input_shape: tuple[int, int, int] = (64, 64, 3),
    batch: int = 2,
    epsilon: float = 1e-7,
    seed: int = 0,
    **options: Any,
) -> Report:
    """A whole network, or one by name, in training mode: one random direction for the images and for every parameter,
    and each layer by itself. options: as `minires.nn.resnet` takes them."""
    model = arch if isinstance(arch, Network) else resnet(arch, input_shape, seed=seed, **options)
    x = np.random.default_rng(seed).standard_normal((batch, *model.input_shape))
    name = f"{arch} ({model.config.variant})" if isinstance(arch, str) else model.title
    title = f"{name}, {batch} images of {'x'.join(map(str, model.input_shape[:2]))}"
    # a deep network bends sharply with its first weights: even with the kinks held, 1e-6 would be too large
    with blas_threads(1):  # the products are small: several threads gain little, and lose much on a busy machine
        return gradcheck(
            model,
            x,
            epsilon=epsilon,
            tolerance=1e-5,
            coordinates=0,
            hold=True,
            layers=True,
            seed=seed,
            title=title,
        )


@dataclass(frozen=True)
class Sweep:
    """How the error of the check depends on epsilon. rows: epsilon, error (median), worst, crossed (a share)."""

    title: str
    dtype: str
    seed: int
    rows: tuple[dict, ...]

    @property
    def best(self) -> float:
        """The epsilon of the smallest error."""
        return min(self.rows, key=lambda row: row["error"])["epsilon"]

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self) | {"best": self.best}


def epsilon_sweep(
    target: Module | tuple[Callable, Callable],
    x: Array | tuple | dict,
    *,
    epsilons: Sequence[float] | None = None,
    directions: int = 5,
    training: bool | None = None,
    dtype: DTypeLike = np.float64,
    seed: int = 0,
    title: str | None = None,
) -> Sweep:
    """The V-curve: the relative error of the central difference for each epsilon, along random directions of all
    tensors at once, with the share of stencils whose ends lie on two sides of a kink. Arguments as `gradcheck`."""
    subject = make_subject(target, x, dtype=dtype, training=training, seed=seed)
    rng = np.random.default_rng([seed, 2])
    drawn = [{n: rng.standard_normal(t.shape) for n, t in subject.tensors.items()} for _ in range(directions)]
    size = subject.whole or 1.0
    rows = []
    for epsilon in np.logspace(-12, -1, 23) if epsilons is None else epsilons:
        errors, crossed = [], 0
        for d in drawn:
            numeric, kink = subject.slope(d, epsilon)
            errors.append(abs(numeric - subject.analytic(d)) / size)
            crossed += kink is not None
        row = {"epsilon": float(epsilon), "error": float(np.median(errors)), "worst": float(max(errors))}
        rows.append(row | {"crossed": crossed / directions})
    return Sweep(title or subject.title, subject.y.dtype.name, seed, tuple(rows))


class _Checker:
    """Judges stencils, and finds the reason where one fails that is no fault of backward."""

    def __init__(self, subject, epsilon, tolerance, hold, seed):
        self.subject, self.epsilon, self.tolerance = subject, epsilon, tolerance
        self.mode = "hold" if hold else "pattern"
        self.rng = np.random.default_rng([seed, 2])
        self.checks: list[Check] = []
        self.reasons: dict[str, list[Finding]] = {}

    def check_tensor(self, name, coordinates):
        """A random direction, and the coordinates: the largest gradient, the first, the last, some between."""
        tensor, grad = self.subject.tensors[name], self.subject.grads.get(name)
        self.check(name, self.rng.standard_normal(tensor.shape))
        flat = np.zeros(tensor.shape) if grad is None else grad
        chosen = [int(np.abs(flat).argmax()), 0, tensor.size - 1, *self.rng.integers(tensor.size, size=coordinates)]
        for position in list(dict.fromkeys(map(int, chosen)))[:coordinates]:
            self.check(name, _unit(tensor.shape, position), np.unravel_index(position, tensor.shape))

    def check(self, name, direction, index=None):
        """One stencil, and others in its place if it fails."""
        where = "direction" if index is None else str(tuple(map(int, index)))
        check, kink = self.stencil(name, direction, self.epsilon, where, self.mode)
        if not check.ok:
            check = self.second_chance(name, direction, where, check, kink)
        self.checks.append(check)

    def stencil(self, name, direction, epsilon, where, mode):
        subject = self.subject
        numeric, kink = subject.slope({name: direction}, epsilon, mode)
        analytic = subject.analytic({name: direction})
        share = np.linalg.norm(direction) / np.sqrt(direction.size)  # about 1, or that of a coordinate
        scale = max(subject.norm(name) * share, abs(numeric), abs(analytic)) + 1e-3 * subject.whole * share
        error = abs(numeric - analytic) / scale if scale else 0.0
        ok = bool(error <= self.tolerance)
        return Check(name, where, float(epsilon), numeric, analytic, float(error), ok), kink

    def second_chance(self, name, direction, where, check, kink):
        """A stencil that passes and says why the first did not, or the first with its fault."""
        for epsilon in LADDER:
            if epsilon == self.epsilon:
                continue
            other, crossed = self.stencil(name, direction, epsilon, where, self.mode)
            if other.ok and not crossed:
                return self.excuse(other, self.reason(check, other, kink), kink)
            if not (kink or crossed) and abs(other.error - check.error) < 1e-3 * check.error:
                break  # what does not depend on epsilon is an error of backward
        if kink:
            other, _ = self.stencil(name, direction, self.epsilon, where, "hold")
            if other.ok:
                return self.excuse(other, "kink", kink)
        if self.on_a_kink(name, direction) and self.nearby.stencil(name, direction, 1e-7, where, "pattern")[0].ok:
            return self.excuse(replace(check, ok=True), "exactly at a kink", kink)
        return check

    def reason(self, failed, passed, kink) -> str:
        if kink:
            return "kink"
        return "epsilon too small" if passed.epsilon > failed.epsilon else "epsilon too large"

    def on_a_kink(self, name, direction) -> bool:
        """Whether the slopes to the two sides of x differ."""
        tensor, slopes, epsilon = self.subject.tensors[name], [], 1e-6
        before = tensor.copy()
        for sign in (1, -1):
            tensor[...] = before + (sign * epsilon) * direction  # the central difference here is the slope of this side
            slopes.append(self.subject.slope({name: direction}, epsilon, "off")[0])
            tensor[...] = before
        return abs(slopes[0] - slopes[1]) > 1e-3 * max(map(abs, slopes))

    @cached_property
    def nearby(self):
        """A checker at a point next to x."""
        return _Checker(self.subject.nearby(), self.epsilon, self.tolerance, False, 0)

    def excuse(self, check, reason, kink):
        what = f"{check.tensor} at {check.where}" if check.where != "direction" else f"{check.tensor} along a direction"
        passes = f"epsilon {self.epsilon:g} fails, {check.epsilon:g} passes"
        near = "" if self.mode == "hold" else " (or a kink within reach)"
        details = {
            "kink": f"the stencil of {what} crosses a kink: {kink or 'no watched layer shows where'}",
            "exactly at a kink": f"{what} lies exactly on a kink, where there is no derivative; at a point nearby "
            "the gradient is right",
            "epsilon too small": f"round-off drowns the difference for {what}: {passes}",
            "epsilon too large": f"the curvature{near} spoils the difference for {what}: {passes}",
        }
        fixes = {
            "kink": "nothing: checked again on one side of the kink; a smaller epsilon or hold=True avoids it",
            "exactly at a kink": "nothing; to be rid of this, check at an x away from 0 and from ties",
        }
        fix = fixes.get(reason, f"use epsilon={check.epsilon:g}; epsilon_sweep shows the range that works")
        self.reasons.setdefault(reason, []).append(Finding(reason, "warn", details[reason], fix))
        return check

    def notes(self) -> list[Finding]:
        """One finding a reason."""
        return [
            replace(found[0], detail=found[0].detail + (f" (and {len(found) - 1} stencils more)" if found[1:] else ""))
            for found in self.reasons.values()
        ]


def _unit(shape, position):
    unit = np.zeros(shape)
    unit.flat[position] = 1
    return unit


def _locate(subject, checker, *, everything: bool):
    """([(subject, wrong tensors)] of the innermost layers that are wrong by themselves, in forward order; how many
    layers were checked). Each is checked on what it received; everything: blocks too, not only leaves."""
    if subject.module is None:
        return [], 0
    culprits, guilty, count = [], set(), 0
    pairs = list(zip(subject.modules, subject.pristine.modules(), strict=True))
    for module, pristine in reversed(pairs):  # what is inside comes before what holds it
        call = subject.calls.get(module)
        if pristine is subject.pristine or call is None or call.dy is None:
            continue
        if (module.children() and not everything) or guilty.intersection(module.modules()):
            continue
        local = ModuleSubject(copy.deepcopy(pristine), dict(enumerate(copies(call.inputs))), call.dy, 0)
        judge = _Checker(local, checker.epsilon, max(checker.tolerance, 1e-6), False, 0)
        for name in local.tensors:
            judge.check_tensor(name, 0)
        count += 1
        if wrong := [c.tensor for c in judge.checks if not c.ok]:
            guilty.add(module)
            culprits.append((local, wrong))
    return culprits[::-1], count


def _faults(culprits, seed) -> list[Finding]:
    """One finding a cause, with the layers that share it."""
    rng = np.random.default_rng(seed)
    found: dict[tuple, list] = {}
    for local, wrong in culprits:
        if any(note.name == "in-place write" for note in local.notes):
            continue  # a finding of its own
        if moved := next((note for note in local.notes if note.name == "moving statistics"), None):
            detail = f"{moved.detail}; backward takes them for constants"
            found[moved.name, detail, moved.fix] = []
            continue
        few = local.pristine is not None and len(local.modules) > 20
        for name in wrong[: FEW if few else None]:
            tensor, grad = local.tensors[name], local.grads.get(name)
            at = rng.permutation(tensor.size)[: FEW if few else SAMPLE]
            numeric = np.array([local.slope({name: _unit(tensor.shape, i)}, 1e-6, "hold")[0] for i in at])
            evidence = Evidence(local, name, grad, at, numeric)
            cause, seen, fix = explain(evidence)
            ours = np.zeros(len(at)) if grad is None else grad.ravel()[at]
            worst = int(np.abs(ours - numeric).argmax())
            index = tuple(map(int, np.unravel_index(at[worst], tensor.shape)))
            place = local.title if name in local.input_names else name
            found.setdefault((cause, seen, fix), []).append((place, name, index, numeric[worst], ours[worst]))
    findings = []
    for (cause, seen, fix), cases in found.items():
        if not cases:
            findings.append(Finding(cause, "fail", seen, fix))
            continue
        place, name, index, numeric, ours = cases[0]
        others = list(dict.fromkeys(case[0] for case in cases[1:] if case[0] != place))
        more = f"; the same in {', '.join(others[:3])}" + (f" and {len(others) - 3} more" if others[3:] else "")
        owner = "" if place == name else f"{place}: "
        values = f"At {index}: numeric {numeric:.6g}, analytic {ours:.6g}"
        detail = f"{owner}the gradient of {name} is wrong: {seen}. {values}"
        findings.append(Finding(cause, "fail", detail + (more if others else ""), fix))
    return findings
