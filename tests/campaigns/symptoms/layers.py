"""Layers and blocks as people write them themselves, right and wrong ones."""

import numpy as np

from minires import nn


class Own(nn.Module):
    """y = f(x) of the shape of x; what `keep` names of x or y is kept for backward."""

    def output_shape(self, shape):
        return shape

    def forward(self, x):
        y = self.f(x)
        self.save(x, y)
        return y

    def backward(self, dy, need_dx=True):
        return self.df(dy, *self.saved())


class Softmax(Own):
    """Probabilities, with the right backward."""

    def f(self, x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def df(self, dy, x, y):
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


class Swish(Own):
    """y = x sigmoid(x), right."""

    def f(self, x):
        return x / (1 + np.exp(-x))

    def df(self, dy, x, y):
        s = 1 / (1 + np.exp(-x))
        return dy * (s + y * (1 - s))


class Tanh(Own):
    """Right."""

    def f(self, x):
        return np.tanh(x)

    def df(self, dy, x, y):
        return dy * (1 - y * y)


def norm_relu(name, channels):
    return [nn.BatchNorm(f"{name}.bn", channels), nn.ReLU(f"{name}.relu")]


def conv3(name, C, O, seed=0, stride=1, **options):
    return nn.Conv2d(f"{name}.conv", C, O, 3, stride=stride, pad=1, seed=seed, **options)


def unit(name, C, O, seed=0, stride=1):
    """Convolution, normalisation, ReLU."""
    return [conv3(name, C, O, seed, stride), *norm_relu(name, O)]


def head(C, classes, seed=0):
    return [nn.GlobalAvgPool2d("pool"), nn.Dense("fc", C, classes, seed=seed)]


def branch(name, C, O, seed=0, stride=1):
    """The branch of a residual block: two 3x3 convolutions."""
    return nn.Sequential(
        *unit(f"{name}.1", C, O, seed, stride),
        conv3(f"{name}.2", O, O, seed),
        nn.BatchNorm(f"{name}.2.bn", O),
        name=f"{name}.branch",
    )


def projection(name, C, O, seed=0, stride=1):
    return nn.Sequential(
        nn.Conv2d(f"{name}.0.conv", C, O, 1, stride=stride, seed=seed),
        nn.BatchNorm(f"{name}.0.bn", O),
        name=f"{name}.shortcut",
    )


def residual(block, shape, classes, seed=0, width=16, blocks=2, down=None):
    """A network of such blocks, block(name, channels, seed=...), maybe with one that halves the map in the middle."""
    layers = [*unit("stem", shape[2], width, seed), *(block(f"block{i}", width, seed=seed) for i in range(blocks))]
    if down:
        layers += [down("down", width, seed=seed)]
        width *= 2
    return nn.Network(*layers, *head(width, classes, seed), input_shape=shape, name="own-resnet")


class Identity(nn.Block):
    """y = relu(F(x) + x), written by hand and right."""

    def __init__(self, name, channels, seed=0):
        super().__init__(
            name, branch(name, channels, channels, seed), nn.Block.IDENTITY, after=nn.ReLU(f"{name}.after")
        )

    def forward(self, x):
        return self.after.forward(self.add.forward(self.branch.forward(x), x))

    def backward(self, dy, need_dx=True):
        dbranch, dx = self.add.backward(self.after.backward(dy))
        return self.branch.backward(dbranch) + dx


class Down(nn.Block):
    """Half the map, twice the channels, right."""

    def __init__(self, name, channels, seed=0):
        super().__init__(
            name,
            branch(name, channels, 2 * channels, seed, stride=2),
            projection(name, channels, 2 * channels, seed, stride=2),
            after=nn.ReLU(f"{name}.after"),
        )


def kernels(model):
    """The parameters that are kernels."""
    return [p for p in model.params() if p.decay]


def rescaled(model, factor):
    """All kernels multiplied."""
    for p in kernels(model):
        p.data = (p.data * factor).astype(p.data.dtype)
    return model


def vgg(shape, classes, seed=0, bias=0.0, act=nn.ReLU, last=(), width=16):
    """Two stages without normalisation; last: layers behind the scores."""
    layers, C = [], shape[2]
    for i, O in enumerate((width, width, 2 * width, 2 * width)):
        conv = conv3(f"conv{i}", C, O, seed, bias=True)
        conv.b.data[:] = bias
        layers += [conv, act(f"act{i}")]
        if i % 2:
            layers.append(nn.MaxPool2d(f"pool{i}", 2))
        C = O
    return nn.Network(*layers, *head(C, classes, seed), *last, input_shape=shape, name="own-vgg")
