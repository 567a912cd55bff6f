"""Exercise 6: the convolutional block

Where a stage begins, the map is halved and the channels grow: x no longer fits F(x), and the shortcut becomes a
projection, a 1x1 convolution with batch normalisation:

    y = relu(F(x) + BN(conv 1x1 (x)))

The stride stands in the first 1x1 convolution of the branch, as in the paper and the course. Write
1. the layers of the branch F:   1x1, channels -> F1, with the stride;   3x3, F1 -> F2, which keeps the map's size;
                                 1x1, F2 -> F3;   each followed by BatchNorm, the first two by ReLU as well
2. the layers of the shortcut;
3. forward(x) -> y with self.branch, self.shortcut, self.add and self.after;
4. backward(dy) -> dx, the way back.

    x, dx    (N, H, W, channels)          y, dy    (N, H/2, W/2, F3) for stride 2; neither x nor dy is to be changed

Read: K. He et al., arXiv:1512.03385, section 3.2, equation 2, section 3.3 (option B) and table 1;
where other implementations put the stride: the variants v1 and v1.5 in minires/nn/resnet.py.
"""

from minires import nn
from minires.nn import Block


class ConvolutionalBlock(Block):
    """y = relu(F(x) + projection(x))."""

    def __init__(self, name, channels, filters, stride=2, seed=0):  # filters = (F1, F2, F3)
        branch = nn.Sequential(
            nn.Conv2d(f"{name}.conv1", channels, filters[0], 1, stride=stride, seed=seed),
            ...,  # the other layers, down to the last BatchNorm
            name=f"{name}.branch",
        )
        shortcut = nn.Sequential(
            ...,  # two layers
            name=f"{name}.shortcut",
        )
        super().__init__(name, branch, shortcut, after=nn.ReLU(f"{name}.relu3"))

    def forward(self, x):
        raise NotImplementedError("forward")

    def backward(self, dy, need_dx=True):
        raise NotImplementedError("backward")
