"""What people get wrong in products, normalisations, softmax and functions of each number: each slip by its name."""

import numpy as np
import pytest
from one_fault import one_fault

from minires import nn, ops
from minires.instruments.gradcheck import gradcheck

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 8, 7, 4))
ROWS = RNG.standard_normal((5, 4))
LABELS = np.array([0, 2, 1, 3, 2])


# products, sums


class Dense(nn.Dense):
    """One with a slip: what backward makes of (dy, x, w, dx, dw, db)."""

    def __init__(self, slip, outputs=3, features=4):
        super().__init__("fc", features, outputs)
        self.slip = slip

    def backward(self, dy, need_dx=True):
        x = self._slot[0]
        dx = super().backward(dy)
        changed = self.slip(dy, x, self.w.data) if self.slip else {}
        if "dw" in changed:
            self.w.grad = changed["dw"]
        if "db" in changed:
            self.b.grad = changed["db"]
        return changed.get("dx", dx)


SQUARE = {"outputs": 4}
PRODUCTS = {
    "dw transposed, another shape": (Dense(lambda dy, x, w: {"dw": dy.T @ x}), "gradient's shape", "it is transposed"),
    "dw transposed": (Dense(lambda dy, x, w: {"dw": dy.T @ x}, **SQUARE), "kernel order", "comes transposed"),
    "w not transposed": (Dense(lambda dy, x, w: {"dx": dy @ w}, **SQUARE), "transposed weights", "dx = dy w"),
    "db not summed": (Dense(lambda dy, x, w: {"db": dy}), "gradient's shape", "not summed over axis 0"),
    "db over the outputs": (Dense(lambda dy, x, w: {"db": dy[:4].sum(1)}, **SQUARE), "unknown", "fc.b"),
    "db of one image": (Dense(lambda dy, x, w: {"db": dy[-1]}), "not summed", "the dy of the last place alone"),
    "dw of one image": (Dense(lambda dy, x, w: {"dw": np.outer(x[0], dy[0])}), "one image", "the first image's"),
    "dw a mean": (Dense(lambda dy, x, w: {"dw": x.T @ dy / len(x)}), "mean for sum", "the batch size N"),
    "sums multiplied": (
        Dense(lambda dy, x, w: {"dw": np.outer(x.sum(0), dy.sum(0))}),
        "batch's sum",
        "summed over the batch by itself",
    ),
    "dx squeezed": (Dense(lambda dy, x, w: {"dx": (dy @ w.T)[0]}), "gradient's shape", "returns dx of shape (4,)"),
    "dx the other way round": (Dense(lambda dy, x, w: {"dx": w @ dy.T}), "gradient's shape", "it is transposed"),
}


@pytest.mark.parametrize("slip", PRODUCTS)
def test_a_product(slip):
    layer, cause, words = PRODUCTS[slip]
    name, detail = one_fault(gradcheck(layer, ROWS))
    assert name == cause
    assert words in detail


def test_the_product_without_a_slip_is_right():
    assert gradcheck(Dense(None), ROWS).ok


def test_a_broadcast_that_was_not_summed():
    def backward(dy, x, scale):
        return dy * scale, dy * x

    name, detail = one_fault(gradcheck((lambda x, scale: x * scale, backward), (X, RNG.standard_normal(4))))
    assert name == "gradient's shape"
    assert "the gradient of scale has shape (3, 8, 7, 4), expected (4,)" in detail
    assert "it was not summed over axes (0, 1, 2)" in detail


# normalisations


def norm_parts(x, gamma, eps=1e-3):
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    return axes, mean, var, (x - mean) / np.sqrt(var + eps)


def norm_forward(x, gamma, beta):
    return gamma * norm_parts(x, gamma)[3] + beta


def norm(**slip):
    """(forward, backward) of batch normalisation; what a slip puts into the place of a piece."""

    def backward(dy, x, gamma, beta):
        axes, mean, var, x_hat = norm_parts(x, gamma)
        m = x[..., 0].size
        given = {"dy": dy, "x": x, "gamma": gamma, "mean": mean, "var": var, "x_hat": x_hat, "m": m, "axes": axes}
        pieces = {"g": gamma * dy, "rstd": 1 / np.sqrt(var + 1e-3), "a": 1 / m, "b": 1 / m, "x_hat": x_hat}
        pieces |= {"dgamma": (dy * x_hat).sum(axes), "dbeta": dy.sum(axes)}
        pieces |= {key: make(**given) for key, make in slip.items()}
        g, h = pieces["g"], pieces["x_hat"]
        dx = pieces["rstd"] * (g - pieces["a"] * g.sum(axes) - pieces["b"] * h * (g * h).sum(axes))
        return dx, pieces["dgamma"], pieces["dbeta"]

    return norm_forward, backward


