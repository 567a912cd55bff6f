"""Twenty faults as people have them, each made in an empty folder: what to hand to `minires.diagnose`, and the cause.

Every one is a network, a run or a data set of a user's own; none is a textbook case at full strength. They were written
without a look at the rules or at the collection, and asked about once, when the rules stood:

    python tests/campaigns/diagnosis.py --file tests/campaigns/blind_symptoms.py

The right cause came first for 18 of them, among the first three for 19.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

import minires
from minires.data import load
from minires.data.dataset import ArrayDataset


@dataclass(frozen=True)
class Symptom:
    """A fault: what its owner reports, where such a thing was reported, what it is, and how to make it."""

    name: str
    area: str
    told: str
    source: str
    causes: tuple[str, ...]
    build: Callable[[Path], dict]


# ---------------------------------------------------------------- pictures


def flowers(
    count: int,
    size: int,
    kinds: int,
    seed: int,
    *,
    colour: float = 1.0,
    background: tuple[float, float] = (70, 170),
    noise: float = 9,
) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 (count, size, size, 3), kinds (count,)): a flower before a wall that is lit from one side.

    A kind has its number of petals, and with `colour` its hue; place, size, turn, light, depth of the petals vary.
    """
    rng = np.random.default_rng([seed, kinds, size])
    labels = rng.permutation(np.arange(count) % kinds)
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1

    def one(low, high):
        return rng.uniform(low, high, (count, 1, 1))

    dx, dy = x - one(-0.22, 0.22), y - one(-0.22, 0.22)
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx) + one(0, 2 * np.pi)
    petals = (labels % 6 + 2)[:, None, None]
    edge = one(0.5, 0.72) * (1 + one(0.28, 0.42) * np.cos(petals * angle))
    inside = 1 / (1 + np.exp(-(edge - radius) * 24))[..., None]
    heart = 1 / (1 + np.exp(-(one(0.14, 0.2) - radius) * 30))[..., None]
    hue = colour * labels / kinds + rng.normal(0, 0.03, count) + (1 - colour) * rng.random(count)
    tone = 0.5 + 0.5 * np.cos(2 * np.pi * (hue[:, None] + np.array([0, 1 / 3, 2 / 3])))
    petal = (60 + 180 * tone)[:, None, None]
    light = one(*background) + one(-30, 30) * x + one(-30, 30) * y
    wall = light[..., None] + rng.normal(0, 9, (count, 1, 1, 3))
    picture = wall * (1 - inside) + petal * inside * (1 - heart) + np.array([235, 205, 70]) * heart
    picture = picture * one(0.85, 1.1)[..., None] + rng.normal(0, noise, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), labels


def garden(count, held, size, kinds, seed, **look):
    """(training, test) data sets of flowers."""
    names = [f"kind{k}" for k in range(kinds)]
    return tuple(
        ArrayDataset(*flowers(n, size, kinds, 2 * seed + part, **look), names, source="flowers")
        for part, n in enumerate((count, held))
    )


PLAIN = {"augment": None}


# ---------------------------------------------------------------- data


def divided_twice(folder: Path) -> dict:
    path = folder / "petals.h5"
    with h5py.File(path, "w") as file:
        for part, count in (("train", 240), ("test", 60)):
            images, labels = flowers(count, 32, 5, 11 + (part == "test"))
            scaled = images.astype(np.float32) / 255  # as the loader had already done
            file[f"{part}_set_x"], file[f"{part}_set_y"] = scaled / 255, labels
        file["list_classes"] = np.array([b"aster", b"daisy", b"iris", b"poppy", b"tulip"])
    return {"what": path}


def alphabet_of_numbers(folder: Path) -> dict:
    kinds = 12
    numbers = [str(k + 1) for k in range(kinds)]
    images, labels = flowers(480, 20, kinds, 21)
    train = ArrayDataset(images, labels, numbers, source="rooms 1..12")
    images, labels = flowers(144, 20, kinds, 22)
    position = {name: i for i, name in enumerate(sorted(numbers))}  # '1', '10', '11', '12', '2', ...
    test = ArrayDataset(images, [position[numbers[k]] for k in labels], numbers, source="rooms 1..12, test")
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, kinds, seed=3), train)
    minires.fit(classifier, train, test, minires.Recipe(epochs=7, **PLAIN), out=folder / "rooms")
    return {"what": folder / "rooms", "data": train, "test": test}


