"""Faults of backward passes, and gradients that come too small, too large, or at random."""

import numpy as np

import minires
from minires import nn, ops
from symptoms import layers as own
from symptoms.common import Collection, classifier, fitted, fruit, pair, recipe, shapes, small, trained, whole_run

symptoms = Collection("gradient")

GRADCHECK = "https://github.com/pytorch/pytorch/issues/4355"
CS231N = "https://cs231n.github.io/neural-networks-3/"


def around(layers, C, seed=0, make=shapes):
    """An untrained network with some layers of C channels in its middle."""
    train, test = pair(make, seed=seed)
    model = nn.Network(
        *own.unit("a", 3, C, seed), *layers, *own.unit("b", C, 16, seed, stride=2), *own.head(16, len(train.classes)),
        input_shape=train.shape,
        name="own",
    )  # fmt: skip
    return {"what": classifier(model, train), "data": train, "test": test}


# layers of one's own


class GuidedReLU(own.Own):
    """Lets a gradient pass where the gradient is positive, not where the unit was on."""

    def f(self, x):
        return np.maximum(x, 0)

    def df(self, dy, x, y):
        return np.where(dy > 0, dy, 0)


@symptoms(
    "ReLU by the wrong sign",
    told="My own ReLU masks by the sign of dy. It learns something in the last layer and nothing before.",
    source=CS231N,
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([GuidedReLU("relu")], 12, seed)


class ISRLU(own.Own):
    """The inverse square root linear unit, whose backward forgets the arriving gradient."""

    def f(self, x):
        return np.where(x < 0, x / np.sqrt(1 + x * x), x)

    def df(self, dy, x, y):
        return np.where(x < 0, (1 + np.minimum(x, 0) ** 2) ** -1.5, 1).astype(dy.dtype)


@symptoms(
    "an activation without the chain rule",
    told="I implemented ISRLU and return its derivative. gradcheck fails with a message that I do not understand.",
    source=GRADCHECK,
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([ISRLU("isrlu")], 12, seed)


class SwishWithoutProduct(own.Swish):
    def df(self, dy, x, y):
        return dy / (1 + np.exp(-x))


@symptoms(
    "half of the product rule",
    told="My swish trains a little worse than ReLU, in every setting. I suspect its gradient.",
    source="https://github.com/KeKsBoTer/torch-dwt/issues/2",
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([SwishWithoutProduct("swish")], 12, seed)


class UnturnedConv(nn.Conv2d):
    """The gradient of its input is found with the kernel as it stands, not turned by 180 degrees."""

    def backward(self, dy, need_dx=True):
        (x,) = self._slot
        dx = super().backward(dy, need_dx)
        if need_dx:
            turned = np.ascontiguousarray(self.w.data[::-1, ::-1])
            dx = ops.conv2d_backward(dy, x, turned, need_dx=True, **self.window)[0]
        return dx


@symptoms(
    "a kernel that is not turned",
    told="dw is right, dx is not, and only for kernels larger than 1 x 1. It trains, more slowly with each layer.",
    source="lessons/exercises/exercise_02_conv_backward.py",
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([UnturnedConv("conv", 12, 12, 3, pad=1, seed=seed), *own.norm_relu("c", 12)], 12, seed)


class MeanBias(nn.Conv2d):
    def backward(self, dy, need_dx=True):
        dx = super().backward(dy, need_dx)
        self.b.write_grad(dy.mean(axis=(0, 1, 2)))
        return dx


@symptoms(
    "a mean in place of a sum",
    told="The bias gradient is thousands of times smaller than PyTorch's; I take dy.mean().",
    source=CS231N,
    causes="wrong backward",
)
def _(folder, seed=0):
    layer = MeanBias("conv", 12, 12, 3, pad=1, bias=True, seed=seed)
    return around([layer, nn.ReLU("r")], 12, seed)


class FrozenStatistics(nn.BatchNorm):
    """Treats mean and variance as constants on the way back."""

    def backward(self, dy, need_dx=True):
        x, mean, rstd, _ = self.saved()
        return self.write_grads(*ops.batchnorm_eval_backward(dy, x, self.gamma.data, mean, rstd))


@symptoms(
    "statistics taken for constants",
    told="My batch normalisation passes gamma / sigma * dy back. Training is unstable, it diverges at rates that are "
    "fine for others.",
    source="lessons/exercises/exercise_03_batchnorm_staged.py",
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([own.conv3("m", 12, 12, seed), FrozenStatistics("bn", 12), nn.ReLU("r")], 12, seed)


class DriftingBias(nn.BatchNorm):
    """As in the eleventh exercise: the mean's own gradient is missing."""

    def backward(self, dy, need_dx=True):
        x, mean, rstd, _ = self.saved()
        axes, m = (0, 1, 2), x.size // x.shape[-1]
        centred, dx_hat = x - mean, dy * self.gamma.data
        dvar = (dx_hat * centred).sum(axis=axes) * -0.5 * rstd**3
        dmean = dvar * -2 * centred.sum(axis=axes) / m
        dx = dx_hat * rstd + dvar * 2 * centred / m + dmean / m
        return self.write_grads(dx, (dy * centred * rstd).sum(axis=axes), dy.sum(axis=axes))


@symptoms(
    "the bias that drifts",
    told="The bias before my batch normalisation walks off, though no output depends on it.",
    source="lessons/exercises/exercise_11_drifting_bias.py",
    causes="wrong backward",
)
def _(folder, seed=0):
    layers = [own.conv3("m", 12, 12, seed, bias=True), DriftingBias("bn", 12), nn.ReLU("r")]
    return around(layers, 12, seed)


class Averaged(own.Identity):
    """As in the eighth exercise: the two gradients at x are averaged."""

    def backward(self, dy, need_dx=True):
        dbranch, dx = self.add.backward(self.after.backward(dy))
        return (self.branch.backward(dbranch) + dx) / 2


@symptoms(
    "a gradient that fades",
    told="Ten residual blocks, and a thousandth of the gradient arrives at the first. Residual networks vanish too?",
    source="lessons/exercises/exercise_08_fading_gradient.py",
    causes=("wrong backward", "vanishing gradient"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = own.residual(Averaged, train.shape, 6, seed, width=8, blocks=8)
    return {"what": classifier(model, train), "data": train, "test": test}


class HalfPool(nn.AvgPool2d):
    """Hands each of the four pixels all of the gradient."""

    def backward(self, dy, need_dx=True):
        return 4 * super().backward(dy, need_dx)


@symptoms(
    "average pooling without the quarter",
    told="np.repeat of the gradient over each window. Gradients grow fourfold with each pool, so I lowered the rate.",
    source=CS231N,
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([HalfPool("mean", 2)], 12, seed)


class LostGate(nn.Composite):
    """y = x * gate(x), on whose way back the gate's share is lost."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name)
        self.gate = nn.Sequential(
            nn.GlobalAvgPool2d(f"{name}.squeeze"),
            nn.Dense(f"{name}.fc", channels, channels, seed=seed),
            nn.Sigmoid(f"{name}.sigmoid"),
            name=f"{name}.gate",
        )
        self.scale = nn.Multiply(f"{name}.scale")

    def flow(self, x, visit):
        return visit(self.scale, x, visit(self.gate, x))

    def backward(self, dy, need_dx=True):
        dx, dgate = self.scale.backward(dy)
        self.gate.backward(dgate)
        return dx


@symptoms(
    "squeeze without excitation's gradient",
    told="x feeds two paths, and I return the gradient of one. dw is right everywhere behind, wrong before the gate.",
    source="https://github.com/nerfstudio-project/gsplat/issues/465",
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([LostGate("se", 12, seed)], 12, seed)


class DiagonalSoftmax(own.Softmax):
    def df(self, dy, x, y):
        return dy * y * (1 - y)


@symptoms(
    "the diagonal of softmax",
    told="An attention over the channels, softmax with backward p (1 - p) dy, as for the sigmoid. It is off by half.",
    source="https://github.com/apache/singa/issues/578",
    causes="wrong backward",
)
def _(folder, seed=0):
    return around([DiagonalSoftmax("softmax")], 12, seed)


# what writes where it should not, and what is no function


class WritingReLU(own.Own):
    """dx is dy, written over."""

    def f(self, x):
        return np.maximum(x, 0)

    def df(self, dy, x, y):
        dy[x < 0] = 0
        return dy


class RightAlone(own.Identity):
    """As in the ninth exercise: its branch ends with a ReLU that writes into the gradient of both paths."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name, channels, seed)
        self.branch.layers.append(WritingReLU(f"{name}.writing"))
        self.after = nn.LeakyReLU(f"{name}.leaky", 0.5)


@symptoms(
    "right alone and wrong together",
    told="Each layer passes its gradient check. Put into a residual block the gradient of x is wrong.",
    source="lessons/exercises/exercise_09_right_alone.py",
    causes="in-place write",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = own.residual(RightAlone, train.shape, 6, seed)
    return {"what": classifier(model, train), "data": train, "test": test}


class CentredInPlace(own.Own):
    """Subtracts each image's mean from x itself, which others have kept."""

    def f(self, x):
        x -= x.mean(axis=(1, 2, 3), keepdims=True)
        return x

    def df(self, dy, x, y):
        return dy - dy.mean(axis=(1, 2, 3), keepdims=True)


@symptoms(
    "x -= x.mean() in forward",
    told="To save memory a layer writes into its input. Alone it is right; behind a sigmoid, which keeps its output, "
    "gradients are wrong.",
    source="https://github.com/linkedin/Liger-Kernel/issues/254",
    causes="in-place write",
)
def _(folder, seed=0):
    return around([nn.Sigmoid("sigmoid"), CentredInPlace("centre")], 12, seed)


class Noise(own.Own):
    """Adds noise that nobody seeds, in evaluation too."""

    def f(self, x):
        return x + np.random.default_rng().normal(0, 0.5, x.shape).astype(x.dtype)

    def df(self, dy, x, y):
        return dy


@symptoms(
    "noise in every mode",
    told="The same image gets another probability each time I ask. There is a noise layer in the network.",
    source="https://github.com/facebookresearch/VideoPose3D/issues/113",
    causes=("not a function", "training mode"),
)
def _(folder, seed=0):
    return around([Noise("noise")], 12, seed)


class Momentum(own.Own):
    """Mixes in what it gave the time before: a state that nobody resets."""

    last = 0.0

    def f(self, x):
        self.last = 0.7 * x + 0.3 * np.mean(self.last)
        return self.last

    def df(self, dy, x, y):
        return 0.7 * dy


@symptoms(
    "a layer that remembers",
    told="Predictions depend on which image was asked about before. Numerical and analytic gradient never agree.",
    source="https://github.com/latkins/trifast/pull/2",
    causes="not a function",
)
def _(folder, seed=0):
    return around([Momentum("memory")], 12, seed)


# their size


@symptoms(
    "twelve layers of sigmoids",
    told="With sigmoids the first layers' gradients are 1e-9 and nothing is learned; three layers are fine.",
    source="https://laganvalleydup.co.uk/post/neural-network-to-approximate-the-square-function-gives-0",
    causes="vanishing gradient",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    layers = []
    for i in range(12):
        layers += [own.conv3(f"c{i}", 3 if i == 0 else 8, 8, seed, bias=True, init="glorot"), nn.Sigmoid(f"s{i}")]
    model = nn.Network(*layers, *own.head(8, 6, seed), input_shape=train.shape, name="sigmoids")
    return trained(folder, model, train, test, recipe(epochs=2))


@symptoms(
    "Glorot for a deep plain ReLU network",
    told="44 plain layers without normalisation, Glorot's weights. The loss is ln 6 to four digits for many epochs.",
    source="lessons/lesson_03_vanish_or_explode.py",
    causes=("vanishing gradient", "weights too small"),
)
def _(folder, seed=0):
    train, test = pair(count=64, test=32, seed=seed)
    model = own.rescaled(small(train, seed, arch="resnet44", norm=False, skip=False), 0.7)
    how = recipe(epochs=2)
    made, history = fitted(model, train, test, how)
    return {"what": made, "data": train, "test": test, "recipe": how, "history": history}


@symptoms(
    "residual sums without normalisation",
    told="56 layers with skips and without normalisation: the loss begins at 12,000.",
    source="https://arxiv.org/abs/1901.09321",
    causes=("exploding gradient", "weights too large"),
)
def _(folder, seed=0):
    train, test = pair(count=64, test=32, seed=seed)
    model = small(train, seed, arch="resnet56", norm=False)
    return {"what": classifier(model, train), "data": train, "test": test}


@symptoms(
    "clipped in each step",
    told="I clip at 0.001, as in a paper on transformers. The loss creeps from 2.16 to 1.94 in six epochs.",
    source="https://github.com/wandb/senpai/pull/978",
    causes="always clipped",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=6, optimizer="sgd", lr=0.05, clip_norm=0.001)
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms(
    "one image a step",
    told="Memory allows a single image a step. The loss jumps from step to step and the test stays at 17 %; a friend "
    "with 16 images a step has 57 %, at the same rate.",
    source="https://github.com/apache/mxnet/issues/2308",
    causes=("noisy gradient", "rate too large"),
)
def _(folder, seed=0):
    train, test = pair(count=120, seed=seed)
    model = minires.build(group_normed, train.shape, 6, seed=seed)
    how = recipe(epochs=4, batch_size=1, optimizer="sgd", lr=0.02, schedule="constant", warmup_epochs=0)
    return whole_run(folder, model, train, test, how)


def group_normed(input_shape, classes, seed=0):
    """Four convolutions with group normalisation."""
    layers, C = [], input_shape[2]
    for i, O in enumerate((16, 16, 32, 32)):
        layers += [own.conv3(f"c{i}", C, O, seed, stride=1 + i % 2), nn.GroupNorm(f"gn{i}", O, 4), nn.ReLU(f"r{i}")]
        C = O
    return nn.Network(*layers, *own.head(C, classes, seed), input_shape=input_shape, name="group-normed")


@symptoms(
    "random labels and two images a step",
    told="Labels from crowd workers, batches of two. Training loss rises from 1.31 to 1.42, the test falls from 50 to "
    "25 %.",
    source="http://theorangeduck.com/page/neural-network-not-working",
    causes=("noisy gradient", "rate too large", "shuffled labels"),
)
def _(folder, seed=0):
    train, test = pair(fruit, count=120, seed=seed)
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(120)[:24]
    train = type(train)(
        train.images(np.arange(120)),
        np.where(np.isin(np.arange(120), wrong), (train.labels + 1) % 4, train.labels),
        train.classes,
    )
    model = minires.build(group_normed, train.shape, 4, seed=seed)
    how = recipe(epochs=4, batch_size=2, optimizer="sgd", lr=0.05, schedule="constant")
    return whole_run(folder, model, train, test, how)
