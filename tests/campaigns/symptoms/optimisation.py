"""Faults of how a network is trained, of its numbers, and of its speed."""

import time

import numpy as np

import minires
from minires import nn
from minires.data import ArrayDataset, Augment
from minires.errors import DivergedError
from symptoms import layers as own
from symptoms.common import (
    Collection,
    classifier,
    fitted,
    fruit,
    pair,
    pixels,
    recipe,
    run,
    signs,
    small,
    whole_run,
)
from symptoms.gradient import group_normed

symptoms = Collection("optimisation")

PLAYBOOK = "https://github.com/google-research/tuning_playbook"
KARPATHY = "http://karpathy.github.io/2019/04/25/recipe/"


def constant(**changes):
    """Without warm-up and schedule."""
    return recipe(warmup_epochs=0, schedule="constant", **changes)


# the rate


@symptoms(
    "nan after a few steps",
    told="The loss is 1e32 in the fourth batch, then nan. I use a rate from a ResNet paper for a network without "
    "normalisation.",
    source="https://github.com/facebookresearch/maskrcnn-benchmark/issues/295",
    causes=("rate too large", "exploding gradient"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = constant(epochs=3, optimizer="sgd", lr=0.3)
    model = minires.build(wide_vgg, train.shape, 6, seed=seed)
    try:
        run(folder, model, train, test, how)
    except DivergedError:
        return {"what": folder / "run", "data": train, "test": test, "recipe": how}
    raise AssertionError("this training should have diverged")


def wide_vgg(input_shape, classes, seed=0):
    return own.vgg(input_shape, classes, seed, act=nn.LeakyReLU, width=32)


@symptoms(
    "AdamW at 2",
    told="Training loss is 43 in the first epoch and comes back to 2.2 at most. No nan, just no learning.",
    source="https://github.com/guillaumegenthial/sequence_tagging/issues/47",
    causes="rate too large",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed), train, test, constant(epochs=4, lr=2.0))


@symptoms(
    "SGD at 3 with batch normalisation",
    told="The loss hops around 2 for all epochs, the test loss between 1.8 and 31, test accuracy is at 17 to 21 %.",
    source="https://github.com/jiecaoyu/pytorch-nin-cifar10/issues/1",
    causes="rate too large",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed), train, test, constant(epochs=5, optimizer="sgd", lr=3.0))


@symptoms(
    "AdamW at 1e-6",
    told="After all epochs the loss is 2.16, as it was in the first. Someone told me small rates are safe.",
    source=PLAYBOOK,
    causes="rate too small",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6, lr=1e-6))


