"""What a symptom is, and what many of them are made from: data sets that are quick to draw, and short trainings.

`shapes`, `fruit` and `signs` are three kinds of images: forms of any colour, colours of one form, and the built-in
hands. A ResNet-8 learns the first two in seconds; the hands take it longer.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

import minires
from minires.data import ArrayDataset

SHAPES = ("bar", "cross", "disc", "ring", "square", "triangle")
FRUIT = ("apple", "lemon", "lime", "plum")
_RIPE = np.array([[205, 45, 40], [225, 205, 60], [80, 175, 65], [75, 55, 165]], float)

# the causes, as a diagnosis names them
CAUSES = frozenset(
    {
        *("value range", "constant images", "duplicates", "contradicting labels", "leak", "shuffled labels"),
        *("label order", "class order", "case of names", "unbalanced classes", "missing class", "one class"),
        *("few images", "tiny images", "stretched images", "other images", "damaged images"),
        *("dead ReLUs", "saturated units", "dead skip", "scaled skip", "misrouted skip", "stride on one path"),
        *("same weights", "zero weights", "weights too large", "weights too small", "frozen parameters"),
        *("unused layer", "unreachable parameters", "shapes", "softmax twice", "relu on the logits"),
        *("no nonlinearity", "other number of classes"),
        *("wrong backward", "in-place write", "not a function", "vanishing gradient", "exploding gradient"),
        *("always clipped", "noisy gradient"),
        *("few updates", "batch too small", "stale statistics", "no statistics"),
        *("rate too large", "rate too small", "no warm-up", "schedule over", "decay too strong"),
        *("smoothing too strong", "augmentation too strong", "too few steps", "overfitting", "dropout too strong"),
        *("weights not finite", "overflow", "forward not finite", "low precision"),
        *("other preprocessing", "training mode"),
        *("other network", "other classes", "no weights", "damaged file", "file in use"),
        *("waits for data", "too many threads"),
    }
)
AREAS = ("data", "network", "gradient", "normalisation", "optimisation", "numbers", "inference", "files", "speed")


@dataclass(frozen=True)
class Symptom:
    """Something that people report, with what is behind it and how to have it before one's eyes."""

    name: str
    area: str
    told: str  # what people report
    source: str  # where such a thing was reported: an address, or an exercise of ours
    causes: tuple[str, ...]  # the right ones, any of which counts; () where nothing is wrong
    build: Callable[..., dict]  # (an empty folder, seed=0) -> the arguments of minires.diagnose, "what" among them
    seeds: tuple[int, ...] = (0,)
    needs: str = ""  # a package, or a folder, without which it cannot be made

    @property
    def possible(self) -> bool:
        """Whether it can be made here."""
        if "/" in self.needs:
            return Path(self.needs).exists()
        return not self.needs or importlib.util.find_spec(self.needs) is not None


class Collection(list):
    """The symptoms of a file: `@symptoms(name, ...)` above the function that makes one adds it."""

    def __init__(self, area: str, **usual):
        super().__init__()
        self.area, self.usual = area, usual

    def __call__(self, name: str, *, told: str, causes: str | tuple = (), area: str = "", **more):
        causes = (causes,) if isinstance(causes, str) else causes

        def add(build):
            fields = {"source": "", "build": build, **self.usual, **more}
            self.append(Symptom(name=name, area=area or self.area, told=told, causes=causes, **fields))
            return build

        return add


# images


def pixels(data) -> np.ndarray:
    """All images of a data set."""
    return data.images(np.arange(len(data)))


def changed(data, *, images=None, labels=None, classes=None, source="") -> ArrayDataset:
    """A copy of a data set with other images, labels or classes."""
    return ArrayDataset(
        pixels(data) if images is None else images,
        data.labels if labels is None else labels,
        data.classes if classes is None else classes,
        source=source or data.source,
        flip_ok=data.flip_ok,
    )


def picked(data, index, source="") -> ArrayDataset:
    """Some images of a data set, as a data set of their own."""
    return changed(data, images=data.images(np.asarray(index)), labels=data.labels[index], source=source)


@lru_cache(64)
def shapes(count: int, seed: int = 0, size: int = 16) -> ArrayDataset:
    """Six forms in any colour and place on a noisy ground, in random order."""
    rng = np.random.default_rng([seed, 1])
    labels = rng.permutation(np.arange(count) % len(SHAPES))
    images = np.stack([_shape(SHAPES[k], size, rng) for k in labels])
    return ArrayDataset(images, labels, SHAPES, source="shapes")