def split_after_augmenting(folder: Path) -> dict:
    images, labels = flowers(70, 48, 4, 31, colour=0.4)
    names = ("maple", "oak", "birch", "elm")
    rng = np.random.default_rng(5)
    (folder / "leaves").mkdir()
    rows = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        picture = Image.fromarray(image)
        gain = np.clip(image * rng.uniform(0.82, 1.18), 0, 255).astype(np.uint8)
        corner = rng.integers(0, 5, 2).tolist()
        made = {
            "orig": picture,
            "flip": picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            "light": Image.fromarray(gain),
            "crop": picture.crop((*corner, corner[0] + 44, corner[1] + 44)).resize((48, 48)),
        }
        for way, changed in made.items():
            file = f"leaves/{i:03d}-{way}.jpg"
            changed.save(folder / file, quality=int(rng.integers(80, 95)))
            rows.append([file, names[label]])
    part = rng.permutation(len(rows)) < 0.2 * len(rows)
    with (folder / "leaves.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "class", "subset"])
        table.writerows([*row, "test" if held else "train"] for row, held in zip(rows, part, strict=True))
    return {"what": folder / "leaves.csv"}


def listing_order(folder: Path) -> dict:
    found = {}
    for part, count in (("train", 280), ("test", 80)):
        images, labels = flowers(count, 20, 4, 41 + (part == "test"))
        files = [f"img_{i}.png" for i in range(count)]
        order = [files.index(name) for name in sorted(files)]  # img_0, img_1, img_10, img_100, ...: labels go 0, 1, 2
        found |= {f"x_{part}": images[order], f"y_{part}": labels}
    np.savez(folder / "berries.npz", **found)
    train, test = load(folder / "berries.npz")
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 4, seed=4), train)
    minires.fit(classifier, train, test, minires.Recipe(epochs=5, **PLAIN), out=folder / "berries")
    return {"what": folder / "berries", "data": folder / "berries.npz"}


def written_by_another_library(folder: Path) -> dict:
    names = ("carnation", "dahlia", "gentian", "lily", "violet")
    for part, count in (("train", 240), ("test", 80)):
        images, labels = flowers(count, 32, 5, 51 + (part == "test"))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / "flowers" / part / names[label]
            place.mkdir(parents=True, exist_ok=True)
            image = image[..., ::-1] if part == "test" else image  # frames of a video, saved as they came
            Image.fromarray(image).save(place / f"{part}{i:04d}.jpg", quality=92)
    return {"what": folder / "flowers"}


# ---------------------------------------------------------------- networks


def conv_norm(name, inside, outside, kernel=3, stride=1, momentum=0.9, seed=0):
    return [
        minires.Conv2d(f"{name}.conv", inside, outside, kernel, stride=stride, pad="same", seed=seed),
        minires.BatchNorm(f"{name}.bn", outside, momentum=momentum),
    ]


