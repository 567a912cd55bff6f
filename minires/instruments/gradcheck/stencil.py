"""Stencils: central differences beside the analytic slopes, and why one may fail where backward is right."""

from dataclasses import replace
from functools import cached_property

import numpy as np

from minires.instruments.findings import Finding
from minires.instruments.gradcheck.report import Check

LADDER = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-4, 1e-3)  # other epsilons, to see whether the one that failed is to blame


class Checker:
    """Judges stencils, and finds the reason where one fails that is no fault of backward."""

    def __init__(self, subject, epsilon, tolerance, hold, seed):
        self.subject, self.epsilon, self.tolerance = subject, epsilon, tolerance
        self.mode = "hold" if hold else "pattern"
        self.rng = np.random.default_rng([seed, 2])
        self.checks: list[Check] = []
        self.reasons: dict[str, list[Finding]] = {}
        self.excused_at_kinks: set[str] = set()

    def check_tensor(self, name, coordinates):
        """A random direction, and the coordinates: the largest gradient, the first, the last, some between."""
        tensor, grad = self.subject.tensors[name], self.subject.grads.get(name)
        self.check(name, self.rng.standard_normal(tensor.shape))
        flat = np.zeros(tensor.shape) if grad is None else grad
        chosen = [int(np.abs(flat).argmax()), 0, tensor.size - 1, *self.rng.integers(tensor.size, size=coordinates)]
        for position in list(dict.fromkeys(map(int, chosen)))[:coordinates]:
            self.check(name, unit(tensor.shape, position), np.unravel_index(position, tensor.shape))

    def check(self, name, direction, index=None):
        """One stencil, and others in its place if it fails."""
        where = "direction" if index is None else str(tuple(map(int, index)))
        check, kink = self.stencil(name, direction, self.epsilon, where, self.mode)
        if not check.ok:
            check = self.second_chance(name, direction, where, check, kink)
        self.checks.append(check)
        if name in self.excused_at_kinks and name in self.subject.input_names and not self.judged_together(name):
            direction = np.ones(self.subject.tensors[name].shape)
            self.checks.append(self.stencil(name, direction, self.epsilon, "all together", "pattern")[0])

    def judged_together(self, name) -> bool:
        """Whether nothing is to be had of moving all numbers together: ties stay ties, so there is no kink in it."""
        done = any(c.tensor == name and c.where == "all together" for c in self.checks)
        return done or self.on_a_kink(name, np.ones(self.subject.tensors[name].shape))

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
            self.excused_at_kinks.add(name)
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
        return Checker(self.subject.nearby(), self.epsilon, self.tolerance, False, 0)

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


def unit(shape, position):
    unit = np.zeros(shape)
    unit.flat[position] = 1
    return unit
