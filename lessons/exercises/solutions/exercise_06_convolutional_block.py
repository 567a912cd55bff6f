"""Exercise 6: both paths start at x, take the same stride, and end in F3 channels."""

from minires import nn
from minires.nn import Block


class ConvolutionalBlock(Block):
    """y = relu(F(x) + projection(x))."""

    def __init__(self, name, channels, filters, stride=2, seed=0):
        F1, F2, F3 = filters
        branch = nn.Sequential(
            nn.Conv2d(f"{name}.conv1", channels, F1, 1, stride=stride, seed=seed),
            nn.BatchNorm(f"{name}.bn1", F1),
            nn.ReLU(f"{name}.relu1"),
            nn.Conv2d(f"{name}.conv2", F1, F2, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn2", F2),
            nn.ReLU(f"{name}.relu2"),
            nn.Conv2d(f"{name}.conv3", F2, F3, 1, seed=seed),
            nn.BatchNorm(f"{name}.bn3", F3),
            name=f"{name}.branch",
        )
        shortcut = nn.Sequential(
            nn.Conv2d(f"{name}.conv0", channels, F3, 1, stride=stride, seed=seed),
            nn.BatchNorm(f"{name}.bn0", F3),
            name=f"{name}.shortcut",
        )
        super().__init__(name, branch, shortcut, after=nn.ReLU(f"{name}.relu3"))

    def forward(self, x):
        y = self.branch.forward(x)
        y = self.add.forward(y, self.shortcut.forward(x))
        return self.after.forward(y)

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        dx = self.branch.backward(dbranch)
        return dx + self.shortcut.backward(dshortcut)
