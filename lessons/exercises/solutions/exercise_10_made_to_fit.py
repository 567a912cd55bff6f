"""Exercise 10: the projection takes the branch's stride, and the shapes agree by themselves."""

from minires import nn
from minires.nn import Block


class DownBlock(Block):
    """Half the map, twice the channels."""

    def __init__(self, name, channels, seed=0):
        branch = nn.Sequential(
            nn.Conv2d(f"{name}.conv1", channels, 2 * channels, 3, stride=2, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn1", 2 * channels),
            nn.ReLU(f"{name}.relu1"),
            nn.Conv2d(f"{name}.conv2", 2 * channels, 2 * channels, 3, pad=1, seed=seed),
            nn.BatchNorm(f"{name}.bn2", 2 * channels),
            name=f"{name}.branch",
        )
        shortcut = nn.Sequential(
            nn.Conv2d(f"{name}.conv0", channels, 2 * channels, 1, stride=2, seed=seed),
            nn.BatchNorm(f"{name}.bn0", 2 * channels),
            name=f"{name}.shortcut",
        )
        super().__init__(name, branch, shortcut, after=nn.ReLU(f"{name}.relu2"))

    def forward(self, x):
        y = self.branch.forward(x)
        shortcut = self.shortcut.forward(x)
        return self.after.forward(self.add.forward(y, shortcut))

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        return self.branch.backward(dbranch) + self.shortcut.backward(dshortcut)
