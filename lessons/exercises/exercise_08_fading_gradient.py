"""Exercise 8: bug hunt, the gradient that fades

A stack of the blocks below learns at its end only. On the way back the gradient fades from block to block, and ten
blocks down a thousandth is left of what should arrive there. "So residual networks vanish as well", says the author.
They do not: this is a fault of backward.

    y = relu(F(x) + x)

    x, y, dx, dy    (N, H, W, channels)

Find the fault and mend it. Forward is right as it is.

Read: K. He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, section 2, equation 5: what
stands in the brackets, and what stands before them. The instrument is minires.instruments.gradcheck.
"""

from minires import nn
from minires.nn import Block


class ResidualBlock(Block):
    """Two 3x3 convolutions beside an identity."""

    def __init__(self, name, channels, seed=0):
        branch = nn.Sequential(
            nn.Conv2d(f"{name}.conv1", channels, channels, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn1", channels),
            nn.ReLU(f"{name}.relu1"),
            nn.Conv2d(f"{name}.conv2", channels, channels, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn2", channels),
            name=f"{name}.branch",
        )
        super().__init__(name, branch, Block.IDENTITY, after=nn.ReLU(f"{name}.relu2"))

    def forward(self, x):
        y = self.branch.forward(x)
        return self.after.forward(self.add.forward(y, x))

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        dbranch = self.branch.backward(dbranch)
        # two gradients arrive at x: take their mean, so that they do not grow from block to block
        return (dbranch + dshortcut) / 2
