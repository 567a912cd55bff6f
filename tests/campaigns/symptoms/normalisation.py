"""Batch normalisation in training and in use, and what is fed to a network in use."""

import numpy as np

import minires
from minires import nn
from symptoms import layers as own
from symptoms.common import (
    Collection,
    fitted,
    fruit,
    pair,
    pixels,
    recipe,
    small,
    trained,
    whole_run,
)

symptoms = Collection("normalisation")

BN_ISSUE = "https://github.com/keras-team/keras/issues/6014"
FT_ISSUE = "https://github.com/keras-team/keras/issues/9214"


@symptoms(
    "momentum 0.99 and 40 steps",
    told="99.6 % in training, 54 % in validation, and 63 % when I evaluate the very training images. The network has "
    "Keras's batch normalisation.",
    source=BN_ISSUE,
    causes="few updates",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=5, precise_bn=False)
    return whole_run(folder, small(train, seed, bn_momentum=0.99), train, test, how)


@symptoms(
    "momentum 0.999 for large data",
    told="I copied momentum=0.999 from an ImageNet configuration to my 240 photos. evaluate() on the training images "
    "gives 50 %, the log says 99.6 %.",
    source="https://github.com/keras-team/keras/issues/6977",
    causes="few updates",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    how = recipe(epochs=4, precise_bn=False)
    return whole_run(folder, small(train, seed, bn_momentum=0.999), train, test, how)


@symptoms(
    "batches of one",
    told="Batch size 1 since the images used to be large. The loss is 1.79 in every epoch; with batches of 16 it "
    "learns.",
    source="https://github.com/charlesq34/pointnet/issues/37",
    causes="batch too small",
)
def _(folder, seed=0):
    train, test = pair(count=120, seed=seed)
    how = recipe(epochs=3, batch_size=1, precise_bn=False)
    return whole_run(folder, minires.build(normed_head, train.shape, 6, seed=seed), train, test, how)


def normed_head(input_shape, classes, seed=0):
    """Batch normalisation behind a dense layer too, where a batch gives one number an image."""
    return nn.Network(
        *own.unit("a", input_shape[2], 16, seed),
        *own.unit("b", 16, 32, seed, stride=2),
        nn.GlobalAvgPool2d("pool"),
        nn.Dense("fc1", 32, 32, seed=seed),
        *own.norm_relu("fc1", 32),
        nn.Dense("fc2", 32, classes, seed=seed),
        input_shape=input_shape,
        name="normed-head",
    )


@symptoms(
    "batches of two",
    told="Batches of two, normalised. 23 % in training and 28 % in validation; with batches of 16 it is 73 and 59 %.",
    source="https://github.com/xuebinqin/BASNet/issues/42",
    causes="batch too small",
)
def _(folder, seed=0):
    train, test = pair(count=120, seed=seed)
    how = recipe(epochs=4, batch_size=2, precise_bn=False)
    return whole_run(folder, minires.build(normed_head, train.shape, 6, seed=seed), train, test, how)


@symptoms(
    "statistics of another checkpoint",
    told="I put weights together from two runs, and the moving averages came from the other one. 17 % on the test, "
    "where each run has 98 %.",
    source="https://github.com/facebookresearch/schedule_free/issues/60",
    causes="stale statistics",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed), train, test)
    early, _ = fitted(small(train, seed + 100), train, test, recipe(epochs=2))
    for ours, theirs in zip(made.model.buffers(), early.model.buffers(), strict=True):
        ours.data[...] = theirs.data
    return {"what": made, "data": train, "test": test}


@symptoms(
    "statistics that stood still",
    told="I fine-tuned with update_running_stats off, since the base was 'frozen'. 98 % in training, 17 % in "
    "evaluation.",
    source=FT_ISSUE,
    causes="stale statistics",
)
def _(folder, seed=0):
    first, _ = pair(fruit, seed=seed)
    train, test = pair(seed=seed)
    made, _ = fitted(small(first, seed), first)
    made = minires.train.with_classes(made, train.classes)
    for m in made.model.modules():
        if isinstance(m, nn.BatchNorm):
            m.update_running_stats = False
    how = recipe(epochs=6, precise_bn=False)
    progress = minires.fit(made, train, test, how, check=False)
    return {"what": made, "data": train, "test": test, "recipe": how, "history": progress.history}


@symptoms(
    "only the parameters were saved",
    told="My own save() writes model.params(). Loaded again, 98 % has become 33 %, on the same test images.",
    source="https://github.com/eriklindernoren/PyTorch-YOLOv3/issues/89",
    causes="no statistics",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed), train, test)
    np.savez(folder / "mine.npz", **{p.name: p.data for p in made.model.params()})
    again = small(train, seed + 1)
    with np.load(folder / "mine.npz") as stored:
        for p in again.params():
            p.data[...] = stored[p.name]
    return {"what": minires.Classifier(again, made.classes, made.preprocess), "data": train, "test": test}


