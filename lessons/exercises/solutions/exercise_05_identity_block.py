"""Exercise 5: three convolutions, and an add node that copies the gradient."""

from minires import nn
from minires.nn import Block


class IdentityBlock(Block):
    """y = relu(F(x) + x)."""

    def __init__(self, name, channels, filters, seed=0):
        F1, F2 = filters
        layers = [
            nn.Conv2d(f"{name}.conv1", channels, F1, 1, seed=seed),
            nn.BatchNorm(f"{name}.bn1", F1),
            nn.ReLU(f"{name}.relu1"),
            nn.Conv2d(f"{name}.conv2", F1, F2, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn2", F2),
            nn.ReLU(f"{name}.relu2"),
            nn.Conv2d(f"{name}.conv3", F2, channels, 1, seed=seed),
            nn.BatchNorm(f"{name}.bn3", channels),
        ]
        branch = nn.Sequential(*layers, name=f"{name}.branch")
        super().__init__(name, branch, Block.IDENTITY, after=nn.ReLU(f"{name}.relu3"))

    def forward(self, x):
        y = self.branch.forward(x)
        y = self.add.forward(y, x)
        return self.after.forward(y)

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        dx = self.branch.backward(dbranch)
        return dx + dshortcut
