"""What people get wrong in a convolution's and a pooling's backward: each slip by its own name, layer and tensor."""

import numpy as np
import pytest
from one_fault import one_fault

from minires import nn, ops
from minires.instruments.gradcheck import gradcheck

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 8, 7, 4))


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
