"""A gradient check that explains itself.

    report = gradcheck(model, x)
    report.ok, report.table(), report.findings

L = <forward(x), dy> for a random dy. For the input and for every parameter, the analytic slope <dL/dt, d> along
a random direction d, and at single coordinates, is held against the central difference
(L(t + e d) - L(t - e d)) / 2e in float64, whose error is of order e^2 (curvature) and 1e-16 / e (round-off).

Where the two differ, the check looks for the reason before it blames backward: another epsilon, a ReLU or a
pool that the stencil's ends see from two sides. What is left is a fault, and the report names the innermost
layer in which it arises, the index, both values, and the mistake that explains them (gradcheck_causes.py).
Everything happens on a copy on the CPU; the module given is left as it was.
"""

import copy
from dataclasses import asdict, dataclass, replace

import numpy as np
from rich.table import Table

from minires.errors import ConfigError
from minires.look.doctor import Finding
from minires.look.gradcheck_causes import Evidence, explain
from minires.look.gradcheck_subject import FLOAT32, ModuleSubject, make_subject
from minires.nn import resnet

LADDER = (-1, -2, -3, 1, 2, 3)  # powers of ten by which epsilon is moved to see whether it is to blame
SAMPLE = 96  # coordinates at which a wrong gradient is measured to find its cause


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
class Report:
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
        table = Table(title=f"{self.title}: {'right' if self.ok else 'WRONG'}", title_justify="left")
        table.caption = f"{self.mode} mode, epsilon {self.epsilon:g}, tolerance {self.tolerance:g}" + (
            f", {self.layers} layers one by one" if self.layers else ""
        )
        if len(ranked) < len(rows):
            table.caption += f"; the {most} worst of {len(rows)} tensors"
        for heading in ("gradient of", "stencils", "numeric", "analytic", "relative error", "worst at", ""):
            table.add_column(heading, justify="left" if heading in ("gradient of", "worst at") else "right")
        for name in (name for name in rows if name in ranked):
            worst = max(rows[name], key=lambda c: (not c.ok, c.error))
            numbers = f"{worst.numeric:.6g}", f"{worst.analytic:.6g}", f"{worst.error:.1e}"
            table.add_row(name, str(len(rows[name])), *numbers, worst.where, "ok" if worst.ok else "WRONG")
        return table


