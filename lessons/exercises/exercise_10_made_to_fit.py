"""Exercise 10: bug hunt, made to fit

"The shapes did not agree at the add node, so I made them fit." The block below halves the map and doubles the
channels, its gradients pass the check to ten digits, and the network learns. But it learns less than one expects,
and with a hand in the lower right corner of the image it is as good as plain. What was meant:

    y = relu(F(x) + projection(x))

    x, dx    (N, H, W, channels), H and W even          y, dy    (N, H/2, W/2, 2 * channels)

Find the fault and mend it; the projection remains one 1x1 convolution with batch normalisation.

Read: K. He et al., arXiv:1512.03385, section 3.3, the last two sentences on residual networks: what a shortcut does
that goes across maps of two sizes. The instrument is a finger: move one pixel of x, and look what moves behind the
shortcut.
"""

import numpy as np

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
            nn.Conv2d(f"{name}.conv0", channels, 2 * channels, 1, seed=seed),
            nn.BatchNorm(f"{name}.bn0", 2 * channels),
            name=f"{name}.shortcut",
        )
        super().__init__(name, branch, shortcut, after=nn.ReLU(f"{name}.relu2"))

    def forward(self, x):
        y = self.branch.forward(x)
        shortcut = self.shortcut.forward(x)
        self.shape = shortcut.shape
        shortcut = shortcut[:, : y.shape[1], : y.shape[2]]  # the add node wants equal shapes
        return self.after.forward(self.add.forward(y, shortcut))

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        dfull = np.zeros(self.shape, dy.dtype)
        dfull[:, : dy.shape[1], : dy.shape[2]] = dshortcut
        return self.branch.backward(dbranch) + self.shortcut.backward(dfull)
