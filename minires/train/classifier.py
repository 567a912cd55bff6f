"""A network with what it needs to be used: its preprocessing and its classes' names.

Preprocessing belongs to the model: whoever predicts applies what training applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from minires.backend import Array, device_of, get_xp, to_device, to_numpy
from minires.data.arrays import as_dataset
from minires.data.dataset import Dataset, chunks
from minires.data.names import reordered
from minires.errors import DataError, DivergedError
from minires.fast import communicator
from minires.fast.inference import Predictor
from minires.nn import Module, Network, as_network, inference
from minires.nn.probe import first_nonfinite
from minires.ops import softmax_cross_entropy_forward
from minires.train import scores

EVAL_BATCH = 64  # images a forward pass in evaluation; the result does not depend on it
_FEW = 2**16  # images whose probabilities are computed at a time, in float64


@dataclass(frozen=True)
class Preprocess:
    """x = (image / 255 - mean) / std, per channel, from uint8 to the network's precision."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)

    @classmethod
    def measure(cls, dataset: Dataset) -> "Preprocess":
        """The mean and standard deviation of each channel over the whole data set, or pair (images, labels)."""
        dataset = as_dataset(dataset)
        total = squares = np.zeros(dataset.shape[2], np.int64)
        here = communicator.share(len(dataset))
        for index in chunks(here.stop - here.start):  # exact sums of whole numbers: by images, then by channel
            pixels = dataset.images(index + here.start).reshape(len(index), -1)
            total = total + _by_channel(pixels, dataset.shape[2])
            squares = squares + _by_channel(pixels.astype(np.uint16) ** 2, dataset.shape[2])
        total, squares = communicator.current().all_reduce(np.stack([total, squares]))
        count = len(dataset) * dataset.shape[0] * dataset.shape[1]
        mean, squares = total / (255 * count), squares / 255**2
        std = np.sqrt(np.maximum(squares / count - mean**2, 1e-8))
        return cls(tuple(map(float, mean.round(6))), tuple(map(float, std.round(6))))

    def __call__(self, images: Array, dtype: DTypeLike = np.float32) -> Array:
        """Images (N, H, W, C) uint8, on any device -> the network's input, on the same device."""
        xp = get_xp(images)
        mean, std = xp.asarray(self.mean, dtype), xp.asarray(self.std, dtype)
        return images.astype(dtype) * (1 / (255 * std)) - mean / std


def _by_channel(numbers: np.ndarray, channels: int) -> np.ndarray:
    """Sums (C,) of few images' numbers (n, H W C), each below 2^16."""
    return numbers.sum(axis=0, dtype=np.uint32).reshape(-1, channels).sum(axis=0, dtype=np.int64)


def predict_logits(model: Network, x: Array, *, by_layers: bool = False) -> Array:
    """Logits (N, K) for the network's input x (N, H, W, C), in evaluation mode; for many batches, keep a Predictor."""
    return Predictor(model, by_layers=by_layers)(x)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, K), computed in float64, in the logits' dtype."""
    return _loss_and_probs(logits, np.zeros(len(logits), np.int64))[1]


def _loss_and_probs(logits, labels):
    loss, probs = softmax_cross_entropy_forward(logits.astype(np.float64), labels)
    return float(loss), probs.astype(logits.dtype)


def check_finite(logits: np.ndarray, model: Network, x: Array) -> np.ndarray:
    """The logits that `model` gave for x; DivergedError, naming where it began, if one is not finite."""
    if not np.isfinite(logits).all():
        with inference(model):
            where = first_nonfinite(model, x) or "the folded network, though in none of its layers"
        raise DivergedError(
            f"the network predicts numbers that are not finite, first in {where}: "
            "give another checkpoint, or train one anew"
        )
    return logits


