"""Bugs that students plant, each as small as it comes: the instruments have to find every one.

`plant(model, bug)` turns a healthy network into one with that bug, in place.
"""

import numpy as np

from minires import nn, ops
from minires.nn import BatchNorm, Block, Conv2d, ReLU


class DeadSkip(Block):
    """The shortcut starts at the main path's output, not at the block's input."""

    def forward(self, x):
        y = self.branch.forward(x)
        self.save(self.shortcut)
        y = self.add.forward(y, y if self.shortcut == self.IDENTITY else self.shortcut.forward(y))
        return self.after.forward(y)

    def backward(self, dy, need_dx=True):
        self.saved()
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        dback = dshortcut if self.shortcut == self.IDENTITY else self.shortcut.backward(dshortcut)
        return self.branch.backward(dbranch + dback)


class AveragingAdd(nn.Add):
    """The gradient is averaged at the add node, where it must be copied."""

    def backward(self, dy, need_dx=True):
        return dy / 2, dy / 2


class AveragingBlock(Block):
    """The same mistake, made where the paths' gradients come together."""

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        if self.shortcut != self.IDENTITY:
            dshortcut = self.shortcut.backward(dshortcut)
        return (self.branch.backward(dbranch) + dshortcut) / 2


class BranchOnlyBlock(Block):
    """The shortcut's gradient is forgotten."""

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        if self.shortcut != self.IDENTITY:
            self.shortcut.backward(dshortcut)
        return self.branch.backward(dbranch)


class InPlaceReLU(ReLU):
    """`dout[x < 0] = 0`, written into the array that the shortcut receives too."""

    def backward(self, dy, need_dx=True):
        (y,) = self.saved()
        dy[y <= 0] = 0
        return dy


class NoMeanTerm(BatchNorm):
    """dx without the term that flows through the mean."""

    def backward(self, dy, need_dx=True):
        rstd = self._slot[2]
        dx = super().backward(dy)
        return dx + self.gamma.data * rstd * dy.mean(axis=tuple(range(dy.ndim - 1)))


class NoVarianceTerm(BatchNorm):
    """dx without the term that flows through the variance."""

    def backward(self, dy, need_dx=True):
        x, mean, rstd, *_ = self._slot
        dx, x_hat = super().backward(dy), (x - mean) * rstd
        return dx + self.gamma.data * rstd * x_hat * (dy * x_hat).mean(axis=tuple(range(dy.ndim - 1)))


class ConstantStatistics(BatchNorm):
    """dx as if mean and variance did not depend on x."""

    def backward(self, dy, need_dx=True):
        rstd = self._slot[2]
        super().backward(dy)
        return dy * self.gamma.data * rstd


class MovingBatchNorm(BatchNorm):
    """Evaluation that goes on updating the running statistics which it uses."""

    def forward(self, x):
        if not self.training:
            m, running = x.size // x.shape[-1], (self.mean.data, self.var.data)
            after = ops.batchnorm_running(*running, *ops.batchnorm_statistics(x), m, momentum=self.momentum)
            self.mean.data[...], self.var.data[...] = after
        return super().forward(x)


class FlippedKernel(Conv2d):
    """The kernel's gradient comes turned by 180 degrees."""

    def backward(self, dy, need_dx=True):
        dx = super().backward(dy)
        self.w.grad = self.w.grad[::-1, ::-1].copy()
        return dx


class UnturnedKernel(Conv2d):
    """dx is dy convolved with the kernel as it is, not turned."""

    def backward(self, dy, need_dx=True):
        x, w = self._slot[0], self.w.data
        super().backward(dy)
        return ops.conv2d_backward(dy, x, w[::-1, ::-1], stride=self.stride, pad=self.pad)[0]


class MeanBias(Conv2d):
    """The bias's gradient is a mean over the batch where it is a sum."""

    def backward(self, dy, need_dx=True):
        dx = super().backward(dy)
        self.b.grad = self.b.grad / len(dy)
        return dx


class Float32Conv(Conv2d):
    """A layer that slips into float32."""

    def forward(self, x):
        return super().forward(x).astype(np.float32)


BLOCKS = {"dead skip": DeadSkip, "averaged": AveragingBlock, "branch only": BranchOnlyBlock}
NORMS = {"no mean term": NoMeanTerm, "no variance term": NoVarianceTerm, "constant statistics": ConstantStatistics}


def plant(model, bug: str):
    """The network with a bug in every place where it can be: a name of BLOCKS or NORMS, 'averaging add' or
    'same seed'. A dead skip goes where shapes permit it. Returns the model."""
    for module in list(model.modules()):
        if bug in BLOCKS and isinstance(module, Block) and (bug != "dead skip" or module.shortcut == Block.IDENTITY):
            module.__class__ = BLOCKS[bug]
        elif bug in NORMS and isinstance(module, BatchNorm):
            module.__class__ = NORMS[bug]
        elif bug == "averaging add" and isinstance(module, nn.Add):
            module.__class__ = AveragingAdd
    if bug == "same seed":
        for p in model.params():
            if p.decay:
                scale = p.data.std()
                p.data[...] = np.random.default_rng(0).standard_normal(p.data.shape) * scale
    return model


def relu_last_block(relu=InPlaceReLU) -> Block:
    """A block whose branch ends in a ReLU, just before the add node: y = x + relu(conv(x))."""
    branch = nn.Sequential(Conv2d("a.conv", 3, 3, 3, pad=1), relu("a.relu"), name="a.branch")
    return Block("a", branch, Block.IDENTITY)


def stride_on_one_path(shortcut=Block.IDENTITY) -> nn.Sequential:
    """A network whose second block halves the map in the branch alone."""
    stem = nn.Sequential(Conv2d("stem.conv", 3, 4, 3, pad=1), name="stem")
    block = Block("b", nn.Sequential(Conv2d("b.conv", 4, 4, 3, stride=2, pad=1), name="b.branch"), shortcut)
    return nn.Sequential(stem, block, name="net")
