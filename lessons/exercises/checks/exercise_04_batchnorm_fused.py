"""Exercise 4: values, the two rules that dx obeys, central differences, and digits where the mean is large."""

import numpy as np
from minires.lessons.exercises.grading import Wrong, call, equal, gradients, random, several, shaped, single, untouched

from minires import ops
from minires.ops import naive

NEEDS = ("batchnorm_backward",)
ANSWERS = ops.batchnorm_backward, naive.batchnorm_backward
HINTS = (
    "dgamma and dbeta are those of exercise 3. Write dx of exercise 3 as one long expression before you simplify.",
    "Two of the terms in the long expression are sums that you have already under another name.",
    "dx = gamma * rstd * (dy - a - b): a makes the channel's sum zero, b takes out what points along x_hat. Which "
    "numbers do they need?",
)
AFTERWARDS = (
    "minires/ops/norm.py has this formula, walking over pieces that stay in the cache. Exercise 11 hides a fault in "
    "another form of it; lesson 5 shows what the factor gamma * rstd does to a plain network."
)
NAMES = ("dx", "dgamma", "dbeta")
AXES = (0, 1, 2)


def statistics(x, epsilon=1e-5):
    mean, var = ops.batchnorm_statistics(x)
    return mean, 1 / np.sqrt(var + epsilon)


X, DY, GAMMA = 2 * random(3, 2, 4, 3) + 1, random(3, 2, 4, 3, seed=1), random(3) + 2
MEAN, RSTD = statistics(X)
X_HAT = (X - MEAN) * RSTD
RIGHT = dict(zip(NAMES, naive.batchnorm_backward(DY, X, GAMMA, MEAN, RSTD), strict=True))


def found(student):
    return several(call(student.batchnorm_backward, DY, X, GAMMA, MEAN, RSTD), NAMES)


def formula(through_mean=1, through_var=1, gamma=GAMMA, m=24):
    """dx with its terms weighted."""
    terms = through_mean * RIGHT["dbeta"] + through_var * X_HAT * RIGHT["dgamma"]
    return gamma * RSTD * (DY - terms / m)


def shape(student):
    for name, value in found(student).items():
        hint = "All axes but the channels are summed over: the batch's and both of the map's."
        shaped(value, RIGHT[name].shape, name, hint if name != "dx" else "dx has the shape of x.")


def parameters(student):
    mistakes = {
        "dbeta": [(lambda: DY.mean(axis=AXES), "A mean? beta moves every value of its channel by its full size.")],
        "dgamma": [(lambda: (DY * X).sum(axis=AXES), "gamma multiplies the normalised x, not x as it came.")],
    }
    for name in ("dbeta", "dgamma"):
        equal(found(student)[name], RIGHT[name], name, "Compare with the same line of exercise 3.", mistakes[name])


def values(student):
    sign = "One of the two corrections is added where it should be taken away. Which rule is broken?"
    mistakes = (
        (lambda: formula(0, 0), "This takes mean and variance for constants. But every x moves both."),
        (lambda: formula(through_mean=0), "Sum dx over a channel: a shift of x would change the loss. Should it?"),
        (
            lambda: formula(through_var=0),
            "Multiply dx by x_hat and sum: a scaling of x would change the loss. Should it?",
        ),
        (lambda: formula(gamma=1), "Between y and x_hat lies a factor, and it is one for each channel."),
        (lambda: formula(m=len(X)), "How many values share one mean? Not only those of different images."),
        (lambda: formula(through_mean=-1), sign),
        (lambda: formula(through_var=-1), sign),
    )
    hint = "Test the two rules of the statement on it: which one fails?"
    equal(found(student)["dx"], RIGHT["dx"], "dx", hint, mistakes)


def differences(student):
    def forward(x, gamma, beta):
        return ops.batchnorm_forward(x, gamma, beta, *statistics(x))

    def backward(dy, x, gamma, beta):
        return student.batchnorm_backward(dy, x, gamma, *statistics(x))

    x = random(2, 3, 3, 4)
    gradients(
        (forward, backward), {"x": x, "gamma": random(4), "beta": random(4, seed=1)}, "Is a size written as a number?"
    )


def digits(student):
    x = (np.array([1e5, -3e5, 2e5]) + random(8, 6, 6, 3)).astype(np.float32)
    dy, gamma = random(8, 6, 6, 3, seed=1, dtype=np.float32), GAMMA.astype(np.float32)
    wide = naive.batchnorm_backward(*(a.astype(np.float64) for a in (dy, x, gamma, *statistics(x))))
    got = several(call(student.batchnorm_backward, dy, x, gamma, *statistics(x)), NAMES)
    for name, right in zip(NAMES, wide, strict=True):
        error = float(np.abs(got[name] - right).max() / np.abs(right).max())
        if not error < 1e-2:
            hint = "Large numbers are summed and then nearly cancel. What could be subtracted before summing?"
            raise Wrong(f"{name}: off by {error:.1g} of its size where x is near 100,000, in float32", hint)


def in_place(student):
    untouched(student.batchnorm_backward, {"dy": DY, "x": X, "gamma": GAMMA, "mean": MEAN, "rstd": RSTD})


def dtype(student):
    arrays = (a.astype(np.float32) for a in (DY, X, GAMMA, MEAN, RSTD))
    single(several(student.batchnorm_backward(*arrays), NAMES))


CHECKS = {
    "shape": shape,
    "dgamma, dbeta": parameters,
    "dx": values,
    "central differences": differences,
    "digits": digits,
    "in place": in_place,
    "dtype": dtype,
}