def _shape(kind, size, rng):
    centre = rng.uniform(0.42, 0.58, 2)
    radius = rng.uniform(0.3, 0.38)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    y, x = (y - centre[0]) / radius, (x - centre[1]) / radius
    from_centre = np.hypot(x, y)
    mask = {
        "bar": abs(y) < 0.35,
        "cross": np.minimum(abs(x), abs(y)) < 0.3,
        "disc": from_centre < 1,
        "ring": abs(from_centre - 0.75) < 0.28,
        "square": np.maximum(abs(x), abs(y)) < 0.85,
        "triangle": (abs(x) < (y + 1) / 2) & (y < 0.9),
    }[kind] & (np.maximum(abs(x), abs(y)) < 1.1)
    ground, colour = rng.uniform(20, 90, 3), rng.uniform(130, 240, 3)
    return _camera(np.where(mask[..., None], colour, ground), rng)


@lru_cache(64)
def fruit(count: int, seed: int = 0, size: int = 16) -> ArrayDataset:
    """Round fruit in front of a pale wall: only the colour tells what it is."""
    rng = np.random.default_rng([seed, 2])
    labels = rng.permutation(np.arange(count) % len(FRUIT))
    images = []
    for k in labels:
        y, x = (np.mgrid[:size, :size] + 0.5) / size - rng.uniform(0.4, 0.6, (2, 1, 1))
        mask = np.hypot(x, y) < rng.uniform(0.2, 0.38)
        shade = 1 - 0.6 * np.hypot(x + 0.1, y + 0.1)
        images.append(_camera(np.where(mask[..., None], _RIPE[k] * shade[..., None], rng.uniform(190, 230, 3)), rng))
    return ArrayDataset(np.stack(images), labels, FRUIT, source="fruit")


def _camera(image, rng):
    return np.clip(np.rint(image * rng.uniform(0.9, 1.05) + rng.normal(0, 8, image.shape)), 0, 255).astype(np.uint8)


@lru_cache(16)
def signs(count: int, test: int = 60, size: int = 16, seed: int = 0) -> tuple[ArrayDataset, ArrayDataset]:
    """The built-in hands, (training, test)."""
    return tuple(changed(part) for part in minires.make_signs(count, test, size=size, seed=seed))


def pair(make=shapes, count=240, test=120, seed=0, size=16):
    """(training, test) of one kind."""
    return make(count, seed=2 * seed, size=size), make(test, seed=2 * seed + 1, size=size)


def in_folder(root: Path, data, *, names=None, kind="jpg", size=None, start=0) -> Path:
    """A folder a class of image files; names: of these folders, size: (width, height) of the files."""
    for i, (image, label) in enumerate(zip(pixels(data), data.labels, strict=True), start):
        place = root / (names or data.classes)[label]
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        if size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        picture.save(place / f"{i:04}.{kind}", **({"quality": 92} if kind == "jpg" else {}))
    return root


# networks and trainings


def small(data, seed=0, arch="resnet8", **options):
    """A ResNet for these images."""
    return minires.resnet(arch, data.shape, len(data.classes), seed=seed, **options)


def classifier(model, data) -> minires.Classifier:
    """With the preprocessing of these images."""
    return minires.Classifier.for_data(model, data)


PLAIN = minires.Recipe(epochs=6, augment=None, lr=3e-3)


def recipe(**changes) -> minires.Recipe:
    """A short training without augmentation, that is right for `shapes` and `fruit`."""
    return replace(PLAIN, **changes)


def run(folder: Path, model, train, test, how=PLAIN) -> Path:
    """Train into a run's folder, and name it."""
    out = folder / "run"
    minires.fit(classifier(model, train), train, test, how, out=out, check=False)
    return out


def whole_run(folder: Path, model, train, test, how=PLAIN) -> dict:
    """The arguments of a diagnosis of such a run."""
    return {"what": run(folder, model, train, test, how), "data": train, "test": test}


def fitted(model, train, test=None, how=PLAIN):
    """(a trained classifier, its history)."""
    made = classifier(model, train)
    progress = minires.fit(made, train, test, how, check=False)
    return made, progress.history


def trained(folder: Path, model, train, test, how=PLAIN) -> dict:
    """The arguments of a diagnosis of a network of one's own that is at hand, with its history."""
    made, history = fitted(model, train, test, how)
    return {"what": made, "data": train, "test": test, "recipe": how, "history": history}


def of_layers(*layers, data, name="own"):
    """A network for these images."""
    return minires.Network(*layers, input_shape=data.shape, name=name)