@symptoms(
    "Adam's rate for SGD",
    told="I switched from Adam to SGD and kept 1e-4. The curve is a flat line, 1.47 to 1.46.",
    source="http://theorangeduck.com/page/neural-network-not-working",
    causes="rate too small",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    how = recipe(epochs=6, optimizer="sgd", lr=1e-4, momentum=0.0, nesterov=False)
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms(
    "full rate from the first step",
    told="The first epochs go wild, 31 % after eight; a friend's run, with three epochs of warm-up, has 79 % at the "
    "same rate.",
    source="https://github.com/mlcommons/training/issues/94",
    causes=("no warm-up", "rate too large"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = constant(epochs=8, optimizer="adam", lr=0.02, betas=(0.9, 0.999))
    return whole_run(folder, minires.build(group_normed, train.shape, 6, seed=seed), train, test, how)


@symptoms(
    "stepped per batch and not per epoch",
    told="scheduler.step() stands in the inner loop. The loss falls for an epoch and is flat at 1.0 for all others.",
    source="https://github.com/leftthomas/SRGAN/issues/94",
    causes="schedule over",
)
def _(folder, seed=0):
    return own_loop(seed, minires.Schedule("step", 2e-3, total=12), epochs=12)


@symptoms(
    "longer with the old schedule",
    told="The cosine was set for 2 epochs, then I trained for 12. From the third on nothing changes, the rate is 0 "
    "and the loss 1.25.",
    source="https://github.com/aimagelab/meshed-memory-transformer/issues/71",
    causes="schedule over",
)
def _(folder, seed=0):
    return own_loop(seed, minires.Schedule("cosine", 1e-3, total=16), epochs=12)


def own_loop(seed, schedule, epochs, batch=32):
    """A loop of one's own, as notebooks have it, with its history."""
    train, test = pair(seed=seed)
    made = classifier(small(train, seed), train)
    optimizer = minires.AdamW(made.model.params())
    x, rng, history, step = made.preprocess(pixels(train)), np.random.default_rng(seed), [], 0
    for epoch in range(1, epochs + 1):
        sums = np.zeros(3)
        with minires.make_step(made.model.train(), optimizer) as train_step:
            for index in np.array_split(rng.permutation(len(train)), len(train) // batch):
                lr = schedule(step) if schedule.kind != "cosine" or step < schedule.total else 0.0
                sums += np.array([float(v) for v in train_step(x[index], train.labels[index], lr)])
                step += 1
        steps = len(train) // batch
        tested = minires.evaluate(made, test)
        history.append(
            {
                "epoch": epoch,
                "train_loss": sums[0] / steps,
                "train_accuracy": sums[1] / len(train),
                "lr": lr,
                "grad_norm": sums[2] / steps,
                "test_loss": tested.loss,
                "test_accuracy": tested.accuracy,
            }
        )
    how = recipe(epochs=epochs, lr=schedule.peak)
    return {"what": made, "data": train, "test": test, "recipe": how, "history": history}


# what holds it back


@symptoms(
    "weight decay 0.5",
    told="Training stops at ln 6 and all weights shrink. I mistook the decay's unit and gave 0.5 to SGD.",
    source="https://github.com/BVLC/caffe/issues/1396",
    causes="decay too strong",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=6, optimizer="sgd", lr=0.05, weight_decay=0.5)
    return whole_run(folder, minires.build(plain_vgg, train.shape, 6, seed=seed), train, test, how)


def plain_vgg(input_shape, classes, seed=0):
    return own.vgg(input_shape, classes, seed)


@symptoms(
    "AdamW's decay in Adam's place",
    told="weight_decay=30, from a table for another optimiser. The loss rises from 1.4 to 1.6 as training goes on, "
    "and weights shrink in each epoch.",
    source=PLAYBOOK,
    causes="decay too strong",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=6, weight_decay=30.0, decay_all=True)
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms(
    "label smoothing 0.95",
    told="The loss does not go below 1.79, and all probabilities are about a sixth, though 79 % of the answers are "
    "right. I had taken smoothing for confidence.",
    source="https://arxiv.org/abs/1906.02629",
    causes="smoothing too strong",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=6, label_smoothing=0.95))


@symptoms(
    "augmented beyond recognition",
    told="Rotation by 180 degrees, shift 0.8, zoom 0.9, brightness 1. Training at 16 to 21 %, without augmentation at "
    "100 %.",
    source=KARPATHY,
    causes="augmentation too strong",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=6, augment=Augment(shift=0.8, rotate=180, scale=0.9, flip=True, brightness=1.0))
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms(
    "shifted out of the picture",
    told="width_shift_range=1.0 in place of 0.1. Most of what the network sees is the border, repeated.",
    source="https://github.com/keras-team/keras/issues/2600",
    causes="augmentation too strong",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=6, augment=Augment(shift=1.0, rotate=0, scale=0, flip=False, brightness=0.9))
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms(
    "two epochs in huge batches",
    told="Batches of all 240 images, two epochs, as it is so fast. The loss is still what it was before training.",
    source="http://theorangeduck.com/page/neural-network-not-working",
    causes="too few steps",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=2, batch_size=240, lr=1e-3))


@symptoms(
    "one epoch",
    told="I stopped after an epoch of 8 steps as the test accuracy was 35 %. Is the network too small?",
    source=KARPATHY,
    causes="too few steps",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=1, batch_size=30, lr=1e-3))


@symptoms(
    "by heart",
    told="100 % on 180 hands, about 40 % on others, whatever I change in the network. No augmentation.",
    source="https://github.com/JayPatwardhan/ResNet-PyTorch/issues/2",
    causes="overfitting",
)
def _(folder, seed=0):
    train, test = signs(180, 120, seed=seed)
    return whole_run(folder, small(train, seed, arch="resnet14"), train, test, recipe(epochs=16, lr=2e-3))


@symptoms(
    "by heart with a large head",
    told="Flatten and 256 units behind two convolutions: training loss 0.003, validation loss 2.2, up from 1.86, and "
    "48 % on the test.",
    source="https://github.com/google-research/tuning_playbook",
    causes="overfitting",
)
def _(folder, seed=0):
    train, test = signs(240, 120, seed=seed)
    return whole_run(folder, minires.build(large_head, train.shape, 6, seed=seed), train, test, recipe(epochs=25))


def large_head(input_shape, classes, seed=0):
    """Two convolutions, and nearly all parameters behind them."""
    H, W, C = input_shape
    return nn.Network(
        *own.unit("a", C, 16, seed),
        *own.unit("b", 16, 16, seed, stride=2),
        nn.Flatten("flat"),
        nn.Dense("fc1", -(-H // 2) * -(-W // 2) * 16, 256, init="he", seed=seed),
        nn.ReLU("relu"),
        nn.Dense("fc2", 256, classes, seed=seed),
        input_shape=input_shape,
        name="large-head",
    )


@symptoms(
    "dropout 0.97",
    told="I read 0.97 as the share to keep. Training accuracy is at 25 %, the test's at 47 %.",
    source="https://github.com/keras-team/keras/issues/6977",
    causes="dropout too strong",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed, dropout=0.97), train, test, recipe(epochs=6))


# numbers


@symptoms(
    "NaN in a checkpoint",
    told="Predictions are nan. The checkpoint was saved after the loss had been nan already.",
    source="https://github.com/qubvel/segmentation_models/issues/161",
    causes="weights not finite",
    area="numbers",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made = classifier(small(train, seed), train)
    made.model.params()[9].data.ravel()[3] = np.nan
    return {"what": made, "data": train, "test": test}


@symptoms(
    "a moving variance of nan",
    told="Training mode is fine, evaluation gives nan: one running variance is nan since a bad batch.",
    source="https://github.com/eriklindernoren/PyTorch-YOLOv3/issues/89",
    causes="weights not finite",
    area="numbers",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    made, _ = fitted(small(train, seed), train, test, recipe(epochs=3))
    made.model.buffers()[5].data[2] = np.nan
    return {"what": made, "data": train, "test": test}


@symptoms(
    "half precision overflows",
    told="In float32 it runs; model.astype('float16') gives inf, first in the third convolution.",
    source="https://github.com/huggingface/transformers/issues/12225",
    causes="overflow",
    area="numbers",
)
def _(folder, seed=0):
    train, test = pair(count=64, test=32, seed=seed, size=8)
    model = own.rescaled(own.vgg(train.shape, 6, seed, width=4), 30.0).astype(np.float16)
    return {"what": classifier(model, train), "data": train, "test": test}


class Exponential(own.Own):
    def f(self, x):
        return np.exp(20 * x)

    def df(self, dy, x, y):
        return 20 * dy * y


@symptoms(
    "exp in a layer",
    told="An exponential activation: RuntimeWarning, overflow encountered in exp, and the loss is nan.",
    source="https://github.com/keras-team/keras/issues/11832",
    causes=("overflow", "forward not finite"),
    area="numbers",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = nn.Network(
        *own.unit("a", 3, 12, seed), own.conv3("b", 12, 12, seed), Exponential("exp"), *own.head(12, 6, seed),
        input_shape=train.shape, name="own",
    )  # fmt: skip
    return {"what": classifier(model, train), "data": train, "test": test}


class Logarithm(own.Own):
    def f(self, x):
        with np.errstate(all="ignore"):
            return np.log(x)

    def df(self, dy, x, y):
        return dy / x


@symptoms(
    "log of zero",
    told="A layer takes np.log of what a ReLU gives. The loss is nan in the first step, with good weights and data.",
    source="https://github.com/thtrieu/darkflow/issues/1059",
    causes="forward not finite",
    area="numbers",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = nn.Network(
        *own.unit("a", 3, 12, seed), Logarithm("log"), *own.unit("b", 12, 12, seed), *own.head(12, 6, seed),
        input_shape=train.shape, name="own",
    )  # fmt: skip
    return {"what": classifier(model, train), "data": train, "test": test}


class RootOfDeviation(own.Own):
    def f(self, x):
        mean = x.mean(axis=-1, keepdims=True)
        with np.errstate(all="ignore"):
            return x / np.sqrt((x * x - mean).mean(axis=-1, keepdims=True))

    def df(self, dy, x, y):
        return dy / np.where(x, x / np.where(y, y, 1), 1)


@symptoms(
    "root of a negative variance",
    told="My normalisation uses E[x²] - E[x] with a square forgotten. Some images give nan, others not.",
    source="https://github.com/jingyuanli001/RFR-Inpainting/issues/8",
    causes=("forward not finite", "wrong backward"),
    area="numbers",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = nn.Network(
        *own.unit("a", 3, 12, seed), RootOfDeviation("own_norm"), *own.unit("b", 12, 12, seed), *own.head(12, 6, seed),
        input_shape=train.shape, name="own",
    )  # fmt: skip
    return {"what": classifier(model, train), "data": train, "test": test}


@symptoms(
    "Adam's epsilon in half precision",
    told="float16 throughout, with AdamW: nan in the second step at any rate. In float32 it trains.",
    source="https://github.com/keras-team/keras/issues/11832",
    causes="low precision",
    area="numbers",
)
def _(folder, seed=0):
    train, test = pair(fruit, count=64, test=32, seed=seed, size=8)
    model = own.vgg(train.shape, 4, seed, width=4).astype(np.float16)
    return {"what": classifier(model, train), "data": train, "test": test, "recipe": recipe(lr=1e-3)}


# speed


class SlowDisk(ArrayDataset):
    """Each image takes 12 ms to read, as over a network."""

    def images(self, index):
        time.sleep(0.012 * len(index))
        return super().images(index)


@symptoms(
    "photos on a network drive",
    told="The processor idles, an epoch of 120 small images takes seconds. A copy on the local disk is fast.",
    source="https://github.com/google-research/tuning_playbook",
    causes="waits for data",
    area="speed",
)
def _(folder, seed=0):
    train, test = pair(count=96, test=30, seed=seed)
    slow = SlowDisk(pixels(train), train.labels, train.classes, source="network drive")
    return whole_run(folder, small(train, seed), slow, test, recipe(epochs=2))