@symptoms(
    "frozen with fresh statistics",
    told="I loaded a backbone's parameters, froze it, and trained a new head: 35 %, where the backbone came from 98 %.",
    source="https://github.com/keras-team/keras/issues/11590",
    causes=("no statistics", "stale statistics"),
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed), train, test)
    new = small(train, seed + 1)
    for ours, theirs in zip(new.params()[:-2], made.model.params()[:-2], strict=True):
        ours.data[...] = theirs.data
    how = recipe(epochs=4, freeze=("stem", "stage2", "stage3", "stage4"))
    return trained(folder, new, train, test, how)


# in use


@symptoms(
    "divided by 255 and no more",
    told="My script feeds image / 255 to the exported network. minires predict is right in 98 %, my script in 19 %.",
    source="https://thecodeforge.io/ml-ai/tensorflow-keras-image-classification/",
    causes="other preprocessing",
    area="inference",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed), train, test)
    return {"what": made, "data": train, "test": test, "inputs": pixels(test)[:64].astype(np.float32) / 255}


@symptoms(
    "caffe's preprocessing",
    told="preprocess_input of Keras's ResNet50 before my own network. 100 % in training, 25 % in use.",
    source="lessons/exercises/exercise_13_right_in_training.py",
    causes="other preprocessing",
    area="inference",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    made, _ = fitted(small(train, seed), train, test, recipe(epochs=4))
    x = pixels(test)[:64, ..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    return {"what": made, "data": train, "test": test, "inputs": x}


@symptoms(
    "pixels as they are",
    told="In the app I forgot the scaling. The network is very sure of itself, and in 38 % right.",
    source="https://taourl.com/read-3045192.html",
    causes="other preprocessing",
    area="inference",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed), train, test)
    minires.save(made, folder / "app.h5")
    return {"what": folder / "app.h5", "data": train, "test": test, "inputs": pixels(test)[:64].astype(np.float32)}


@symptoms(
    "ImageNet's mean and deviation",
    told="I normalise with (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) as everyone does; the network was trained "
    "with its own. It gets 80 % right and not 100 %.",
    source="http://pullrequest.ru/8874612/trebuetsya-predvaritelnaya-obrabotka-moego-testovogo-izobrazheniya",
    causes="other preprocessing",
    area="inference",
)
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    made, _ = fitted(small(train, seed), train, test, recipe(epochs=4))
    x = (pixels(test)[:64] / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    return {"what": made, "data": train, "test": test, "inputs": x.astype(np.float32)}


class AlwaysDrops(nn.Dropout):
    """As F.dropout(x) without training=self.training."""

    def forward(self, x):
        keep = (self.rng.random(x.shape) >= self.rate).astype(x.dtype)
        self.save(keep)
        return x * keep / (1 - self.rate)


@symptoms(
    "dropout in use",
    told="Asked ten times about one photo it gives ten answers, and evaluate() refuses it. I call dropout as a "
    "function, without the mode.",
    source="https://github.com/pytorch/pytorch/issues/5406",
    causes=("training mode", "not a function"),
    area="inference",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    layers = [own.conv3("c0", 3, 16, seed), *own.norm_relu("c0", 16), *own.unit("c1", 16, 32, seed, stride=2)]
    model = nn.Network(
        *layers, nn.GlobalAvgPool2d("pool"), AlwaysDrops("drop", 0.5), nn.Dense("fc", 32, 6, seed=seed),
        input_shape=train.shape, name="own",
    )  # fmt: skip
    made, history = fitted(model, train, None, recipe(epochs=6, lr=6e-3))
    return {"what": made, "data": train, "test": test, "history": history}


class BatchOnly(nn.BatchNorm):
    """Normalises with the batch at hand in every mode."""

    def forward(self, x):
        mode, self.training = self.training, True
        try:
            return super().forward(x)
        finally:
            self.training = mode


@symptoms(
    "batch statistics in use",
    told="The answer for an image depends on which others are in the batch: 17 % right when asked one by one, 46 % in "
    "batches of eight.",
    source="https://github.com/openai/CLIP/issues/193",
    causes="training mode",
    area="inference",
)
def _(folder, seed=0):
    train, test = pair(seed=seed)
    layers = []
    for i, (C, O) in enumerate(((3, 16), (16, 32))):
        layers += [own.conv3(f"c{i}", C, O, seed, stride=1 + i), BatchOnly(f"bn{i}", O), nn.ReLU(f"r{i}")]
    model = nn.Network(*layers, *own.head(32, 6, seed), input_shape=train.shape, name="own")
    return trained(folder, model, train, test, recipe(epochs=6, lr=6e-3))
