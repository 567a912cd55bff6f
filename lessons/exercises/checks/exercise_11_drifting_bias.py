"""Exercise 11: the two rules that dx obeys, then its values; the rest is shared with exercise 4."""

import numpy as np
from minires.lessons.exercises.checks import exercise_04_batchnorm_fused as fused
from minires.lessons.exercises.grading import Wrong, equal

NEEDS, ANSWERS = fused.NEEDS, fused.ANSWERS
HINTS = (
    "Add 1 to every x of a channel: what happens to mean, to var, to y? What must dx sum to, then?",
    "Three arrays of forward depend on x: x_hat directly, mean, and var. How does each of them reach y?",
    "mean is used twice in forward, x three times, var and x_hat once. Count the terms of dmean and of dx, and look at "
    "each of them: the paper has them all.",
)
AFTERWARDS = (
    "dvar * -2 * centred.sum() / m is zero up to rounding: the paper writes it, and a line that looks busy can hide "
    "one that is missing. `minires gradcheck batchnorm` names such a fault by the rule that is broken."
)
X, DY = fused.X, fused.DY


def rules(student):
    dx = fused.found(student)["dx"]
    size = np.linalg.norm(dx) / np.sqrt(X.size)
    along = np.abs((dx * fused.X_HAT).mean(axis=fused.AXES)).max() / size
    total = np.abs(dx.mean(axis=fused.AXES)).max() / size
    if total > 1e-9:
        seen = f"dx should sum to 0 over each channel; its mean is {total:.2g} of its size"
        wrong_way = fused.formula(through_mean=-1), fused.formula(through_mean=24)
        if np.allclose(dx, wrong_way[0]):
            raise Wrong(
                seen, "Twice as far off as with no such term at all: does centred rise or fall when the mean rises?"
            )
        if np.allclose(dx, wrong_way[1]):
            raise Wrong(
                seen, "Much further off than with no such term at all: how much does one value move the mean of m?"
            )
        raise Wrong(seen, "If all x of a channel rise together, y stays. Which way of x into y is not accounted for?")
    if along > 1e-3:  # epsilon keeps it from being exactly 0
        seen = f"dx should be orthogonal to x_hat; its part along x_hat is {along:.2g} of its size"
        raise Wrong(seen, "If the x of a channel spread by a factor, y stays. Which line has to see to that?")


def values(student):
    hint = "It obeys both rules and is not the gradient: a projection too many, or a factor?"
    equal(fused.found(student)["dx"], fused.RIGHT["dx"], "dx", hint)


CHECKS = {
    "shape": fused.shape,
    "dgamma, dbeta": fused.parameters,
    "rules": rules,
    "dx": values,
    "central differences": fused.differences,
    "in place": fused.in_place,
    "dtype": fused.dtype,
}