def gradcheck(
    target,
    x,
    *,
    dy=None,
    epsilon: float = 1e-6,
    tolerance: float = 1e-6,
    coordinates: int = 4,
    training: bool | None = None,
    dtype=np.float64,
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
    """
    if not epsilon > 0:
        raise ConfigError(f"gradcheck: epsilon must be positive, got {epsilon}: 1e-6 suits float64")
    subject = make_subject(target, x, dy=dy, dtype=dtype, training=training, seed=seed)
    notes = list(subject.notes)
    if subject.y.dtype == np.float32:
        epsilon, tolerance = max(epsilon, FLOAT32["epsilon"]), max(tolerance, FLOAT32["tolerance"])
    checker = _Checker(subject, epsilon, tolerance, hold, seed)
    for name in subject.tensors:
        checker.check_tensor(name, coordinates)
    wrong = [c for c in checker.checks if not c.ok]
    culprits, count = _locate(subject, checker, everything=bool(wrong)) if wrong or layers else ([], 0)
    if wrong and not culprits:
        culprits = [(subject, list(dict.fromkeys(c.tensor for c in wrong)))]
    notes += checker.notes() + _faults(culprits, subject, seed)
    return Report(
        title or subject.title, subject.mode, epsilon, tolerance, tuple(checker.checks), tuple(notes), count * layers
    )


def gradcheck_model(arch: str = "resnet50", *, input_shape=(64, 64, 3), batch: int = 2, seed: int = 0, **options):
    """A whole network by name, in training mode: one random direction for the images and for every parameter,
    and each layer by itself. ResNet-50 takes well under a minute. options: as `minires.nn.resnet` takes them."""
    model = resnet(arch, input_shape, seed=seed, **options)
    x = np.random.default_rng(seed).standard_normal((batch, *input_shape))
    title = f"{arch} ({model.config.variant}), {batch} images of {input_shape[0]}x{input_shape[1]}"
    return gradcheck(model, x, coordinates=0, tolerance=1e-5, hold=True, layers=True, seed=seed, title=title)


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
    target, x, *, epsilons=None, directions: int = 5, training=None, dtype=np.float64, seed: int = 0, title=None
) -> Sweep:
    """The V-curve: the relative error of the central difference for each epsilon, along random directions of all
    tensors at once, with the share of stencils whose ends lie on two sides of a kink. Arguments as `gradcheck`."""
    subject = make_subject(target, x, dtype=dtype, training=training, seed=seed)
    rng = np.random.default_rng(seed + 1)
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
        self.subject, self.epsilon, self.tolerance, self.hold = subject, epsilon, tolerance, hold
        self.rng = np.random.default_rng(seed + 1)
        self.checks: list[Check] = []
        self.reasons: dict[str, list[Finding]] = {}

    def check_tensor(self, name, coordinates):
        """A random direction, and the coordinates: the largest gradient, the first, the last, some between."""
        tensor, grad = self.subject.tensors[name], self.subject.grads.get(name)
        self.check(name, self.rng.standard_normal(tensor.shape))
        flat = np.zeros(tensor.shape) if grad is None else grad
        chosen = [int(np.abs(flat).argmax()), 0, tensor.size - 1, *self.rng.permutation(tensor.size)[:coordinates]]
        for position in list(dict.fromkeys(map(int, chosen)))[:coordinates]:
            self.check(name, _unit(tensor.shape, position), np.unravel_index(position, tensor.shape))

    def check(self, name, direction, index=None):
        """One stencil, and others in its place if it fails."""
        where = "direction" if index is None else str(tuple(map(int, index)))
        first = self.stencil(name, direction, self.epsilon, where, "hold" if self.hold else "pattern")
        check, kink = first
        if not check.ok and not self.hold:
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
        errors = {0: check.error}
        for power in LADDER:
            epsilon = self.epsilon * 10.0**power
            other, crossed = self.stencil(name, direction, epsilon, where, "pattern")
            errors[power] = other.error
            if other.ok and not crossed:
                return self.excuse(other, self.reason(power, errors, kink), kink)
        if kink:
            other, _ = self.stencil(name, direction, self.epsilon, where, "hold")
            if other.ok:
                return self.excuse(other, "kink", kink)
        if self.between_slopes(name, direction, check.analytic):
            return self.excuse(replace(check, ok=True), "exactly at a kink", kink)
        return check

    def reason(self, power, errors, kink) -> str:
        if kink:
            return "kink"
        if power > 0:
            return "epsilon too small"
        smooth = 30 < errors[power + 1] / max(errors[power], 1e-300) < 300 or errors[0] < 1e-3
        return "epsilon too large" if smooth else "kink"

    def between_slopes(self, name, direction, analytic) -> bool:
        """Whether the slopes to the two sides differ, and the analytic one is of the interval between them."""
        tensor, sides = self.subject.tensors[name], []
        before = tensor.copy()
        for sign in (1, -1):
            tensor[...] = before + (sign * self.epsilon / 2) * direction
            # the central difference around half a step is the slope of one side
            sides.append(self.subject.slope({name: direction}, self.epsilon / 2, "off")[0])
            tensor[...] = before
        low, high = sorted(sides)
        slack = 1e-3 * (high - low)
        return high - low > 1e-3 * max(abs(low), abs(high)) and low - slack <= analytic <= high + slack

    def excuse(self, check, reason, kink):
        what = f"{check.tensor} at {check.where}" if check.where != "direction" else f"{check.tensor} along a direction"
        details = {
            "kink": f"the stencil of {what} crosses a kink: {kink or 'no watched layer shows where'}",
            "exactly at a kink": f"{what} lies exactly on a kink: there is no derivative, and the analytic value lies "
            "between the slopes of the two sides",
            "epsilon too small": f"round-off drowns the difference for {what}: epsilon {self.epsilon:g} fails, "
            f"{check.epsilon:g} passes",
            "epsilon too large": f"the curvature shows in the difference for {what}: epsilon {self.epsilon:g} fails, "
            f"{check.epsilon:g} passes",
        }
        fixes = {
            "kink": "nothing: checked again on one side of the kink; a smaller epsilon or hold=True avoids it",
            "exactly at a kink": "check at another x, away from 0 and from ties",
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
        local = ModuleSubject(copy.deepcopy(pristine), dict(enumerate(_copies(call.inputs))), call.dy, 0)
        judge = _Checker(local, checker.epsilon, max(checker.tolerance, 1e-6), False, 0)
        for name in local.tensors:
            judge.check_tensor(name, 0)
        count += 1
        if wrong := [c.tensor for c in judge.checks if not c.ok]:
            guilty.add(module)
            culprits.append((local, wrong))
    return culprits[::-1], count


def _copies(arrays):
    return tuple(a.copy() for a in arrays)


def _faults(culprits, subject, seed) -> list[Finding]:
    """One finding a cause, with the layers that share it."""
    rng = np.random.default_rng(seed)
    found: dict[tuple, list] = {}
    for local, wrong in culprits:
        for name in wrong:
            tensor, grad = local.tensors[name], local.grads.get(name)
            at = rng.permutation(tensor.size)[:SAMPLE]
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
        place, name, index, numeric, ours = cases[0]
        others = list(dict.fromkeys(case[0] for case in cases[1:] if case[0] != place))
        more = f"; the same in {', '.join(others[:3])}" + (f" and {len(others) - 3} more" if others[3:] else "")
        detail = (
            f"{place}: the gradient of {name} is wrong: {seen}. At {index}: numeric {numeric:.6g}, analytic {ours:.6g}"
        )
        findings.append(Finding(cause, "fail", detail + (more if others else ""), fix))
    return findings
