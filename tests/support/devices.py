"""The way to a GPU and back, and a training run small enough to be compared on both devices."""

import numpy as np
from data_helpers import random_set

from minires import backend, resnet
from minires.train import Classifier, Preprocess

TRAIN, TEST = random_set(24, classes=tuple("abcd")), random_set(9, classes=tuple("abcd"), seed=1)
TOLD = ("train_loss", "train_accuracy", "grad_norm", "test_loss", "test_accuracy")


def sent(value):
    """Every array in nested tuples, lists and dicts, on the GPU."""
    return _each(value, np.ndarray, lambda a: backend.to_device(a, "gpu"))


def fetched(value, waiting):
    """The way back; what is not on the GPU where it should be is an error."""

    def fetch(array):
        assert backend.device_of(array) == "gpu"
        return backend.to_numpy(array)

    with waiting():
        return _each(value, object, fetch)


def _each(value, kind, change):
    if isinstance(value, dict):
        return {key: _each(v, kind, change) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_each(v, kind, change) for v in value)
    return change(value) if isinstance(value, kind) and value is not None else value


def small(arch="resnet8", size=8, widths=(3, 4, 5), **options):
    return resnet(arch, (size, size, 3), 4, widths=widths, **options)


def classifier(dtype, device):
    return Classifier(small(dropout=0.2).astype(dtype).to(device), TRAIN.classes, Preprocess())
