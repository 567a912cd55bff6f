"""Exercise 5: the identity block

A bottleneck whose input and output have one shape, so that the shortcut is x itself:

    y = relu(F(x) + x),     F = BN(conv 1x1) o relu o BN(conv 3x3) o relu o BN(conv 1x1)      the last one first

Three things are missing below.
1. The layers of the branch F, in order: Conv2d, BatchNorm, ReLU, Conv2d, BatchNorm, ReLU, Conv2d, BatchNorm.
       1x1, channels -> F1;     3x3, F1 -> F2, the map keeps its size;     1x1, F2 -> channels
2. forward(x) -> y. The parts are there: self.branch, self.add, self.after (the last ReLU). A module is run with
   module.forward(x); self.add.forward(branch, shortcut) takes two arrays.
3. backward(dy) -> dx, the way back through the same parts, by hand. module.backward(dy) gives the gradient of the
   module's input and writes those of its parameters; self.add.backward(dy) gives a pair.

    x, y, dx, dy    (N, H, W, channels); neither x nor dy is to be changed

Read: K. He et al., "Deep Residual Learning", arXiv:1512.03385, section 3.2, equation 1, and figure 5 (right);
in the library: minires/nn/conv.py, norm.py and activation.py for what the layers take, `Add` in minires/nn/join.py.
"""

from minires import nn
from minires.nn import Block


class IdentityBlock(Block):
    """y = relu(F(x) + x)."""

    def __init__(self, name, channels, filters, seed=0):  # filters = (F1, F2)
        layers = [
            nn.Conv2d(f"{name}.conv1", channels, filters[0], 1, seed=seed),
            ...,  # the other layers, down to the last BatchNorm
        ]
        branch = nn.Sequential(*layers, name=f"{name}.branch")
        super().__init__(name, branch, Block.IDENTITY, after=nn.ReLU(f"{name}.relu3"))

    def forward(self, x):
        raise NotImplementedError("forward")

    def backward(self, dy, need_dx=True):
        raise NotImplementedError("backward")