NORMS = {
    "gamma missing": (norm(g=lambda dy, **_: dy), "gamma missing", "dx lacks gamma"),
    "gamma twice": (norm(g=lambda dy, gamma, **_: dy * gamma**2), "gamma missing", "dx has gamma twice"),
    "1/m missing in the mean": (norm(a=lambda **_: 1.0), "1/m missing", "a term through the mean that is a sum"),
    "1/m missing in the variance": (norm(b=lambda **_: 1.0), "1/m missing", "through the variance that is a sum"),
    "no mean": (norm(a=lambda **_: 0.0), "mean term", "does not sum to 0 over a channel"),
    "no variance": (norm(b=lambda **_: 0.0), "variance term", "not orthogonal to x_hat"),
    "constants": (
        norm(a=lambda **_: 0.0, b=lambda **_: 0.0),
        "mean and variance terms",
        "both are treated as",
    ),
    "sign": (norm(b=lambda m, **_: -1 / m), "variance term", "with the other sign"),
    "the root's slope": (norm(b=lambda m, **_: 2 / m), "variance term", "doubled: the root's slope is 1/2"),
    "x for x_hat": (norm(x_hat=lambda x, **_: x), "x for x_hat", "dx has x where x_hat should"),
    "x - mean": (norm(x_hat=lambda x, mean, **_: x - mean), "x for x_hat", "dx has x - mean where x_hat should"),
    "epsilon outside": (
        norm(rstd=lambda var, **_: 1 / (np.sqrt(var) + 1e-3)),
        "epsilon's place",
        "has epsilon added to the deviation, forward adds it to the variance",
    ),
    "no epsilon": (norm(rstd=lambda var, **_: 1 / np.sqrt(var)), "epsilon's place", "dx lacks epsilon"),
    "no root": (norm(rstd=lambda var, **_: 1 / (var + 1e-3)), "deviation", "by the variance, not by its root"),
    "m - 1": (
        norm(rstd=lambda var, m, **_: 1 / np.sqrt(var * m / (m - 1) + 1e-3)),
        "variance over m - 1",
        "over m - 1, in forward over m",
    ),
    "two slips": (
        norm(g=lambda dy, **_: dy, a=lambda **_: 0.0),
        "gamma missing",
        "dx lacks gamma; and does not sum to 0 over a channel",
    ),
    "dgamma with x": (norm(dgamma=lambda dy, x, axes, **_: (dy * x).sum(axes)), "x for x_hat", "dgamma = Σ dy x"),
    "dgamma is dbeta": (norm(dgamma=lambda dy, axes, **_: dy.sum(axes)), "x_hat forgotten", "which is dbeta"),
    "dbeta a mean": (norm(dbeta=lambda dy, axes, **_: dy.mean(axes)), "mean for sum", "the gradient of beta"),
}


@pytest.mark.parametrize("slip", NORMS)
def test_a_normalisation(slip):
    pair, cause, words = NORMS[slip]
    gamma = np.array([0.5, 2.0, -1.5, 1.2])
    name, detail = one_fault(gradcheck(pair, (0.1 * X + 0.3, gamma, np.array([1.0, 0.0, 2.0, -1.0]))))
    assert name == cause
    assert words in detail


def test_the_normalisation_without_a_slip_is_right():
    assert gradcheck(norm(), (X, np.array([0.5, 2.0, -1.5, 1.2]), np.zeros(4))).ok


def test_trainings_formula_in_evaluation():
    class Trains(nn.BatchNorm):
        def backward(self, dy, need_dx=True):
            x, mean, rstd, _ = self.saved()
            return self.write_grads(*ops.batchnorm_backward(dy, x, self.gamma.data, mean, rstd))

    layer = Trains("bn", 4)
    layer.gamma.data[...] = [1, 2, 3, 4]
    assert gradcheck(layer, X).ok
    name, detail = one_fault(gradcheck(layer, X, training=False))
    assert name == "training's formula"
    assert "which are constants in evaluation" in detail


# softmax and cross-entropy