def straight_stack(input_shape, classes, seed=0):
    layers, inside = [], input_shape[2]
    for i, outside in enumerate((16, 16, 32, 32, 48)):
        layers += conv_norm(f"stage{i}", inside, outside, stride=2 if i in (1, 3) else 1, seed=seed)
        inside = outside
    return minires.Network(
        *layers,
        minires.AvgPool2d("pool", 2),
        minires.Flatten("flat"),
        minires.Dense("fc1", inside * (input_shape[0] // 8) * (input_shape[1] // 8), 32, init="he", seed=seed),
        minires.Dense("fc2", 32, classes, seed=seed),
        input_shape=input_shape,
        name="stack",
    )


def only_sums(folder: Path) -> dict:
    train, test = garden(400, 100, 24, 3, 61, colour=0.0)
    model = minires.build(straight_stack, train.shape, 3, seed=2)
    classifier = minires.Classifier.for_data(model, train)
    progress = minires.fit(classifier, train, test, minires.Recipe(epochs=6, **PLAIN))
    return {"what": classifier, "data": train, "test": test, "history": progress.history}


class DarkResidual(minires.Composite):
    """1x1 down, 3x3 up, as in Darknet-53."""

    def __init__(self, name, channels, seed=0):
        super().__init__(name)
        self.squeeze = minires.Sequential(
            *conv_norm(f"{name}.squeeze", channels, channels // 2, 1, seed=seed), minires.LeakyReLU(f"{name}.l1", 0.1)
        )
        self.expand = minires.Sequential(
            *conv_norm(f"{name}.expand", channels // 2, channels, 3, seed=seed), minires.LeakyReLU(f"{name}.l2", 0.1)
        )
        self.add, self.add_input = minires.Add(f"{name}.add"), minires.Add(f"{name}.add_input")

    def flow(self, x, visit):
        out = visit(self.add, visit(self.expand, visit(self.squeeze, x)), x)
        return visit(self.add_input, out, x)

    def backward(self, dy, need_dx=True):
        dout, dx = self.add_input.backward(dy)
        dbranch, dskip = self.add.backward(dout)
        return self.squeeze.backward(self.expand.backward(dbranch)) + dskip + dx


def dark_net(input_shape, classes, seed=0):
    layers, inside = [], input_shape[2]
    for i, (outside, blocks) in enumerate(((16, 2), (32, 3), (48, 3))):
        layers += [*conv_norm(f"down{i}", inside, outside, 3, 1 + (i > 0), seed=seed), minires.LeakyReLU(f"r{i}", 0.1)]
        layers += [DarkResidual(f"res{i}.{j}", outside, seed) for j in range(blocks)]
        inside = outside
    tail = minires.GlobalAvgPool2d("pool"), minires.Dense("fc", inside, classes, seed=seed)
    return minires.Network(*layers, *tail, input_shape=input_shape, name="dark")


def twice_the_input(folder: Path) -> dict:
    train, _ = garden(160, 40, 24, 5, 71)
    model = minires.build(dark_net, train.shape, 5, seed=1)
    return {"what": model, "data": train}


class Softmax(minires.Module):
    smooth = True

    def forward(self, x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        y = e / e.sum(axis=-1, keepdims=True)
        self.save(y)
        return y

    def backward(self, dy, need_dx=True):
        (y,) = self.saved()
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))

    def output_shape(self, shape):
        return shape


class Head(minires.Composite):
    """Pool, score, and the scores as `predict` shows them."""

    def __init__(self, name, channels, classes, seed=0):
        super().__init__(name)
        self.pool = minires.GlobalAvgPool2d(f"{name}.pool")
        self.score = minires.Dense(f"{name}.score", channels, classes, seed=seed)
        self.out = Softmax(f"{name}.out")

    def flow(self, x, visit):
        return visit(self.out, visit(self.score, visit(self.pool, x)))

    def backward(self, dy, need_dx=True):
        return self.pool.backward(self.score.backward(self.out.backward(dy)))


def headed(input_shape, classes, seed=0):
    return minires.Network(
        *conv_norm("a", input_shape[2], 16, seed=seed),
        minires.ReLU("a.relu"),
        *conv_norm("b", 16, 32, stride=2, seed=seed),
        minires.ReLU("b.relu"),
        Head("head", 32, classes, seed),
        input_shape=input_shape,
        name="headed",
    )


def probabilities_out(folder: Path) -> dict:
    train, test = garden(240, 80, 20, 8, 81)
    classifier = minires.Classifier.for_data(minires.build(headed, train.shape, 8, seed=1), train)
    progress = minires.fit(classifier, train, test, minires.Recipe(epochs=8, **PLAIN))
    return {"what": classifier, "data": train, "test": test, "history": progress.history}


class Stages(minires.Composite):
    """The body of a network, its stages by name."""

    def __init__(self, name, inside, widths, seed=0):
        super().__init__(name)
        self.stages = {}
        for i, outside in enumerate(widths):
            parts = (
                *conv_norm(f"{name}.{i}", inside, outside, stride=1 + (i > 0), seed=seed),
                minires.ReLU(f"{name}.{i}.r"),
            )
            self.stages[f"stage{i}"] = minires.Sequential(*parts, name=f"{name}.{i}")
            inside = outside

    def flow(self, x, visit):
        for stage in self.stages.values():
            x = visit(stage, x)
        return x

    def backward(self, dy, need_dx=True):
        for stage in reversed(self.stages.values()):
            dy = stage.backward(dy)
        return dy


def staged(input_shape, classes, seed=0):
    return minires.Network(
        minires.Conv2d("stem", input_shape[2], 8, 3, pad=1, bias=True, seed=seed),
        minires.ReLU("stem.relu"),
        Stages("body", 8, (16, 24, 32), seed),
        minires.GlobalAvgPool2d("pool"),
        minires.Dense("fc", 32, classes, seed=seed),
        input_shape=input_shape,
        name="staged",
    )


def kept_by_name(folder: Path) -> dict:
    train, _ = garden(160, 40, 24, 6, 91, colour=0.3)
    model = minires.build(staged, train.shape, 6, seed=0)
    return {"what": minires.Classifier.for_data(model, train), "data": train, "recipe": minires.Recipe(epochs=8)}


# ---------------------------------------------------------------- gradients


class Swish(minires.Module):
    smooth = True

    def forward(self, x):
        s = 1 / (1 + np.exp(-x))
        self.save(x * s, s)
        return x * s

    def backward(self, dy, need_dx=True):
        y, s = self.saved()
        return dy * (y + s * (1 - s))

    def output_shape(self, shape):
        return shape


def swish_net(input_shape, classes, seed=0):
    layers, inside = [], input_shape[2]
    for i, outside in enumerate((12, 16, 24)):
        layers += [*conv_norm(f"c{i}", inside, outside, stride=1 + (i > 0), seed=seed), Swish(f"swish{i}")]
        inside = outside
    tail = minires.GlobalAvgPool2d("pool"), minires.Dense("fc", inside, classes, seed=seed)
    return minires.Network(*layers, *tail, input_shape=input_shape, name="swished")


def derivative_by_heart(folder: Path) -> dict:
    train, _ = garden(120, 40, 20, 5, 101)
    return {"what": minires.build(swish_net, train.shape, 5, seed=6), "data": train}


class ThriftyReLU(minires.Module):
    """A ReLU that takes no memory of its own."""

    def forward(self, x):
        np.maximum(x, 0, out=x)
        self.save(x > 0)
        return x

    def backward(self, dy, need_dx=True):
        (on,) = self.saved()
        return dy * on

    def output_shape(self, shape):
        return shape


class PreBlock(minires.Composite):
    def __init__(self, name, channels, seed=0):
        super().__init__(name)
        self.branch = minires.Sequential(
            ThriftyReLU(f"{name}.relu1"),
            *conv_norm(f"{name}.a", channels, channels, seed=seed),
            minires.ReLU(f"{name}.relu2"),
            minires.Conv2d(f"{name}.b.conv", channels, channels, 1, seed=seed),
            name=f"{name}.branch",
        )
        self.add = minires.Add(f"{name}.add")

    def flow(self, x, visit):
        return visit(self.add, visit(self.branch, x), x)

    def backward(self, dy, need_dx=True):
        dbranch, dskip = self.add.backward(dy)
        return self.branch.backward(dbranch) + dskip


def thrifty(input_shape, classes, seed=0):
    return minires.Network(
        *conv_norm("stem", input_shape[2], 16, stride=2, seed=seed),
        PreBlock("block1", 16, seed),
        PreBlock("block2", 16, seed),
        minires.GlobalAvgPool2d("pool"),
        minires.Dense("fc", 16, classes, seed=seed),
        input_shape=input_shape,
        name="thrifty",
    )


def saves_memory(folder: Path) -> dict:
    train, _ = garden(120, 40, 20, 4, 111)
    return {"what": minires.Classifier.for_data(minires.build(thrifty, train.shape, 4, seed=2), train), "data": train}


class Jitter(minires.Module):
    """Noise on the features, against overfitting."""

    smooth = True

    def __init__(self, name, amount, seed=0):
        super().__init__(name)
        self.amount, self.rng = amount, np.random.default_rng([seed, 77])

    def forward(self, x):
        return x + (self.amount * self.rng.standard_normal(x.shape)).astype(x.dtype)

    def backward(self, dy, need_dx=True):
        return dy

    def output_shape(self, shape):
        return shape


def jittery(input_shape, classes, seed=0):
    return minires.Network(
        *conv_norm("a", input_shape[2], 12, stride=2, seed=seed),
        minires.ReLU("a.relu"),
        Jitter("a.jitter", 0.2, seed),
        *conv_norm("b", 12, 24, stride=2, seed=seed),
        minires.ReLU("b.relu"),
        minires.GlobalAvgPool2d("pool"),
        minires.Dense("fc", 24, classes, seed=seed),
        input_shape=input_shape,
        name="jittery",
    )


def another_answer_each_time(folder: Path) -> dict:
    train, test = garden(200, 60, 20, 5, 121)
    classifier = minires.Classifier.for_data(minires.build(jittery, train.shape, 5, seed=5), train)
    minires.fit(classifier, train, None, minires.Recipe(epochs=4, **PLAIN), check=False)
    return {"what": classifier, "data": train, "test": test}


def old_school(input_shape, classes, seed=0):
    layers, inside = [minires.Flatten("flat")], int(np.prod(input_shape))
    for i in range(7):
        layers += [minires.Dense(f"hidden{i}", inside, 64, seed=seed), minires.Sigmoid(f"act{i}")]
        inside = 64
    return minires.Network(
        *layers, minires.Dense("out", inside, classes, seed=seed), input_shape=input_shape, name="mlp"
    )


def seven_layers(folder: Path) -> dict:
    train, test = garden(240, 60, 16, 5, 131)
    classifier = minires.Classifier.for_data(minires.build(old_school, train.shape, 5, seed=1), train)
    recipe = minires.Recipe(epochs=10, optimizer="sgd", lr=0.05, **PLAIN)
    progress = minires.fit(classifier, train, test, recipe)
    return {"what": classifier, "data": train, "recipe": recipe, "history": progress.history}


# ---------------------------------------------------------------- normalisation


def short_run(folder: Path) -> dict:
    train, test = garden(240, 80, 20, 5, 141)
    model = minires.resnet("resnet20", train.shape, 5, bn_momentum=0.999, seed=3)  # TensorFlow's layers' own default
    classifier = minires.Classifier.for_data(model, train)
    recipe = minires.Recipe(epochs=5, batch_size=40, precise_bn=False, **PLAIN)
    minires.fit(classifier, train, test, recipe, out=folder / "slim")
    return {"what": folder / "slim", "data": train, "test": test}


def normed_features(input_shape, classes, seed=0):
    return minires.Network(
        *conv_norm("a", input_shape[2], 12, stride=2, seed=seed),
        minires.ReLU("a.relu"),
        *conv_norm("b", 12, 24, stride=2, seed=seed),
        minires.ReLU("b.relu"),
        minires.GlobalAvgPool2d("pool"),
        minires.Dense("fc1", 24, 32, bias=False, init="he", seed=seed),
        minires.BatchNorm("fc1.bn", 32),
        minires.ReLU("fc1.relu"),
        minires.Dense("fc2", 32, classes, seed=seed),
        input_shape=input_shape,
        name="features",
    )


def what_fits_the_card(folder: Path) -> dict:
    train, test = garden(200, 80, 20, 5, 151)
    classifier = minires.Classifier.for_data(minires.build(normed_features, train.shape, 5, seed=2), train)
    recipe = minires.Recipe(epochs=6, batch_size=2, **PLAIN)
    progress = minires.fit(classifier, train, test, recipe, out=folder / "features")
    return {"what": classifier, "data": train, "test": test, "recipe": recipe, "history": progress.history}


# ---------------------------------------------------------------- optimisation


def copied_rate(folder: Path) -> dict:
    train, test = garden(240, 60, 20, 6, 161)
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6, norm=False, seed=2), train)
    recipe = minires.Recipe(epochs=6, optimizer="adam", lr=0.1, schedule="constant", **PLAIN)
    minires.fit(classifier, train, test, recipe, out=folder / "run")
    return {"what": folder / "run", "data": train, "test": test}


def copied_decay(folder: Path) -> dict:
    train, test = garden(240, 60, 20, 6, 171)
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6, norm=False, seed=2), train)
    how = {"batch_size": 16, "optimizer": "sgd", "lr": 0.01, "weight_decay": 0.45, "schedule": "constant"}
    recipe = minires.Recipe(epochs=10, **how, **PLAIN)
    minires.fit(classifier, train, test, recipe, out=folder / "run")
    return {"what": folder / "run", "data": train, "test": test}


