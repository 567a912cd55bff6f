"""What answers are worth, against sums by hand."""

import numpy as np
import pytest
from stripes import TEST, TRAIN, classifier

from minires.train import evaluate
from minires.train.scores import calibration, confusion, interval_of, span, top_k, wilson, with_interval

PROBS = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]])


def test_wilson_interval():
    """Against the values of the literature: 0 of 10 and 81 of 263 (R. Newcombe, Statistics in Medicine 17, 1998)."""
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_the_interval_of_no_trial_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_an_interval_in_words():
    assert interval_of(261 / 264, 264) == wilson(261, 264)
    assert span(wilson(261, 264)) == "95 % interval 96.7..99.6 %"
    assert with_interval(0.9886, wilson(261, 264)) == "98.9% (96.7..99.6)"


@pytest.mark.parametrize(("k", "share"), [(1, 0.25), (2, 0.75), (3, 1.0)])
def test_top_k(k, share):
    assert top_k(PROBS, [0, 0, 1, 1], k) == share


def test_confusion_counts_the_true_class_by_rows():
    assert confusion([0, 0, 1, 2], [0, 2, 1, 1], 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_the_calibration_error_is_that_of_guo():
    """Three images at 0.9 of which two are right, one at 0.6 that is right: (3 |2/3 - 0.9| + |1 - 0.6|) / 4."""
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    found = calibration(probs, [0, 0, 0, 0], bins=10)
    assert found.ece == pytest.approx((3 * abs(2 / 3 - 0.9) + 0.4) / 4)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 3, 0]  # 0.9 belongs to (0.8, 0.9]
    told = found.as_dict()["bins"]
    assert [(row["images"], row["accuracy"]) for row in told] == [(1, 1.0), (3, pytest.approx(2 / 3))]
    assert calibration(np.eye(3, dtype=np.float32), [0, 1, 2]).ece == 0  # sure and right


def test_an_evaluation_tells_all_of_it():
    c = classifier()
    result = evaluate(c, TEST)
    told = result.as_dict(c.classes)
    right = len(TEST) - result.mistakes
    assert told["interval"] == wilson(right, len(TEST))
    assert np.trace(told["confusion"]) == right
    assert told["top"] == {"1": result.accuracy}  # of two classes the second says nothing
    assert [row["images"] for row in told["classes"].values()] == np.bincount(TEST.labels).tolist()
    assert sum(row["images"] for row in told["calibration"]["bins"]) == len(TEST)
    assert TRAIN.classes == tuple(told["classes"])