@dataclass(repr=False)
class Classifier:
    """A network, its classes and its preprocessing: uint8 images in, probabilities out.

    >>> train, _ = minires.make_signs(12, 6, size=16)
    >>> model = minires.resnet("resnet8", train.shape, len(train.classes))
    >>> classifier = minires.Classifier.for_data(model, train)
    >>> classifier.probs(train.images([0, 1])).shape
    (2, 6)
    """

    model: Network
    """The network."""
    classes: tuple[str, ...]
    """A name for each of its outputs."""
    preprocess: Preprocess
    """What it does to an image first."""

    def __repr__(self) -> str:
        size = "x".join(map(str, self.model.input_shape))
        return f"Classifier of {size} images: {', '.join(self.classes)}\n{self.preprocess}\n{self.model}".partition(
            "\n  "
        )[0]

    @classmethod
    def for_data(cls, model: Module, train: Dataset) -> "Classifier":
        """For training on `train`, a data set or a pair (images, labels): its statistics become the preprocessing.

        model: a Network, or any Module that gives a score a class for such images.
        """
        train = as_dataset(train)
        model = as_network(model, train.shape)
        if len(train.classes) != model.classes:
            raise DataError(
                f"{train.source}: {len(train.classes)} classes, but the network was built for "
                f"{model.classes}: build it with classes={len(train.classes)}"
            )
        return cls(model, train.classes, Preprocess.measure(train))

    def probs(self, images: np.ndarray, predictor: Predictor | None = None) -> np.ndarray:
        """Probabilities (N, K) for images (N, H, W, 3) uint8 of the network's size; errors as `logits`."""
        return softmax(self.logits(images, predictor))

    def logits(self, images: np.ndarray, predictor: Predictor | None = None) -> np.ndarray:
        """Logits (N, K) for images (N, H, W, 3) uint8 of the network's size.

        predictor: `Predictor(self.model)`, to be made once where many calls follow with the same weights.
        DataError for other images, DivergedError where a logit is not finite.
        """
        expected = self.model.input_shape
        if images.shape[1:] != expected or images.dtype != np.uint8:
            raise DataError(
                f"the network expects uint8 images {expected}, got {images.dtype} {images.shape[1:]}: resize them first"
            )
        predictor = predictor or Predictor(self.model)
        return np.concatenate([self._logits(images[index], predictor) for index in chunks(len(images), EVAL_BATCH)])

    def _logits(self, images, predictor):
        weights = self.model.params()[0].data
        x = self.preprocess(to_device(images, device_of(weights)), weights.dtype)
        return check_finite(to_numpy(predictor(x)), self.model, x)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How a classifier did on a data set: mean cross-entropy, share of right answers, and the evidence."""

    loss: float
    """The mean cross-entropy."""
    accuracy: float
    """The share of right answers, 0 to 1."""
    probs: np.ndarray
    """(N, K): the probability of each class for each image."""
    labels: np.ndarray
    """(N,): the right answers."""

    def __repr__(self) -> str:
        told = scores.with_interval(self.accuracy, self.interval)
        return f"accuracy {told}, {self.mistakes} mistakes in {len(self.labels)}, loss {self.loss:.4f}"

    @property
    def mistakes(self) -> int:
        """How many answers are wrong."""
        return int((self.probs.argmax(axis=1) != self.labels).sum())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (scores.wilson)."""
        return scores.wilson(len(self.labels) - self.mistakes, len(self.labels))

    @property
    def confusion(self) -> np.ndarray:
        """(K, K): how often class i was taken for class j."""
        return scores.confusion(self.labels, self.probs.argmax(axis=1), self.probs.shape[1])

    def top(self) -> dict[int, float]:
        """k -> the share of images whose class is among the k likeliest; of 1, 2, 3 and 5 those that say something."""
        return {k: scores.top_k(self.probs, self.labels, k) for k in (1, 2, 3, 5) if k < self.probs.shape[1]}

    def as_dict(self, classes: Sequence[str]) -> dict:
        """All of it but the single images' probabilities as plain types, for JSON."""
        confusion = self.confusion
        per_class = {
            name: {"images": int(row.sum()), "accuracy": float(row[i] / row.sum()) if row.any() else None}
            | {"interval": scores.wilson(int(row[i]), int(row.sum()))}
            for i, (name, row) in enumerate(zip(classes, confusion, strict=True))
        }
        return {
            "accuracy": self.accuracy,
            "interval": self.interval,
            "loss": self.loss,
            "images": len(self.labels),
            "mistakes": self.mistakes,
            "top": {str(k): share for k, share in self.top().items()},
            "classes": per_class,
            "confusion": confusion.tolist(),
            "calibration": scores.calibration(self.probs, self.labels).as_dict(),
        }


@communicator.collective
def evaluate(classifier: Classifier, dataset: Dataset, *, by_layers: bool = False) -> Evaluation:
    """Loss and accuracy on `dataset`, whose classes must be the classifier's. by_layers: see fast/inference.py.

    dataset: or a pair (images, labels) of NumPy arrays, labels by name or number.
    DataError for other classes, DivergedError where the network gives a number that is not finite.

    >>> train, test = minires.make_signs(12, 6, size=16)
    >>> classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6), train)
    >>> found = minires.evaluate(classifier, test)
    >>> found.confusion.shape
    (6, 6)
    >>> found
    accuracy ...% (...), ... mistakes in 6, loss ...
    """
    dataset = as_dataset(dataset, classifier.classes)
    if said := reordered(dataset.classes, classifier.classes):
        raise DataError(
            f"{dataset.source}: the network's classes in another order ({said}): let "
            "minires.data.load_parts(DATA, classes=classifier.classes) number them as the network does"
        )
    if dataset.classes != classifier.classes:
        raise DataError(
            f"{dataset.source}: its classes are {', '.join(dataset.classes)}, the network was trained on "
            f"{', '.join(classifier.classes)}: give data of the same classes"
        )
    predictor = Predictor(classifier.model, by_layers=by_layers)
    count, here = len(dataset), communicator.share(len(dataset))
    logits = np.empty((count, len(classifier.classes)), classifier.model.params()[0].data.dtype)
    for index in chunks(here.stop - here.start, EVAL_BATCH):
        logits[index + here.start] = classifier.logits(dataset.images(index + here.start), predictor)
    communicator.current().all_gather_into(logits, communicator.shares(count))
    loss, probs = 0.0, logits  # in place, a part after the other
    for index in chunks(count, _FEW):
        mean, probs[index] = _loss_and_probs(logits[index], dataset.labels[index])
        loss += mean * (len(index) / count)
    return Evaluation(loss, float((probs.argmax(axis=1) == dataset.labels).mean()), probs, dataset.labels)
