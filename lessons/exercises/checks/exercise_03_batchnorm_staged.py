"""Exercise 3: a check a node, so that the first wrong line shows."""

import copy

import numpy as np
from minires.lessons.exercises.grading import (
    NO_RETURN,
    Wrong,
    call,
    equal,
    gradients,
    random,
    shaped,
    single,
    untouched,
)

from minires import ops
from minires.ops import naive

NEEDS = ("batchnorm_forward", "batchnorm_backward")
ANSWERS = ops.batchnorm_backward, naive.batchnorm_backward
HINTS = (
    "Draw the forward pass as a graph: a circle for each line, an arrow for each use. Walk the arrows backwards.",
    "A product hands each factor dy times the other factor. A sum hands dy on as it is. A vector that was spread over "
    "m rows gathers: sum over the rows.",
    "The variance holds a mean over m values, so each value has its share, 2 * centred / m. centred and x are used "
    "twice each: two terms in their lines. And rstd = v ** (-1/2) has a slope that can be written with rstd alone.",
)
AFTERWARDS = (
    "Insert every line into the next and most of it cancels: exercise 4. minires/ops/naive.py walks the same nodes in "
    "loops. Look at dmean: without the term through the variance it is the same number. Why?"
)
EPSILON = 1e-5
X, DY = 2 * random(6, 3) + 1, random(6, 3, seed=1)
GAMMA, BETA = random(3) + 2, random(3, seed=1)
M = len(X)
SUMMED = "A vector (C,) that was spread over the rows gathers its gradient from all of them."


def truth():
    """Every node's gradient from forward values that do not depend on the student's file."""
    centred = X - X.mean(axis=0)
    rstd = 1 / np.sqrt(X.var(axis=0) + EPSILON)
    dx, dgamma, dbeta = ops.batchnorm_backward(DY, X, GAMMA, X.mean(axis=0), rstd)
    dx_hat = DY * GAMMA
    drstd = (dx_hat * centred).sum(axis=0)
    dvar = -0.5 * rstd**3 * drstd
    dcentred = dx_hat * rstd + dvar * 2 * centred / M
    nodes = {"dbeta": dbeta, "dgamma": dgamma, "dx_hat": dx_hat, "drstd": drstd, "dvar": dvar}
    return nodes | {"dcentred": dcentred, "dmean": -dcentred.sum(axis=0), "dx": dx}, centred, rstd


RIGHT, CENTRED, RSTD = truth()
HINT = {
    "dbeta": "beta is added in every row: what does a sum hand on, and how does a vector gather it?",
    "dgamma": "gamma is a factor: what stands beside it in the product?",
    "dx_hat": "x_hat is a factor: what stands beside it in the product?",
    "drstd": "x_hat = centred * rstd: rstd is a factor, and one number for m rows.",
    "dvar": "The derivative of v ** (-1/2), at v = var + epsilon, times what came from above.",
    "dcentred": "Two arrows leave centred: one to x_hat, one to var. What does each bring back?",
    "dmean": "centred = x - mean, in each of m rows.",
    "dx": "Two arrows leave x: one to centred, one to mean. What does each bring back?",
}
MISTAKES = {
    "dbeta": [(lambda: DY.mean(axis=0), "A mean? beta moves every row of y by its full size.")],
    "dgamma": [
        (lambda: (DY * X).sum(axis=0), "What does gamma multiply: x as it came, or something else?"),
        (lambda: (DY * CENTRED).sum(axis=0), "What does gamma multiply? One step is still to come after centring."),
        (lambda: RIGHT["dgamma"] / M, "A mean? gamma scales every row of y by its full size."),
    ],
    "dx_hat": [(lambda: DY, "y changes by how much when x_hat moves by one?")],
    "drstd": [
        (lambda: (DY * CENTRED).sum(axis=0), "It starts from the gradient of which array: y, or x_hat?"),
        (lambda: (RIGHT["dx_hat"] * X).sum(axis=0), "rstd is multiplied by which array, in the forward line?"),
    ],
    "dvar": [
        (lambda: -RIGHT["dvar"], "A larger variance makes rstd smaller: which sign has the slope?"),
        (lambda: 2 * RIGHT["dvar"], "An exponent comes down as a factor when a power is differentiated."),
        (lambda: RIGHT["dvar"] / RSTD, "What is the new exponent after differentiating v ** (-1/2)?"),
    ],
    "dcentred": [
        (lambda: RIGHT["dx_hat"] * RSTD, "This is what comes back from x_hat. Is centred used anywhere else?"),
        (lambda: RIGHT["dvar"] * 2 * CENTRED / M, "This is what comes back from var. Is centred used anywhere else?"),
        (
            lambda: RIGHT["dx_hat"] * RSTD + RIGHT["dvar"] * 2 * CENTRED,
            "How large a part of var is one value's square?",
        ),
        (lambda: RIGHT["dx_hat"] * RSTD + RIGHT["dvar"] * CENTRED / M, "Differentiate the square once more, slowly."),
    ],
    "dmean": [(lambda: -RIGHT["dmean"], "centred falls when the mean rises.")],
    "dx": [
        (lambda: RIGHT["dcentred"], "This treats the mean as a constant. But when x moves, so does the mean."),
        (lambda: RIGHT["dcentred"] + RIGHT["dmean"], "How much does the mean move when a single value moves by one?"),
    ],
}


def backward(student, dy=DY, x=X, gamma=GAMMA, beta=BETA):
    _, cache = student.batchnorm_forward(x, gamma, beta)
    return student.batchnorm_backward(dy.copy(), copy.deepcopy(cache))


def complete(found):
    """All of them, once they are written."""
    for name, value in found.items():
        shaped(value, value.shape if isinstance(value, np.ndarray) else (), name, SUMMED)
    return found


def forward(student):
    y, _ = call(student.batchnorm_forward, X, GAMMA, BETA)
    equal(y, ops.batchnorm_forward(X, GAMMA, BETA, X.mean(axis=0), RSTD), "y", "The forward pass was right as it came.")


def node(name):
    """The check of one node."""

    def check(student):
        found = backward(student)
        if not isinstance(found, dict):
            raise Wrong(f"expected a dict of gradients, got {type(found).__name__}", NO_RETURN)
        if name not in found:
            raise Wrong(f"the dict has no {name!r}", "Leave the last two lines of the function as they were.")
        shaped(found[name], RIGHT[name].shape, name, SUMMED)
        equal(found[name], RIGHT[name], name, HINT[name], MISTAKES[name])

    return check


def differences(student):
    def y(x, gamma, beta):
        return student.batchnorm_forward(x, gamma, beta)[0]

    def grads(dy, x, gamma, beta):
        found = complete(backward(student, dy, x, gamma, beta))
        return found["dx"], found["dgamma"], found["dbeta"]

    hint = "It holds for m = 6 rows but not for 9: is a number written where m belongs?"
    gradients((y, grads), {"x": random(9, 4), "gamma": random(4), "beta": random(4, seed=1)}, hint)


def in_place(student):
    _, cache = student.batchnorm_forward(X, GAMMA, BETA)
    names = list(cache)
    arrays = {"dy": DY} | {f"cache[{name!r}]": cache[name] for name in names}
    untouched(lambda dy, *rest: student.batchnorm_backward(dy, dict(zip(names, rest, strict=True))), arrays)


def dtype(student):
    single(complete(backward(student, *(a.astype(np.float32) for a in (DY, X, GAMMA, BETA)))))


CHECKS = {
    "forward": forward,
    **{name: node(name) for name in RIGHT},
    "central differences": differences,
    "in place": in_place,
    "dtype": dtype,
}
