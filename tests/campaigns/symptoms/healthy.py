"""What looks odd and is right: nothing is to be found here. Each for three seeds."""

import h5py
import numpy as np
from data_helpers import PHOTOS
from own_networks import senet, squeezenet, vgg

import minires
from minires import nn
from minires.data import Augment, load, write_signs
from symptoms import layers as own
from symptoms.common import (
    Collection,
    changed,
    classifier,
    fitted,
    fruit,
    in_folder,
    pair,
    picked,
    pixels,
    recipe,
    shapes,
    signs,
    small,
    trained,
    whole_run,
)
from symptoms.gradient import group_normed
from symptoms.network import own_vgg

symptoms = Collection("healthy", seeds=(0, 1, 2), source="nothing is wrong here")


def fresh(model, train, test=None):
    return {"what": classifier(model, train), "data": train, "test": test}


# before training


@symptoms("a fresh ResNet-20", told="As built, with hands of 32 x 32.")
def _(folder, seed=0):
    train, test = signs(180, 60, size=32, seed=seed)
    return fresh(small(train, seed, "resnet20"), train, test)


@symptoms("He's weights without normalisation", told="A VGG of my own without batch normalisation, as drawn.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return fresh(own.vgg(train.shape, 6, seed), train, test)


@symptoms("a wide network", told="Three times the usual width.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return fresh(small(train, seed, widths=(48, 96, 192)), train, test)


@symptoms("an untrained ResNet-56", told="Deep, with batch normalisation and skips.")
def _(folder, seed=0):
    train, test = pair(count=120, test=60, seed=seed)
    return fresh(small(train, seed, "resnet56"), train, test)


@symptoms("zero gamma", told="The last normalisation of each branch starts at 0, so that blocks start as identities.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return fresh(small(train, seed, "resnet14", last_gamma=0.0), train, test)


@symptoms("a head of zeros", told="The last layer starts at 0, as for fine-tuning.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = small(train, seed)
    model.layers[-1].w.data[:] = 0
    return fresh(model, train, test)


@symptoms("stochastic depth and leaky units", told="Drops whole branches in training, on purpose.")
def _(folder, seed=0):
    train, test = pair(seed=seed)

    def block(name, channels, seed=0):
        branch = own.branch(name, channels, channels, seed)
        branch.layers.append(nn.StochasticDepth(f"{name}.depth", 0.2, seed=seed))
        return nn.Block(name, branch, nn.Block.IDENTITY, after=nn.LeakyReLU(f"{name}.leaky", 0.1))

    return fresh(own.residual(block, train.shape, 6, seed, blocks=3), train, test)


@symptoms("layers of one's own", told="Swish, a block and a halving one, written by hand, with the right backward.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = own.residual(own.Identity, train.shape, 6, seed, blocks=2, down=own.Down)
    model = nn.Network(*model.layers[:3], own.Swish("swish"), *model.layers[3:], input_shape=train.shape, name="own")
    return fresh(model, train, test)


@symptoms("squeeze and excitation by hand", told="Blocks with a gate, and an own way back.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return fresh(minires.as_network(senet(train.shape, 6, seed), train.shape), train, test)


# trained


@symptoms("a run of ResNet-8", told="Six epochs, 98 % on the test.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed), train, test)


@symptoms("a plain network", told="Without skips, and shallow enough for that.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed, skip=False), train, test, recipe(epochs=7))


@symptoms("pre-activation", told="Normalisation and ReLU before each convolution.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, small(train, seed, preact=True), train, test, recipe(epochs=6))


@symptoms("group normalisation", told="No batch statistics at all.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, minires.build(group_normed, train.shape, 6, seed=seed), train, test, recipe(epochs=10))


@symptoms("a VGG with dropout", told="Dropout 0.2 in front of the classifier, no normalisation.")
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    return whole_run(folder, minires.build(vgg, train.shape, 4, seed=seed), train, test, recipe(epochs=10))


@symptoms("Fire modules", told="Paths that are concatenated.")
def _(folder, seed=0):
    train, test = pair(fruit, seed=seed)
    return whole_run(folder, minires.build(squeezenet, train.shape, 4, seed=seed), train, test, recipe(epochs=6))


@symptoms("SGD with weight decay and clipping", told="A usual recipe: momentum, decay, clipping at 5, smoothing 0.1.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=8, optimizer="sgd", lr=0.03, clip_norm=5.0, label_smoothing=0.1)
    return whole_run(folder, small(train, seed, dropout=0.2), train, test, how)


@symptoms("strong but sane augmentation", told="Turned by 20 degrees, mirrored, brighter and darker by 30 %.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=9, augment=Augment(shift=0.12, rotate=20, scale=0.15, flip=True, brightness=0.3))
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms("the middle of a training", told="Three epochs of twelve are done, the rest is still to come.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    how = recipe(epochs=3, schedule="constant", lr=1e-3)
    made, history = fitted(small(train, seed), train, test, how)
    planned = recipe(epochs=12, schedule="constant", lr=1e-3)
    return {"what": made, "data": train, "test": test, "recipe": planned, "history": history}


@symptoms("hands trained to the end", told="The built-in hands with the usual augmentation, many epochs.")
def _(folder, seed=0):
    train, test = signs(300, 60, seed=seed)
    how = minires.Recipe(epochs=15, augment=Augment(0.05, 8, 0.05, flip=True), lr=4e-3)
    return whole_run(folder, small(train, seed), train, test, how)


@symptoms(
    "a fine-tuned head",
    told="Everything but the head is frozen on purpose, in a network that was trained on more classes before.",
)
def _(folder, seed=0):
    first, _ = pair(count=360, seed=seed + 10)
    made, _ = fitted(small(first, seed), first)
    kinds = np.array([0, 0, 1, 1, 2, 2])  # of bar, cross, disc, ring, square, triangle
    train, test = (
        changed(part, labels=kinds[part.labels], classes=("thin", "round", "angular")) for part in pair(seed=seed)
    )
    made = minires.with_classes(made, train.classes, seed=seed)
    minires.fit(
        made, train, test, recipe(epochs=8, lr=2e-2, freeze=("stem", "stage2", "stage3", "stage4")),
        out=folder / "run", check=False,
    )  # fmt: skip
    return {"what": folder / "run", "data": train, "test": test}


@symptoms("fine-tuned at two rates", told="The stem rests for an epoch, the head learns ten times as fast.")
def _(folder, seed=0):
    first, _ = pair(fruit, seed=seed + 10)
    made, _ = fitted(small(first, seed), first, None, recipe(epochs=4))
    train, test = pair(seed=seed)
    made = minires.with_classes(made, train.classes, seed=seed)
    how = recipe(epochs=6, freeze={"stem": 1}, rates={"head": 3.0})
    minires.fit(made, train, test, how, out=folder / "run", check=False)
    return {"what": folder / "run", "data": train, "test": test}


@symptoms("fed as it was trained", told="My own code prepares images as the classifier does.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed), train, test)
    return {"what": made, "data": train, "test": test, "inputs": made.preprocess(pixels(test)[:64])}


@symptoms("weights of the same network", told="A file that fits.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    made, _ = fitted(small(train, seed), train, test)
    minires.save(made, folder / "theirs.npz")
    fresh = classifier(small(train, seed + 1), train)
    return {"what": fresh, "data": train, "test": test, "weights": folder / "theirs.npz"}


@symptoms("a trained network without normalisation", told="Two stages with biases, at a calm rate.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    return whole_run(folder, minires.build(own_vgg, train.shape, 6, seed=seed), train, test, recipe(epochs=14))


@symptoms("trained layers of one's own", told="Blocks and activation of one's own, at hand in a notebook.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    model = own.residual(own.Identity, train.shape, 6, seed, blocks=1, down=own.Down)
    return trained(folder, model, train, test, recipe(epochs=6))


# data


@symptoms("mildly unbalanced", told="From 28 to 60 images a class.")
def _(folder, seed=0):
    many, test = pair(count=360, seed=seed)
    counts = (60, 50, 44, 40, 34, 28)
    index = np.concatenate([np.flatnonzero(many.labels == k)[:n] for k, n in enumerate(counts)])
    train = picked(many, np.random.default_rng(seed).permutation(index))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=7))


@symptoms("a folder of JPEGs", told="One folder a class, files of 40 x 40.")
def _(folder, seed=0):
    root = folder / "photos"
    in_folder(root / "train", shapes(150, 2 * seed, 40))
    in_folder(root / "test", shapes(48, 2 * seed + 1, 40))
    return {"what": root, "data": root}


@symptoms("floats in 0..1", told="HDF5 with float32 images between 0 and 1.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    path = folder / "photos.h5"
    with h5py.File(path, "w") as file:
        for name, part in (("train", train), ("test", test)):
            file[f"{name}_set_x"] = pixels(part).astype(np.float32) / 255
            file[f"{name}_set_y"] = part.labels
        file["list_classes"] = np.array([name.encode() for name in train.classes])
    return {"what": path, "data": path}


@symptoms("grey images", told="Grey photos as an .npz of two axes an image.")
def _(folder, seed=0):
    train, test = pair(seed=seed)
    grey = {name: pixels(part).mean(axis=3).astype(np.uint8) for name, part in (("train", train), ("test", test))}
    np.savez(folder / "grey.npz", x_train=grey["train"], y_train=train.labels, x_test=grey["test"], y_test=test.labels)
    return {"what": folder / "grey.npz", "data": folder / "grey.npz"}


@symptoms("two classes", told="Disc or not, half and half.")
def _(folder, seed=0):
    def halves(part):
        keep = picked(part, np.flatnonzero(np.isin(part.labels, (2, 4))))
        return changed(keep, labels=(keep.labels == 2).astype(int), classes=("square", "disc"))

    train, test = (halves(part) for part in pair(count=480, test=240, seed=seed))
    return whole_run(folder, small(train, seed), train, test, recipe(epochs=5))


@symptoms("the built-in hands in a file", told="As minires data convert writes them.")
def _(folder, seed=0):
    write_signs(folder / "hands.h5", *signs(240, 60, size=32, seed=seed))
    return {"what": folder / "hands.h5", "data": folder / "hands.h5"}


@symptoms("photographs of sign language", told="A part of the Sign Language Digits data set.", needs=str(PHOTOS))
def _(folder, seed=0):
    train, test = load(PHOTOS, size=32, seed=seed)
    rng = np.random.default_rng(seed)
    train, test = (picked(part, np.sort(rng.permutation(len(part))[:n])) for part, n in ((train, 400), (test, 100)))
    return fresh(small(train, seed, "resnet14"), train, test)
