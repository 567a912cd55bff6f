"""Exercise 7: bug hunt, plain in disguise

A network of the blocks below trains no better than the plain network of its depth. Nothing fails: the shapes fit,
the loss falls, every gradient agrees with its central difference to ten digits. And yet there is no residual block
here. What was meant:

    y = relu(F(x) + projection(x))

    x, dx    (N, H, W, channels)          y, dy    (N, H/stride, W/stride, F2)

Find out why, and mend forward and backward. The layers are right as they are.

One thing is odd: the block runs with 8 channels in and 8 out, but with 4 in and 8 out it raises an error.

Read: K. He et al., arXiv:1512.03385, section 3.2, equation 2. The instrument for such faults is
minires.instruments.audit: it holds the branch fixed, moves x, and looks who answers.
"""

from minires import nn
from minires.nn import Block


class ConvolutionalBlock(Block):
    """Two 3x3 convolutions beside a projection."""

    def __init__(self, name, channels, filters, stride=1, seed=0):
        F1, F2 = filters
        branch = nn.Sequential(
            nn.Conv2d(f"{name}.conv1", channels, F1, 3, stride=stride, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn1", F1),
            nn.ReLU(f"{name}.relu1"),
            nn.Conv2d(f"{name}.conv2", F1, F2, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn2", F2),
            name=f"{name}.branch",
        )
        shortcut = nn.Sequential(
            nn.Conv2d(f"{name}.conv0", channels, F2, 1, stride=stride, seed=seed),
            nn.BatchNorm(f"{name}.bn0", F2),
            name=f"{name}.shortcut",
        )
        super().__init__(name, branch, shortcut, after=nn.ReLU(f"{name}.relu2"))

    def forward(self, x):
        for layer in self.branch.layers:
            x = layer.forward(x)
        shortcut = self.shortcut.forward(x)
        x = self.add.forward(x, shortcut)
        return self.after.forward(x)

    def backward(self, dy, need_dx=True):
        dx, dshortcut = self.add.backward(self.after.backward(dy))
        dx = dx + self.shortcut.backward(dshortcut)
        for layer in reversed(self.branch.layers):
            dx = layer.backward(dx)
        return dx
