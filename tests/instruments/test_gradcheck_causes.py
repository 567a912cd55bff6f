"""What people get wrong in a backward pass, by the hundred: each slip gets its own name, with its layer and tensor."""

import numpy as np
import pytest

from minires import nn, ops
from minires.instruments.gradcheck import gradcheck
from minires.nn import Block

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 8, 7, 4))
ROWS = RNG.standard_normal((5, 4))
LABELS = np.array([0, 2, 1, 3, 2])


def faults(report) -> dict[str, str]:
    return {f.name: f.detail for f in report.findings if f.status == "fail"}


def one_fault(report) -> tuple[str, str]:
    """The only fault's name and words; a healthy report has none, and the test fails."""
    ((name, detail),) = faults(report).items()
    return name, detail


# convolutions as students write them: a loop over windows, with the slip in one place


def conv_forward(x, w, stride, pad, dilation):
    return ops.conv2d_forward(x, w, None, stride=stride, pad=pad, dilation=dilation)


def conv_loops(dy, x, w, stride, pad, dilation, *, step=None, assign=False, crop=True, keep=True, reach=None):
    """dx and dw, right where nothing else is asked for."""
    step, reach = step or stride, reach or dilation
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    if not keep:
        padded = np.pad(x, ((0, 0), (0, 2 * pad), (0, 2 * pad), (0, 0)))
    dx, dw = np.zeros_like(padded), np.zeros_like(w)
    R, S = w.shape[:2]
    for p, q in np.ndindex(dy.shape[1:3]):
        rows = slice(p * step, p * step + (R - 1) * reach + 1, reach)
        columns = slice(q * step, q * step + (S - 1) * reach + 1, reach)
        part = np.einsum("no,rsco->nrsc", dy[:, p, q], w)
        dx[:, rows, columns] = part if assign else dx[:, rows, columns] + part
        dw += np.einsum("nrsc,no->rsco", padded[:, rows, columns], dy[:, p, q])
    at = pad if crop else 0
    return dx[:, at : at + x.shape[1], at : at + x.shape[2]], dw


def conv(stride=1, pad=0, dilation=1, only=None, **slip):
    """(forward, backward) of a convolution with a slip; only: 'dx' or 'dw', where the other one is right."""

    def forward(x, w):
        return conv_forward(x, w, stride, pad, dilation)

    def backward(dy, x, w):
        wrong = conv_loops(dy, x, w, stride, pad, dilation, **slip)
        right = conv_loops(dy, x, w, stride, pad, dilation)
        return tuple(wrong[i] if only in (None, name) else right[i] for i, name in enumerate(("dx", "dw")))

    return forward, backward


KERNEL = RNG.standard_normal((3, 3, 4, 2))
CONVS = {
    "stride forgotten in dx": (conv(stride=2, only="dx", step=1), "stride", "dx is laid out as if the stride were 1"),
    "stride forgotten in dw": (conv(stride=2, only="dw", step=1), "stride", "dw reads x as if the stride were 1"),
    "= for +=": (conv(only="dx", assign=True), "overwritten windows", "each window of dx overwrites"),
    "= for +=, strided and padded": (conv(2, 1, only="dx", assign=True), "overwritten windows", "each window of dx"),
    "margin not cut off": (conv(pad=1, only="dx", crop=False), "padding", "dx is shifted by the padding"),
    "x kept without its padding": (conv(pad=1, only="dw", keep=False), "padding", "dw reads x without the padding"),
    "dilation forgotten in dx": (conv(dilation=2, only="dx", reach=1), "dilation", "dx is laid out as if the kernel"),
    "dilation forgotten in dw": (conv(dilation=2, only="dw", reach=1), "dilation", "dw reads x as if the kernel"),
}


@pytest.mark.parametrize("slip", CONVS)
def test_a_convolution(slip):
    pair, cause, words = CONVS[slip]
    report = gradcheck(pair, (X, KERNEL))
    name, detail = one_fault(report)
    assert name == cause
    assert words in detail
    assert "the gradient of x is wrong" in detail or "the gradient of w is wrong" in detail


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"pad": 1}, {"dilation": 2}, {"stride": 2, "pad": 1}])
def test_the_loops_without_a_slip_are_right(options):
    assert gradcheck(conv(**options), (X, KERNEL)).ok


class StrideForgotten(nn.Conv2d):
    """In a layer's backward: the gradient is laid side by side, whatever the stride."""

    def backward(self, dy, need_dx=True):
        x = self._slot[0]
        super().backward(dy)
        w, dx = self.w.data, np.zeros_like(x)
        for p, q in np.ndindex(dy.shape[1:3]):
            dx[:, p : p + 3, q : q + 3] += np.einsum("no,rsco->nrsc", dy[:, p, q], w)
        return dx


