"""A data set and a recipe with which training takes a second: horizontal against vertical stripes."""

import os
import signal

import numpy as np

from minires import resnet
from minires.data import ArrayDataset, Augment
from minires.train import Classifier, Recipe
from minires.train.progress import Reporter


def stripes(count, seed, size=8):
    """Horizontal against vertical stripes: separable, and small enough for a second of training."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    phase = rng.integers(0, 4, count)
    wave = (np.arange(size)[None, :] + phase[:, None]) % 4 < 2
    rows = np.broadcast_to(wave[:, :, None], (count, size, size))
    images = np.where(labels[:, None, None] == 0, rows, rows.transpose(0, 2, 1))[..., None]
    noisy = 200 * images + rng.integers(0, 56, (count, size, size, 3))
    return ArrayDataset(noisy.astype(np.uint8), labels, ("rows", "columns"))


TRAIN, TEST = stripes(72, 0), stripes(20, 1)
RECIPE = Recipe(epochs=3, batch_size=16, optimizer="sgd", augment=Augment(rotate=0, scale=0))


def classifier(seed=0, **options):
    model = resnet("resnet8", (8, 8, 3), 2, seed=seed, widths=(4, 8, 16), **options)
    return Classifier.for_data(model, TRAIN)


def weights(c):
    return {name: array.copy() for name, array in c.model.state().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class StopAfter(Reporter):
    """Presses Ctrl-C after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self, progress):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