def ran_on(folder: Path) -> dict:
    train, test = garden(240, 60, 20, 8, 181, colour=0.25)
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 8, seed=2), train)
    model, steps = classifier.model, 240 // 40
    optimizer = minires.SGD(model.params(), momentum=0.9)
    schedule = minires.Schedule("cosine", 0.05, total=3 * steps)  # of an earlier, shorter try
    x, order, history, step = classifier.preprocess(train.images(range(240))), np.random.default_rng(1), [], 0
    for epoch in range(14):
        model.train()
        losses, right, norms = [], 0, []
        for index in order.permutation(240).reshape(steps, 40):
            loss, probs = minires.softmax_cross_entropy_forward(model.forward(x[index]), train.labels[index])
            model.backward(minires.softmax_cross_entropy_backward(probs, train.labels[index]), need_dx=False)
            norms.append(float(optimizer.step(schedule(step))))
            losses.append(float(loss))
            right += int((probs.argmax(axis=1) == train.labels[index]).sum())
            step += 1
        found = minires.evaluate(classifier, test)
        row = {"epoch": epoch + 1, "train_loss": float(np.mean(losses)), "train_accuracy": right / 240}
        row |= {"lr": schedule(step - 1), "grad_norm": float(np.mean(norms))}
        history.append(row | {"test_loss": found.loss, "test_accuracy": found.accuracy})
    return {"what": classifier, "data": train, "test": test, "history": history}


