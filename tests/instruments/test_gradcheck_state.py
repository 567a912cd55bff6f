"""What a layer with state gets wrong, and what a gradient check looks at before it judges backward."""

import numpy as np
import pytest
from one_fault import one_fault

from minires import nn, ops
from minires.instruments.gradcheck import gradcheck
from minires.nn import Block

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 8, 7, 4))
ROWS = RNG.standard_normal((5, 4))


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

    name, detail = one_fault(gradcheck((lambda x: x**2, backward), (np.abs(ROWS) + 0.5)))
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
