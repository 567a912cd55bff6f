"""Faults of a network's structure and of the weights that it begins with."""

import numpy as np

import minires
from minires import nn
from symptoms import layers as own
from symptoms.common import (
    Collection,
    classifier,
    pair,
    recipe,
    shapes,
    small,
    trained,
    whole_run,
)

symptoms = Collection("network")

ORANGE = "http://theorangeduck.com/page/neural-network-not-working"
SYMMETRY = "https://community.deeplearning.ai/t/week-1-programming-assignment-initialization-exercise-1-initialize-parameters-zeros/121049"


def fresh(model, seed=0, make=shapes):
    """An untrained network with its data."""
    train, test = pair(make, seed=seed)
    return {"what": classifier(model, train), "data": train, "test": test}


# units


@symptoms(
    "biases far below zero",
    told="I set all biases to -4 to make the network sparse. All answers are alike, and the loss stays at ln 6.",
    source="https://stats.stackexchange.com/questions/450100/understanding-relu-does-this-unlucky-intialized-network-assign-all-instances",
    causes="dead ReLUs",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return trained(folder, own.vgg(train.shape, 6, seed, bias=-4.0), train, test, recipe(epochs=2))


@symptoms(
    "beta below zero in one stage",
    told="After I edited a checkpoint by hand one stage gives nothing but zeros; what comes behind it does not learn.",
    source="https://arxiv.org/abs/1903.06733",
    causes="dead ReLUs",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    model = small(train, seed, skip=False)
    for m in model.layers[2].modules():
        if isinstance(m, nn.BatchNorm):
            m.beta.data[:] = -8
    return fresh(model, seed)


@symptoms(
    "died of one large step",
    told="Loss 5,600 in the first epoch, then 2 for good: all images get the same scores, the gradient of nearly "
    "every kernel is exactly 0.",
    source="https://github.com/jiecaoyu/pytorch-nin-cifar10/issues/1",
    causes=("dead ReLUs", "rate too large"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=3, optimizer="sgd", lr=4.0, weight_decay=0.0, warmup_epochs=0, schedule="constant")
    return whole_run(folder, minires.build(own_vgg, train.shape, 6, seed=seed), train, test, how)


def own_vgg(input_shape, classes, seed=0):
    return own.vgg(input_shape, classes, seed)


@symptoms(
    "sigmoids at both ends",
    told="A network with sigmoids and weights from 3 * randn: nine of ten units give 0 or 1, and six epochs of "
    "training leave the test at 17 %.",
    source=ORANGE,
    causes=("saturated units", "weights too large"),
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    model = own.vgg(train.shape, 6, seed, act=nn.Sigmoid)
    rng = np.random.default_rng(seed)
    for p in own.kernels(model)[:-1]:
        p.data = rng.normal(0, 3, p.data.shape).astype(np.float32)
    return fresh(model, seed)


@symptoms(
    "tanh of unscaled pixels",
    told="My tanh network gets pixels in 0..255 as they are. 97 % of the first layer's outputs are -1 or 1, and after "
    "six epochs it is at 62 %.",
    source="http://pullrequest.ru/10248037/cnn-keras-shodyatsya-odnomu-tomu-zhe-znacheniy-nezavisimo-vvoda",
    causes=("saturated units", "other preprocessing"),
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    raw = minires.Preprocess((0.0,) * 3, (1 / 255,) * 3)
    return {"what": minires.Classifier(own.vgg(train.shape, 6, seed, act=own.Tanh), train.classes, raw), "data": train}


# skips


class PlainInDisguise(own.Identity):
    """The shortcut begins behind the branch."""

    def forward(self, x):
        x = self.branch.forward(x)
        return self.after.forward(self.add.forward(x, x))

    def backward(self, dy, need_dx=True):
        dbranch, dx = self.add.backward(self.after.backward(dy))
        return self.branch.backward(dbranch + dx)


@symptoms(
    "x += x",
    told="My residual network is as hard to train as a plain one. Gradients agree with finite differences.",
    source="https://github.com/werner-duvaud/muzero-general/issues/89",
    causes="dead skip",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(PlainInDisguise, train.shape, 6, seed, blocks=3), seed)


class Disguise7(own.Identity):
    """As in the seventh exercise: projection and all, from the wrong x."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name, channels, seed)
        self.shortcut = own.projection(name, channels, channels, seed)

    def forward(self, x):
        for layer in self.branch.layers:
            x = layer.forward(x)
        return self.after.forward(self.add.forward(x, self.shortcut.forward(x)))

    def backward(self, dy, need_dx=True):
        dx, dshortcut = self.add.backward(self.after.backward(dy))
        dx = dx + self.shortcut.backward(dshortcut)
        for layer in reversed(self.branch.layers):
            dx = layer.backward(dx)
        return dx


@symptoms(
    "plain in disguise",
    told="The block runs with 16 channels in and out, and not with 8 and 16. Forty of them do not train.",
    source="lessons/exercises/exercise_07_plain_in_disguise.py",
    causes="dead skip",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(Disguise7, train.shape, 6, seed), seed)


class TenthOfX(own.Identity):
    """A factor at the wrong path: meant for the branch, it scales the skip."""

    def forward(self, x):
        return self.after.forward(self.add.forward(self.branch.forward(x), 0.1 * x))

    def backward(self, dy, need_dx=True):
        dbranch, dx = self.add.backward(self.after.backward(dy))
        return self.branch.backward(dbranch) + 0.1 * dx


class HalfWalked(Disguise7):
    """The same, run back as a whole where forward walks through its layers."""

    def backward(self, dy, need_dx=True):
        dx, dshortcut = self.add.backward(self.after.backward(dy))
        return self.branch.backward(dx + self.shortcut.backward(dshortcut))


@symptoms(
    "walked there and run back",
    told="forward loops over the branch's layers, since I print their shapes, and then takes the shortcut. Deep ones "
    "do not train.",
    source="https://github.com/shaohua0116/Multiview2Novelview/issues/11",
    causes="dead skip",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(HalfWalked, train.shape, 6, seed), seed)


@symptoms(
    "residual scaling at the skip",
    told="I wanted to scale the residual by 0.1 for stability. With 30 blocks the first layers no longer learn.",
    source="https://arxiv.org/abs/1603.05027",
    causes="scaled skip",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(TenthOfX, train.shape, 6, seed, blocks=4), seed)


class Mirrored(own.Identity):
    """The skip takes another map than the block's: mirrored, since an axis was swapped twice too often."""

    def forward(self, x):
        return self.after.forward(self.add.forward(self.branch.forward(x), x[:, :, ::-1]))

    def backward(self, dy, need_dx=True):
        dbranch, dx = self.add.backward(self.after.backward(dy))
        return self.branch.backward(dbranch) + dx[:, :, ::-1]


@symptoms(
    "a mirrored skip",
    told="Between two layouts I flip the map once too often, in the skip alone. It learns, but badly, and maps of "
    "saliency show two mirrored objects.",
    source="https://github.com/XinArkh/VNect/issues/13",
    causes="misrouted skip",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(Mirrored, train.shape, 6, seed), seed)


class Cropped(own.Down):
    """As in the tenth exercise: the projection keeps the map, and a corner of it is added."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name, channels, seed)
        self.shortcut = own.projection(name, channels, 2 * channels, seed)

    def forward(self, x):
        y, shortcut = self.branch.forward(x), self.shortcut.forward(x)
        self.seen = shortcut.shape
        return self.after.forward(self.add.forward(y, shortcut[:, : y.shape[1], : y.shape[2]]))

    def backward(self, dy, need_dx=True):
        dbranch, dshortcut = self.add.backward(self.after.backward(dy))
        full = np.zeros(self.seen, dy.dtype)
        full[:, : dy.shape[1], : dy.shape[2]] = dshortcut
        return self.branch.backward(dbranch) + self.shortcut.backward(full)

    def output_shape(self, shape):
        return self.branch.output_shape(shape)


@symptoms(
    "made to fit",
    told="The shapes at the add did not agree, so I cropped the shortcut. With objects in the lower right corner it "
    "is as good as a plain network.",
    source="lessons/exercises/exercise_10_made_to_fit.py",
    causes=("stride on one path", "misrouted skip"),
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(own.Identity, train.shape, 6, seed, blocks=1, down=Cropped), seed)


# weights to begin with


@symptoms(
    "one seed for all layers",
    told="Each layer seeds the generator with 0 before it draws. Kernels of equal size are identical.",
    source="lessons/exercises/exercise_12_too_alike.py",
    causes="same weights",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    model = small(train, seed, arch="resnet14")
    for p in own.kernels(model):
        drawn = np.random.default_rng(seed).standard_normal(p.data.shape)
        p.data = (drawn * np.sqrt(2 / np.prod(p.data.shape[:-1]))).astype(np.float32)
    return fresh(model, seed)


@symptoms(
    "all weights 0.05",
    told="I initialised every weight with 0.05. The loss goes up to 6.6 and comes to rest at ln 6, all feature maps "
    "look alike.",
    source=SYMMETRY,
    causes="same weights",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    model = own.vgg(train.shape, 6, seed)
    for p in own.kernels(model):
        p.data[:] = 0.05
    return fresh(model, seed)


@symptoms(
    "zeros to begin with",
    told="np.zeros for each kernel, as for the biases. Loss 1.7918 in every epoch, the gradients of all kernels are 0.",
    source=SYMMETRY,
    causes="zero weights",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = own.vgg(train.shape, 6, seed)
    for p in own.kernels(model):
        p.data[:] = 0
    return trained(folder, model, train, test, recipe(epochs=2))


@symptoms(
    "weights from randn",
    told="First loss 4e4 instead of 1.8, then nan. The weights come from np.random.randn without any factor.",
    source=ORANGE,
    causes=("weights too large", "exploding gradient"),
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    rng = np.random.default_rng(seed)
    model = own.vgg(train.shape, 6, seed)
    for p in own.kernels(model):
        p.data = rng.standard_normal(p.data.shape).astype(np.float32)
    return fresh(model, seed)


@symptoms(
    "weights times 0.001",
    told="Andrew said small random weights, so 0.001 * randn. Eight layers without normalisation stay at ln 6, with "
    "gradients like 1e-15.",
    source="https://stackovercoder.pl/datascience/22093/why-should-the-initialization-of-weights-and-bias-be-chosen-around-0",
    causes=("weights too small", "vanishing gradient"),
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    rng = np.random.default_rng(seed)
    model = small(train, seed, norm=False, skip=False)
    for p in own.kernels(model):
        p.data = (0.001 * rng.standard_normal(p.data.shape)).astype(np.float32)
    return fresh(model, seed)


@symptoms(
    "frozen before it had learned anything",
    told="I copied a fine-tuning script, with the backbone frozen, and start from random weights. 21 % after five "
    "epochs, others have 98 %.",
    source="https://github.com/ihciah/deep-fashion-retrieval/issues/1",
    causes="frozen parameters",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=5, freeze=("stem", "stage2", "stage3", "stage4"))
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms(
    "never thawed",
    told="The weights of three parts are bit for bit those of the start, after all epochs: 88 % where others have 97 "
    "%. I had called freeze() in a notebook cell.",
    source="https://github.com/GantMan/nsfw_model/issues/33",
    causes="frozen parameters",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = small(train, seed)
    for part in model.layers[:3]:
        part.freeze()
    return trained(folder, model, train, test, recipe(epochs=4))


# what is not connected


class Forgotten(nn.Composite):
    """A second convolution that `flow` does not visit."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name)
        self.first = nn.Sequential(*own.unit(f"{name}.1", channels, channels, seed), name=f"{name}.first")
        self.second = nn.Sequential(*own.unit(f"{name}.2", channels, channels, seed), name=f"{name}.second")

    def flow(self, x, visit):
        return visit(self.first, x)

    def backward(self, dy, need_dx=True):
        return self.first.backward(dy)


@symptoms(
    "a layer that is not called",
    told="model.summary() shows two convolutions a block. Whatever I do to the second, the output is the same, and "
    "fit ends with: block0.2.bn saw no batch.",
    source="https://github.com/alexjc/neural-enhance/issues/103",
    causes="unused layer",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(Forgotten, train.shape, 6, seed), seed)


class InADictionary(nn.Module):
    """Its layers lie in a dictionary, where no one looks for parameters."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name)
        self.parts = {i: nn.Sequential(*own.unit(f"{name}.{i}", channels, channels, seed)) for i in range(2)}

    def output_shape(self, shape):
        return shape

    def forward(self, x):
        for part in self.parts.values():
            x = part.forward(x)
        return x

    def backward(self, dy, need_dx=True):
        for part in reversed(self.parts.values()):
            dy = part.backward(dy)
        return dy


@symptoms(
    "layers in a dictionary",
    told="The optimiser says 600 parameters, there should be 10,000. The layers in my dictionary never change, the "
    "test stays at 17 %.",
    source="https://theflyingbirds.in/blog/pytorch-mysteries-lets-understand-nnmodule-nnparameter-modulelist-sequential-and-the-classic-layers-linear-activations-dropout",
    causes="unreachable parameters",
)
def _(folder, seed=0):
    train, _ = pair(seed=seed)
    return fresh(own.residual(InADictionary, train.shape, 6, seed), seed)


@symptoms(
    "images of another size",
    told="ShapeError in the first dense layer: the network was written for 32 x 32 and the photos are 16 x 16.",
    source="https://github.com/Helias/Car-Model-Recognition/issues/2",
    causes="shapes",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    stack = nn.Sequential(
        *own.unit("a", 3, 8, seed, stride=2),
        nn.Flatten("flat"),
        nn.Dense("fc", 16 * 16 * 8, 6, seed=seed),
        name="own",
    )
    return {"what": stack, "data": train, "test": test}


class WrongWidth(own.Identity):
    """Its branch ends with other channels than it begins with, and says otherwise."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name, channels, seed)
        self.branch = own.branch(name, channels, 2 * channels, seed)

    def output_shape(self, shape):
        return shape


@symptoms(
    "32 channels onto 16",
    told="operands could not be broadcast together, at the sum of my second block. output_shape said it would fit.",
    source="lessons/exercises/exercise_06_convolutional_block.py",
    causes="shapes",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return {"what": own.residual(WrongWidth, train.shape, 6, seed), "data": train, "test": test}


# the end of the network


@symptoms(
    "softmax before the loss",
    told="The loss goes from 1.79 to 1.72 in five epochs, and gradients are small. In theory it cannot fall below "
    "1.04.",
    source="https://github.com/ariecattan/SciCo/issues/2",
    causes="softmax twice",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = own.residual(own.Identity, train.shape, 6, seed, blocks=1)
    model = nn.Network(*model.layers, own.Softmax("softmax"), input_shape=train.shape, name="own")
    return trained(folder, model, train, test, recipe(epochs=5))


@symptoms(
    "ReLU behind the scores",
    told="I put an activation behind every layer, the last one too. Some classes are never predicted, 37 % is the "
    "most.",
    source="https://ai.stackexchange.com/questions/20686/does-net-with-relu-not-learn-when-output-0",
    causes="relu on the logits",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = own.vgg(train.shape, 6, seed, last=[nn.ReLU("relu_out")])
    return trained(folder, model, train, test, recipe(epochs=4))


@symptoms(
    "all layers linear",
    told="Four convolutions do not do better than a single one, 33 %. I had removed the activations to find a bug.",
    source="https://thecodeforge.io/ml-ai/activation-functions-neural-networks/",
    causes="no nonlinearity",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = nn.Network(
        *(own.conv3(f"c{i}", 3 if i == 0 else 12, 12, seed, stride=1 + i % 2, bias=True) for i in range(4)),
        *own.head(12, 6, seed),
        input_shape=train.shape,
        name="linear",
    )
    return trained(folder, model, train, test, recipe(epochs=4))


@symptoms(
    "ten outputs for six classes",
    told="I took the network from a CIFAR-10 tutorial, with my six classes. minires refuses to evaluate it.",
    source="https://github.com/layumi/Person_reID_baseline_pytorch/issues/103",
    causes="other number of classes",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return {"what": minires.resnet("resnet8", train.shape, 10, seed=seed), "data": train, "test": test}


@symptoms(
    "five outputs for six classes",
    told="IndexError, label 5 is out of bounds. I had counted the folders and forgot the one for 'triangle'.",
    source="https://github.com/meetps/pytorch-semseg/issues/210",
    causes="other number of classes",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return {"what": own.vgg(train.shape, 5, seed), "data": train, "test": test}