class FirstGroup(nn.Conv2d):
    """Grouped, with the first group's kernels for all."""

    def backward(self, dy, need_dx=True):
        x = self._slot[0]
        super().backward(dy)
        first = np.concatenate([self.w.data[..., : dy.shape[-1] // self.groups]] * self.groups, axis=-1)
        return ops.conv2d_backward(dy, x, first, **self.window)[0]


class LastImage(nn.Conv2d):
    def backward(self, dy, need_dx=True):
        x = self._slot[0]
        dx = super().backward(dy)
        _, dw, _ = ops.conv2d_backward(dy[-1:], x[-1:], self.w.data, **self.window)
        self.w.grad = dw
        return dx


class Unflipped(nn.Conv2d):
    def backward(self, dy, need_dx=True):
        x = self._slot[0]
        super().backward(dy)
        return ops.conv2d_backward(dy, x, self.w.data[::-1, ::-1], **self.window)[0]


class BiasOverOneAxis(nn.Conv2d):
    """db summed over the batch alone: of another shape than b."""

    def backward(self, dy, need_dx=True):
        dx = super().backward(dy)
        self.b.grad = dy.sum(axis=0)
        return dx


class BiasOverWrongAxes(nn.Conv2d):
    """db summed over the rows and channels: of b's shape by accident."""

    def backward(self, dy, need_dx=True):
        dx = super().backward(dy)
        self.b.grad = dy.sum(axis=(0, 1, 3))
        return dx


LAYERS = {
    "stride": (StrideForgotten("c", 4, 2, 3, stride=2), "stride", "c: the gradient of x is wrong: dx is laid out as"),
    "groups": (FirstGroup("c", 4, 4, 3, groups=2), "groups", "the kernels of the first group alone"),
    "one image": (LastImage("c", 4, 2, 3), "one image", "the gradient of c.w is wrong: dw holds the last image's"),
    "not flipped": (Unflipped("c", 4, 2, 3, pad=1), "kernel order", "not turned by 180 degrees"),
    "bias, one axis": (BiasOverOneAxis("c", 4, 2, 3, bias=True), "gradient's shape", "not summed over axes (0, 1)"),
    "bias, wrong axes": (BiasOverWrongAxes("c", 4, 5, 3, bias=True), "wrong axis", "dy summed over axes (0, 1, 3)"),
}


@pytest.mark.parametrize("slip", LAYERS)
def test_a_layer_with_a_kernel(slip):
    layer, cause, words = LAYERS[slip]
    name, detail = one_fault(gradcheck(layer, X))
    assert name == cause
    assert words in detail


def test_the_layer_is_named_within_a_network():
    body = nn.Sequential(nn.Conv2d("a", 4, 4, 3), StrideForgotten("b", 4, 2, 3, stride=2), nn.ReLU("r"), name="net")
    name, detail = one_fault(gradcheck(body, X))
    assert name == "stride"
    assert detail.startswith("b: the gradient of x is wrong")


# pools


def pool_forward(x, k=3, s=2):
    return ops.maxpool_forward(x, kernel=k, stride=s, pad=0)


def pool_loops(dy, x, k=3, s=2, *, share="winner", assign=False, step=None):
    dx, step = np.zeros_like(x), step or s
    for p, q in np.ndindex(dy.shape[1:3]):
        part = x[:, p * s : p * s + k, q * s : q * s + k]
        top = part == part.max((1, 2), keepdims=True)
        given = {"winner": top, "mean": np.full(part.shape, 1 / k**2)}[share] * dy[:, p, q][:, None, None]
        at = slice(None), slice(p * step, p * step + k), slice(q * step, q * step + k)
        if assign == "winners":
            dx[at] = np.where(top, given, dx[at])
        else:
            dx[at] = given if assign else dx[at] + given
    return dx


def global_max(x):
    return x.max((1, 2))


POOLS = {
    "a mean's": ((pool_forward, lambda dy, x: pool_loops(dy, x, share="mean")), "mean for maximum", "spread evenly"),
    "= for +=": ((pool_forward, lambda dy, x: pool_loops(dy, x, assign=True)), "overwritten windows", "overwrites"),
    "= at winners": (
        (pool_forward, lambda dy, x: pool_loops(dy, x, assign="winners")),
        "overwritten windows",
        "overwrites",
    ),
    "stride": ((pool_forward, lambda dy, x: pool_loops(dy, x, step=1)), "stride", "laid out as if the stride were 1"),
    "mean behind a global maximum": (
        (global_max, lambda dy, x: np.broadcast_to(dy[:, None, None] / 56, x.shape)),
        "mean for maximum",
        "spread evenly over the map",
    ),
    "maximum behind a global mean": (
        (lambda x: x.mean((1, 2)), lambda dy, x: dy[:, None, None] * (x == x.max((1, 2), keepdims=True))),
        "maximum for mean",
        "goes to the largest over the map; forward takes all",
    ),
    "the smallest": (
        (global_max, lambda dy, x: dy[:, None, None] * (x == x.min((1, 2), keepdims=True))),
        "maximum",
        "goes to the smallest",
    ),
}


@pytest.mark.parametrize("slip", POOLS)
def test_a_pooling(slip):
    pair, cause, words = POOLS[slip]
    name, detail = one_fault(gradcheck(pair, X))
    assert name == cause
    assert words in detail


def test_the_pooling_without_a_slip_is_right():
    assert gradcheck((pool_forward, pool_loops), X).ok
    assert gradcheck((global_max, lambda dy, x: dy[:, None, None] * (x == x.max((1, 2), keepdims=True))), X).ok


def test_a_gradient_for_all_ties_is_found_where_there_are_ties():
    """Each tie is a kink, past which no difference tells; but all numbers can be moved together."""
    tied = np.maximum(np.round(X), 0)  # as behind a ReLU
    name, detail = one_fault(gradcheck((pool_forward, pool_loops), tied))
    assert name == "all ties"
    assert "every pixel that equals its window's maximum" in detail
    assert gradcheck(nn.MaxPool2d("pool", 3, 2), tied).ok


class OverlapForgotten(nn.MaxPool2d):
    def backward(self, dy, need_dx=True):
        x, _ = self.saved()
        return pool_loops(dy, x, assign="winners")


def test_a_pooling_layer():
    name, detail = one_fault(gradcheck(OverlapForgotten("pool", 3, 2), X))
    assert name == "overwritten windows"
    assert "pool: the gradient of x" in detail


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


# layers with state


class Redrawn(nn.Dropout):
    """Dropout that draws another mask in backward."""

    def forward(self, x):
        return x * (self.rng.random(x.shape) >= 0.5) * 2

    def backward(self, dy, need_dx=True):
        return dy * (self.rng.random(dy.shape) >= 0.5) * 2


def test_a_mask_drawn_anew_in_backward():
    name, detail = one_fault(gradcheck(Redrawn("drop", 0.5), X))
    assert name == "drawn anew"
    assert "drop draws in backward" in detail


class Unscaled(nn.Dropout):
    def backward(self, dy, need_dx=True):
        return super().backward(dy) * 0.5


def test_dropouts_scale():
    name, detail = one_fault(gradcheck(Unscaled("drop", 0.5), X))
    assert name == "dropout's scale"
    assert "what was kept is not scaled by 2" in detail


class Accumulates(nn.Dense):
    def backward(self, dy, need_dx=True):
        before = None if self.w.grad is None else self.w.grad.copy()
        dx = super().backward(dy)
        if before is not None:
            self.w.grad = self.w.grad + before
        return dx


class KeepsTheFirst(nn.ReLU):
    """Saves what it needs once, and never again."""

    def forward(self, x):
        if not hasattr(self, "mask"):
            self.mask = x > 0
        return ops.relu_forward(x)

    def backward(self, dy, need_dx=True):
        return dy * self.mask


def test_what_an_earlier_pass_left():
    name, detail = one_fault(gradcheck(nn.Sequential(Accumulates("fc", 4, 3), nn.ReLU("r"), name="net"), ROWS))
    assert name == "accumulated"
    assert detail.startswith("the gradient of fc.w is the sum of two backward passes")
    name, detail = one_fault(gradcheck(nn.Sequential(nn.Dense("fc", 4, 3), KeepsTheFirst("r"), name="net"), ROWS))
    assert name == "earlier batch"
    assert detail.startswith("r: in a second pass, of another batch, the gradient of its input")


class Twice(nn.Module):
    """y = (x w) w, whose two gradients of w are written one over the other."""

    def __init__(self, name, summed):
        super().__init__(name)
        self.summed = summed
        self.w = nn.Param(f"{name}.w", RNG.standard_normal((4, 4)))

    def forward(self, x):
        h = x @ self.w.data
        self.save(x, h)
        return h @ self.w.data

    def backward(self, dy, need_dx=True):
        x, h = self.saved()
        dh = dy @ self.w.data.T
        if self.summed:
            self.w.write_grad(h.T @ dy + x.T @ dh)
        else:
            self.w.write_grad(h.T @ dy)
            self.w.write_grad(x.T @ dh)
        return dh @ self.w.data.T


def test_a_layer_used_twice_whose_gradients_overwrite_each_other():
    name, detail = one_fault(gradcheck(Twice("tied", summed=False), ROWS))
    assert name == "overwritten"
    assert "the gradient of tied.w is wrong: backward writes it 2 times" in detail
    assert gradcheck(Twice("tied", summed=True), ROWS).ok


class TwoHeads(nn.Module):
    """y = a(x) + b(x), with the gradient of the first alone."""

    def __init__(self, name):
        super().__init__(name)
        self.a, self.b = nn.Dense(f"{name}.a", 4, 3), nn.Dense(f"{name}.b", 4, 3, seed=1)

    def forward(self, x):
        return self.a.forward(x) + self.b.forward(x)

    def backward(self, dy, need_dx=True):
        self.b.backward(dy)
        return self.a.backward(dy)


def test_paths_that_are_not_summed():
    name, detail = one_fault(gradcheck(TwoHeads("two"), ROWS))
    assert name == "paths not summed"
    assert "x goes into 2 layers, and dx is not the sum of what comes back" in detail


class Steps(nn.Dense):
    """A backward that takes the optimiser's step itself."""

    def backward(self, dy, need_dx=True):
        dx = super().backward(dy)
        self.w.data -= 0.1 * self.w.grad
        return dx


def test_a_backward_that_takes_the_optimisers_step():
    """Its gradient is right, and is not called wrong; nor is the network called no function."""
    report = gradcheck(nn.Sequential(nn.Dense("a", 4, 4), Steps("fc", 4, 3), name="net"), ROWS, layers=True)
    name, detail = one_fault(report)
    assert name == "step in backward"
    assert "backward changes fc.w" in detail
    assert all(c.ok for c in report.checks)


def test_images_that_are_left_out():
    def backward(dy, x):
        dx = 2 * dy * x
        dx[-1] = 0
        return dx

    name, detail = one_fault(gradcheck((lambda x: x**2, backward), POSITIVE))
    assert name == "left out: images"
    assert "it is 0 at image 4, and right elsewhere" in detail


def test_a_factor_of_each_channel_that_is_forgotten():
    pair = lambda x, scale: np.sin(x) * scale, lambda dy, x, scale: (dy * np.cos(x), (dy * np.sin(x)).sum((0, 1, 2)))
    name, detail = one_fault(gradcheck(pair, (X, np.array([0.5, 2.0, -1.5, 1.2]))))
    assert name == "factor missing"
    assert "it lacks the factor scale of each channel" in detail


# forward is looked at first


class Departs(Block):
    """A Block with a forward of its own; its backward is Block's."""

    form = staticmethod(lambda F, x: F)

    def forward(self, x):
        F = self.branch.forward(x)
        y = self.add.forward(F, x)
        y = self.after.forward(y)
        return self.form(F, x, y)


FORWARDS = {
    "misplaced ReLU": (lambda F, x, y: np.maximum(F, 0) + x, "the ReLU stands before the sum"),
    "doubled shortcut": (lambda F, x, y: np.maximum(F + 2 * x, 0), "the shortcut counts twice"),
    "shortcut left out": (lambda F, x, y: F, "it ignores the shortcut"),
    "scaled shortcut": (lambda F, x, y: np.maximum(F - x, 0), "the shortcut is subtracted"),
}


@pytest.mark.parametrize("slip", FORWARDS)
def test_a_forward_that_departs_from_its_class_is_to_blame_not_backward(slip):
    form, words = FORWARDS[slip]
    kind = type("Departs", (Departs,), {"form": staticmethod(form)})
    branch = nn.Sequential(nn.Conv2d("b.conv", 4, 4, 3, pad=1), name="b.branch")
    name, detail = one_fault(gradcheck(kind("b", branch, Block.IDENTITY, after=nn.ReLU("b.relu")), X))
    assert name == slip
    assert words in detail
    assert "Block.backward is right for Block.forward, which Departs.forward does not follow" in detail


class DoublingAdd(nn.Add):
    def forward(self, branch, shortcut):
        return branch + 2 * shortcut


def test_an_add_that_doubles_the_shortcut():
    branch = nn.Sequential(nn.Conv2d("b.conv", 4, 4, 3, pad=1), name="b.branch")
    block = Block("b", branch, Block.IDENTITY, after=nn.ReLU("b.relu"))
    block.add = DoublingAdd("b.add")
    name, detail = one_fault(gradcheck(block, X))
    assert name == "doubled shortcut"
    assert "b.add" in detail
    assert "the add node gives F(x) + 2 shortcut" in detail


class ShiftedReLU(nn.ReLU):
    def forward(self, x):
        y = super().forward(x)
        return y + 0.1 * x**2


def test_a_forward_that_departs_in_another_way():
    name, detail = one_fault(gradcheck(ShiftedReLU("r"), X))
    assert name == "other forward"
    assert "off that of ReLU" in detail


def test_a_forward_that_is_not_finite_is_named_with_its_place():
    class Log(nn.ReLU):
        def forward(self, x):
            with np.errstate(all="ignore"):
                return np.log(super().forward(x))

    report = gradcheck(nn.Sequential(nn.ReLU("a"), Log("log"), name="net"), X)
    name, detail = one_fault(report)
    assert name == "forward not finite"
    assert detail.startswith("log.forward gives")
    assert report.checks == ()
    assert not report.ok


def test_weights_and_inputs_that_are_not_finite():
    layer = nn.Dense("fc", 4, 3)
    layer.w.data[1, 2] = np.nan
    name, detail = one_fault(gradcheck(layer, ROWS))
    assert name == "weights not finite"
    assert "1 of 12 numbers of the parameter fc.w" in detail
    assert one_fault(gradcheck(nn.ReLU("r"), np.full((2, 3), np.inf)))[0] == "input not finite"


def test_a_backward_that_is_not_finite():
    class Root(nn.Module):
        smooth = True

        def forward(self, x):
            self.save(x)
            return np.sqrt(np.maximum(x, 0))

        def backward(self, dy, need_dx=True):
            (x,) = self.saved()
            with np.errstate(all="ignore"):
                return dy / (2 * np.sqrt(np.maximum(x, 0))) * (x > 0)

    name, detail = one_fault(gradcheck(nn.Sequential(nn.ReLU("a"), Root("root"), name="net"), X))
    assert name == "gradient not finite"
    assert detail.startswith("root.backward")


def test_a_layer_that_is_no_function_is_named():
    class Counter(nn.ReLU):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) * self.calls

    report = gradcheck(nn.Sequential(nn.ReLU("a"), Counter("odd"), name="net"), X)
    name, detail = one_fault(report)
    assert name == "not a function"
    assert detail.startswith("odd: two forwards of one input")
    assert report.checks == ()


def test_the_processs_own_generator_is_put_back():
    class Noisy(nn.ReLU):
        def forward(self, x):
            return super().forward(x) + np.random.rand(*x.shape)  # noqa: NPY002

    report = gradcheck(Noisy("noisy"), X)
    assert report.ok
    assert any(f.name == "draws anew" for f in report.findings)


def test_dead_relus_are_told_without_blame():
    model = nn.Sequential(nn.Dense("a", 4, 3), nn.ReLU("r"), nn.Dense("b", 3, 2), name="net")
    model.layers[0].b.data[...] = -50
    report = gradcheck(model, ROWS)
    assert report.ok
    (finding,) = (f for f in report.findings if f.name == "dead ReLUs")
    assert finding.detail.startswith("r: 100.0% of its outputs are 0")


def test_whole_numbers_are_checked_as_floats():
    report = gradcheck(nn.Dense("fc", 3, 2), np.arange(12).reshape(4, 3))
    assert report.ok
    assert {c.tensor for c in report.checks} == {"x", "fc.w", "fc.b"}
    assert "whole numbers" in {f.name for f in report.findings}


RETURNS = {
    "None": (lambda self, dy: None, "never written", "r.backward returns None, expected dx of shape"),
    "a list": (lambda self, dy: "text", "no array", "r.backward returns a value of type str"),
    "another shape": (lambda self, dy: dy[:1], "gradient's shape", "r.backward returns dx of shape (1, 4), expected"),
    "two": (lambda self, dy: (dy, dy), "gradient's shape", "r.backward returns 2 gradients, expected 1"),
    "an exception": (lambda self, dy: dy[99], "raises", "r.backward raises IndexError"),
}


@pytest.mark.parametrize("what", RETURNS)
def test_what_backward_hands_back_is_looked_at_first(what):
    returned, cause, words = RETURNS[what]

    def backward(self, dy, need_dx=True):
        self.saved()
        return returned(self, dy)

    layer = type("Wrong", (nn.ReLU,), {"backward": backward})("r")
    for model in (layer, nn.Sequential(nn.Dense("a", 4, 4), layer, nn.Dense("b", 4, 2), name="net")):
        report = gradcheck(model, ROWS)
        name, detail = one_fault(report)
        assert name == cause
        assert words in detail
        assert report.checks == ()
        assert not report.ok
