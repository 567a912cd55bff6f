"""What people do with a trained network, each in one call: `load`, `predict`, `save`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from minires.console import Shown
from minires.data import read_image
from minires.errors import ConfigError, DataError
from minires.fast.inference import Predictor
from minires.nn import Module
from minires.train import Classifier, load_classifier, save_checkpoint
from minires.weights import WRITERS, export_weights, import_classifier, is_checkpoint

PathLike = str | os.PathLike


def load(path: PathLike, *, best: bool = False, model: Module | None = None) -> Classifier:
    """The classifier in a run's folder, a checkpoint, or a file of weights that says which network it is of.

    best: of a folder, the epoch of the lowest test loss in place of the last one.
    model: the network that takes the weights, where the file alone does not build it: one with layers of one's own,
    or a file of Keras or PyTorch, which carries no more than arrays.

    CheckpointError, one line, for a file that is damaged, or of another network.

    >>> train, _ = minires.make_signs(12, 6, size=16)
    >>> classifier = minires.Classifier.for_data(minires.resnet("resnet8", (16, 16, 3), 6), train)
    >>> minires.save(classifier, "hands.safetensors")
    >>> minires.load("hands.safetensors").classes
    ('0', '1', '2', '3', '4', '5')
    """
    path = Path(path)
    if path.is_dir() or is_checkpoint(path):
        return load_classifier(path, best=best, model=model)
    return import_classifier(path, model)[0]


def save(classifier: Classifier, path: PathLike) -> None:
    """Write the network with its classes and preprocessing, whole or not at all; the ending says how.

    `.h5` is a checkpoint of minires; `.weights.h5` (Keras 3), `.safetensors`, `.npz`, `.pth` (PyTorch) and `.onnx` are
    read by others too. `load` reads each of them. ConfigError for another ending.

    >>> train, _ = minires.make_signs(12, 6, size=16)
    >>> classifier = minires.Classifier.for_data(minires.resnet("resnet8", (16, 16, 3), 6), train)
    >>> minires.save(classifier, "hands.h5")
    >>> minires.save(classifier, "hands.jpg")
    Traceback (most recent call last):
    minires.errors.ConfigError: hands.jpg: the name must end in one of .h5, .weights.h5, ...: they say what to write
    """
    path = Path(path)
    if path.name.endswith(tuple(WRITERS)):
        export_weights(classifier, path)
    elif path.suffix == ".h5":
        save_checkpoint(path, classifier)
    else:
        endings = ", ".join((".h5", *WRITERS))
        raise ConfigError(f"{path}: the name must end in one of {endings}: they say what to write")


@dataclass(frozen=True)
class Prediction(Shown):
    """What a classifier says of images: printed, the likeliest class of each; `probs` has them all."""

    names: tuple[str, ...]
    """What each image is called: its file, or its number."""
    classes: tuple[str, ...]
    """The K classes."""
    probs: np.ndarray
    """(N, K): the probability of each class for each image."""

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.classes[k] for k in self.probs.argmax(axis=1)]

    def top(self, k: int = 3) -> list[list[tuple[str, float]]]:
        """For each image the `k` likeliest classes with their probabilities, the likeliest first."""
        order = np.argsort(-self.probs, axis=1, kind="stable")[:, :k]
        rows = zip(order, self.probs, strict=True)
        return [[(self.classes[j], float(p[j])) for j in best] for best, p in rows]

    def table(self) -> Table:
        """A row an image: name, class, probability, the next best class."""
        table = Table(Column("image", overflow="fold"), "class", "probability", "next best")
        for name, ((first, p), *others) in zip(self.names, self.top(2), strict=True):
            table.add_row(name, first, f"{p:.1%}", ", ".join(f"{other} ({q:.1%})" for other, q in others))
        return table


def predict(
    classifier: Classifier,
    images: np.ndarray | PathLike | Sequence[PathLike],
    *,
    by_layers: bool = False,
) -> Prediction:
    """What `classifier` says of images, with the preprocessing that training used.

    images: uint8 arrays (N, H, W, C) of the network's size, or one (H, W, C); or files, which are resized to it.
    by_layers: run exactly the layers, nothing folded.

    DataError for a file that is no image, or arrays of another size; DivergedError, naming the layer, where a number is
    not finite.

    >>> train, _ = minires.make_signs(12, 6, size=16)
    >>> classifier = minires.Classifier.for_data(minires.resnet("resnet8", (16, 16, 3), 6), train)
    >>> found = minires.predict(classifier, train.images(range(4)))
    >>> found.probs.shape, len(found.labels), len(found.top(3)[0])
    ((4, 6), 4, 3)
    """
    if isinstance(images, np.ndarray):
        arrays = images[None] if images.ndim == 3 else images
        names = tuple(map(str, range(len(arrays))))
    else:
        paths = [images] if isinstance(images, PathLike) else list(images)
        arrays = [read_image(path, classifier.model.input_shape[:2]) for path in paths]
        names = tuple(map(str, paths))
    if not len(arrays):
        raise DataError("predict: no images: give at least one")
    predictor = Predictor(classifier.model, by_layers=by_layers)
    return Prediction(names, classifier.classes, classifier.probs(np.asarray(arrays), predictor))
