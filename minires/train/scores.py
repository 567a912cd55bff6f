"""What answers are worth: an accuracy's interval, top-k, the confusion matrix, whether probabilities can be believed.

labels (N,) are class numbers, probs (N, K) the network's probabilities.
"""

import math
from dataclasses import dataclass

import numpy as np

BINS = 15  # of a reliability diagram, as many as in Guo et al.


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval that holds the true rate with 95 % confidence (z = 1.96); sound for few trials and rates near 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927. Of no trial at
    all it is everything, 0 to 1.
    """
    if not trials:
        return 0.0, 1.0
    rate, weight = successes / trials, z * z / trials
    middle = (rate + weight / 2) / (1 + weight)
    half = z * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def interval_of(accuracy: float, images: int) -> tuple[float, float]:
    """`wilson` of an accuracy that so many images gave."""
    return wilson(round(accuracy * images), images)


def span(interval: tuple[float, float]) -> str:
    """An interval in words: '95 % interval 96.2..99.3 %'."""
    low, high = interval
    return f"95 % interval {100 * low:.1f}..{100 * high:.1f} %"


def with_interval(accuracy: float, interval: tuple[float, float]) -> str:
    """'98.9% (96.7..99.6)', for tables."""
    low, high = interval
    return f"{accuracy:.1%} ({100 * low:.1f}..{100 * high:.1f})"


def top_k(probs, labels, k: int) -> float:
    """The share of images whose class is among the k likeliest; of equal probabilities the lower class number leads."""
    likeliest = np.argsort(-np.asarray(probs), axis=1, kind="stable")[:, :k]
    return float((likeliest == np.asarray(labels)[:, None]).any(axis=1).mean())


def confusion(labels, predictions, classes: int) -> np.ndarray:
    """counts (K, K): how often class i (row) was taken for class j (column)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (np.asarray(labels), np.asarray(predictions)), 1)
    return counts


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram: by bins of the answer's probability, how many images, its mean, and how many are right.

    edges (M + 1,); counts, confidence, accuracy (M,), the latter two NaN where a bin is empty; ece, see `calibration`.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON; a row for each bin that holds images."""
        columns = (self.edges[:-1], self.edges[1:], self.counts, self.confidence, self.accuracy)
        names = ("above", "to", "images", "confidence", "accuracy")
        rows = (dict(zip(names, (value.item() for value in row), strict=True)) for row in zip(*columns, strict=True))
        return {"ece": self.ece, "bins": [row for row in rows if row["images"]]}


def calibration(probs, labels, bins: int = BINS) -> Calibration:
    """How far the network's confidence is from its accuracy: ECE = sum_m |B_m| / N |accuracy(B_m) - confidence(B_m)|.

    B_m are the images whose largest probability lies in ((m - 1) / M, m / M], M the number of `bins`.
    C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599, equations 2 and 3.
    """
    probs, labels = np.asarray(probs, np.float64), np.asarray(labels)
    sure, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    where = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)  # float32 may sum to a bit more than 1
    counts = np.bincount(where, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence, accuracy = (np.bincount(where, each, bins) / counts for each in (sure, right))
    filled = counts > 0
    ece = float((counts * np.abs(accuracy - confidence))[filled].sum() / len(labels))
    return Calibration(edges, counts, confidence, accuracy, ece)
