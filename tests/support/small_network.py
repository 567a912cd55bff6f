"""A small residual network in float64 and a batch for it: what the tests of the probe and of the tape run."""

import numpy as np

from minires.nn import resnet

LABELS = np.arange(4) % 3


def small(**options):
    """Three stages; the first block's shortcut is an identity."""
    options = {"widths": (4, 6, 8), **options}
    return resnet("resnet8", (12, 12, 3), 3, **options).astype(np.float64)


def batch(n=4):
    return np.random.default_rng(0).standard_normal((n, 12, 12, 3))