# ---------------------------------------------------------------- files and inference


def weights_of_a_namesake(folder: Path) -> dict:
    theirs = minires.resnet("resnet20", (32, 32, 3), 10, shortcut="A", seed=9)
    minires.export_weights(theirs, folder / "resnet20-cifar.safetensors")
    return {"what": minires.resnet("resnet20", (32, 32, 3), 10), "weights": folder / "resnet20-cifar.safetensors"}


def numbers_from_the_web(folder: Path) -> dict:
    train, test = garden(240, 80, 20, 6, 191, background=(15, 90))
    classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6, seed=7), train)
    minires.fit(classifier, train, test, minires.Recipe(epochs=8, **PLAIN), out=folder / "run")
    pixels = test.images(range(64)).astype(np.float32) / 255
    return {"what": folder / "run", "data": train, "test": test, "inputs": (pixels - 0.5) / np.float32(0.5)}


GITHUB = "https://github.com"
SYMPTOMS = [
    Symptom(
        "divided twice",
        "data",
        "the pictures of my HDF5 file all look black, and the network learns much less from them than from the JPEGs",
        f"{GITHUB}/facebookresearch/InterHand2.6M/issues/110",
        ("value range",),
        divided_twice,
    ),
    Symptom(
        "alphabet of numbers",
        "data",
        "the twelve rooms are learned in training, on the test part one answer in twelve is right",
        "https://e-com-net.com/article/1718358175658356736.htm",
        ("label order",),
        alphabet_of_numbers,
    ),
    Symptom(
        "split after augmenting",
        "data",
        "the test accuracy is more than twice as high as what the same network reaches on new photographs",
        f"{GITHUB}/skanderhamdi/attention_cnn_lstm_covid_mel_spectrogram/issues/2",
        ("leak",),
        split_after_augmenting,
    ),
    Symptom(
        "listing order",
        "data",
        "the network learns the training images by heart at best, and on the test images it guesses, whatever I train",
        f"{GITHUB}/chuanyangjin/fast-DiT/issues/4",
        ("shuffled labels",),
        listing_order,
    ),
    Symptom(
        "written by another library",
        "data",
        "training goes well, but on the test folder, made from a video of the same flowers, most answers are wrong",
        f"{GITHUB}/minivision-ai/Silent-Face-Anti-Spoofing/issues/71",
        ("other images",),
        written_by_another_library,
    ),
    Symptom(
        "only sums",
        "network",
        "my five convolutions and two dense layers are hardly better than one dense layer, in training too",
        "https://hackernoon.com/lite/what-happens-if-you-remove-relu-from-a-deep-neural-network",
        ("no nonlinearity",),
        only_sums,
    ),
    Symptom(
        "twice the input",
        "network",
        "the deeper I make my Darknet, the larger its activations and its gradients become",
        f"{GITHUB}/yakhyo/darknet-pytorch/issues/2",
        ("scaled skip",),
        twice_the_input,
    ),
    Symptom(
        "probabilities out",
        "network",
        "the loss falls a little and stays far above 1 although many answers are right",
        "https://discuss.pytorch.org/t/cross-entropy-loss-is-not-decreasing/43814/16",
        ("softmax twice",),
        probabilities_out,
    ),
    Symptom(
        "kept by name",
        "network",
        "the summary counts far fewer parameters than I put in, and the body does not change in training",
        "https://www.engineermaxxing.com/micro/lessons/pytorch-internals.html",
        ("unreachable parameters",),
        kept_by_name,
    ),
    Symptom(
        "derivative by heart",
        "gradient",
        "with my own activation the network trains worse than with ReLU",
        f"{GITHUB}/pytorch/pytorch/issues/110815",
        ("wrong backward",),
        derivative_by_heart,
    ),
    Symptom(
        "saves memory",
        "gradient",
        "since I save memory in my blocks, the gradients differ from the numerical ones, no layer alone is wrong",
        f"{GITHUB}/rosinality/vq-vae-2-pytorch/issues/60",
        ("in-place write",),
        saves_memory,
    ),
    Symptom(
        "another answer each time",
        "gradient",
        "in evaluation mode too the same photograph gets other scores each time, and `evaluate` refuses",
        f"{GITHUB}/keunwoochoi/kapre/issues/35",
        ("not a function",),
        another_answer_each_time,
    ),
    Symptom(
        "seven layers",
        "gradient",
        "with seven hidden layers nothing is learned, with two it is",
        "https://ai.stackexchange.com/questions/16557",
        ("vanishing gradient",),
        seven_layers,
    ),
    Symptom(
        "short run",
        "normalisation",
        "the training accuracy is high, yet the same images are hardly recognised afterwards",
        f"{GITHUB}/keras-team/keras/issues/10666",
        ("few updates",),
        short_run,
    ),
    Symptom(
        "what fits the card",
        "normalisation",
        "training is noisy and stays poor since I had to train with what fits into my memory",
        f"{GITHUB}/microsoft/CNTK/issues/905",
        ("batch too small",),
        what_fits_the_card,
    ),
    Symptom(
        "copied rate",
        "optimisation",
        "one jump of the loss in the first epoch, then it stays at that of guessing",
        f"{GITHUB}/guillaumegenthial/sequence_tagging/issues/47",
        ("rate too large",),
        copied_rate,
    ),
    Symptom(
        "copied decay",
        "optimisation",
        "the loss falls for two epochs and then stands still at a poor value, on the training images too",
        f"{GITHUB}/tinghuiz/SfMLearner/issues/34",
        ("decay too strong",),
        copied_decay,
    ),
    Symptom(
        "ran on",
        "optimisation",
        "after a few epochs the loss stands still at a poor value for the rest of the training",
        f"{GITHUB}/wandb/senpai/pull/694",
        ("schedule over",),
        ran_on,
    ),
    Symptom(
        "weights of a namesake",
        "files",
        "a file of a ResNet-20 for CIFAR does not fit my ResNet-20 for CIFAR: arrays are missing",
        f"{GITHUB}/kenshohara/3D-ResNets-PyTorch/issues/110",
        ("other network",),
        weights_of_a_namesake,
    ),
    Symptom(
        "numbers from the web",
        "numbers/inference",
        "minires evaluate finds a good accuracy, my own script with the same network a bad one",
        f"{GITHUB}/bubbliiiing/centernet-pytorch/issues/26",
        ("other preprocessing",),
        numbers_from_the_web,
    ),
]