def softmax(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def cross_entropy(x):
    return -np.log(softmax(x)[np.arange(5), LABELS]).mean()


HOT = np.eye(4)[LABELS]
LOSSES = {
    "no - 1": (cross_entropy, lambda dy, x: dy * softmax(x) / 5, "label", "the - 1 at the label is missing"),
    "+ 1": (cross_entropy, lambda dy, x: dy * (softmax(x) + HOT) / 5, "label", "p + 1 at the label"),
    "no p": (cross_entropy, lambda dy, x: -dy * HOT / 5, "label", "p is missing"),
    "1 / p": (cross_entropy, lambda dy, x: -dy * HOT / softmax(x) / 5, "logits", "by the probabilities"),
    "not over N": (cross_entropy, lambda dy, x: dy * (softmax(x) - HOT), "sum for mean", "the batch size N"),
    "diagonal": (softmax, lambda dy, x: dy * softmax(x) * (1 - softmax(x)), "other logits", "are left out"),
    "no sum": (softmax, lambda dy, x: dy * softmax(x), "other logits", "the denominator gives is missing"),
    "log": (lambda x: np.log(softmax(x)), lambda dy, x: dy - softmax(x), "other logits", "the sum over dy is missing"),
}


@pytest.mark.parametrize("slip", LOSSES)
def test_a_softmax(slip):
    forward, backward, cause, words = LOSSES[slip]
    name, detail = one_fault(gradcheck((forward, backward), ROWS))
    assert name == cause
    assert words in detail


# functions of each number

POSITIVE = np.abs(ROWS) + 0.5
SLOPES = {
    "root: no 1/2": (np.sqrt, lambda dy, x: dy / np.sqrt(x), "counted twice", "2 x numeric"),
    "root: of x": (np.sqrt, lambda dy, x: dy / (2 * x), "slope", "backward takes the slope 0.5 · 1 / x"),
    "division: not squared": (
        lambda x: 1 / x,
        lambda dy, x: -dy / x,
        "slope",
        "backward takes the slope -y, forward has the slope -y²",
    ),
    "division: sign": (lambda x: 1 / x, lambda dy, x: dy / x**2, "sign", "the sign is turned"),
    "square: no 2": (lambda x: x**2, lambda dy, x: dy * x, "constant factor", "0.5 x numeric"),
    "sigmoid of y": (
        lambda x: 1 / (1 + np.exp(-x)),
        lambda dy, x: dy * x * (1 - x),
        "slope",
        "x (1 - x), forward has the slope y (1 - y)",
    ),
    "tanh": (np.tanh, lambda dy, x: dy * (1 - x**2), "slope", "slope 1 - x², forward has the slope 1 - y²"),
    "exp": (np.exp, lambda dy, x: dy * x, "slope", "backward takes the slope x, forward has the slope y"),
    "log": (np.log, lambda dy, x: dy / np.log(x), "slope", "1 / y, forward has the slope 1 / x"),
    "dy left out": (lambda x: x**2, lambda dy, x: 2 * x, "dy left out", "dx = 2 x, without dy"),
    "dy's sign": (lambda x: x**3 + x, lambda dy, x: (3 * x**2 + 1) * np.sign(dy), "dy left out", "or only its sign"),
    "dy squared": (lambda x: x**3 + x, lambda dy, x: (3 * x**2 + 1) * dy**2, "dy squared", "multiplied in twice"),
    "not linear": (lambda x: x**3 + x, lambda dy, x: (3 * x**2 + 1) * (dy + 1), "not linear in dy", "not twice"),
    "a factor x too many": (lambda x: x**3 + x, lambda dy, x: dy * (3 * x**2 + 1) * x, "slope", "x x numeric"),
}


@pytest.mark.parametrize("slip", SLOPES)
def test_a_function_of_each_number(slip):
    forward, backward, cause, words = SLOPES[slip]
    name, detail = one_fault(gradcheck((forward, backward), POSITIVE))
    assert name == cause
    assert words in detail


MASKS = {
    "turned": (lambda dy, x: dy * (x < 0), "the mask is turned"),
    "of dy": (lambda dy, x: dy * (dy > 0), "the mask is that of dy > 0, not of x > 0"),
    "of both": (lambda dy, x: dy * (dy > 0) * (x > 0), "of dy > 0 and x > 0"),
    "times x": (lambda dy, x: dy * np.maximum(x, 0), "the slope there is 1"),
    "without dy": (lambda dy, x: 1.0 * (x > 0), "dy is not in it"),
    "none": (lambda dy, x: dy, "the gradient passes where the output does not move"),
}


@pytest.mark.parametrize("slip", MASKS)
def test_a_mask(slip):
    backward, words = MASKS[slip]
    name, detail = one_fault(gradcheck((ops.relu_forward, backward), X))
    assert name == "mask"
    assert words in detail
