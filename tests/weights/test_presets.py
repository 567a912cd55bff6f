"""The presets against the layers that they are named after, with those layers' own defaults."""

import os

import numpy as np
import pytest

from minires import nn
from minires.weights import PRESETS

SHAPE = (3, 5, 4, 2)


def ours_after(preset, batches):
    layer = nn.BatchNorm("bn", SHAPE[-1], **PRESETS[preset].norm).astype(np.float64)
    for x in batches:
        layer.forward(x)
    return layer


def batches():
    rng = np.random.default_rng(0)
    return [3 + 2 * rng.standard_normal(SHAPE) for _ in range(3)]


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


def test_norm_of_torch():
    """Training output, running statistics after three batches, evaluation output."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(SHAPE[-1]).double()
    for x in batches():
        theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
    ours = ours_after("torch", batches())
    np.testing.assert_allclose(ours.mean.data, theirs.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.var.data, theirs.running_var.numpy(), rtol=1e-12)
    x = torch.tensor(batches()[0].transpose(0, 3, 1, 2))
    for mode in (True, False):
        expected = theirs.train(mode)(x).detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours.train(mode).forward(batches()[0]), expected, atol=1e-12)


def test_norm_of_keras(keras):
    theirs = keras.layers.BatchNormalization(dtype="float64")
    for x in batches():
        theirs(x, training=True)
    ours = ours_after("keras", batches())
    np.testing.assert_allclose(ours.mean.data, np.asarray(theirs.moving_mean), rtol=1e-12)
    np.testing.assert_allclose(ours.var.data, np.asarray(theirs.moving_variance), rtol=1e-12)
    for mode in (True, False):
        expected = np.asarray(theirs(batches()[0], training=mode))
        np.testing.assert_allclose(ours.train(mode).forward(batches()[0]), expected, atol=1e-12)


def test_the_presets_differ():
    """Each convention shows in the numbers: the tests above could fail."""
    keras_, torch_ = ours_after("keras", batches()), ours_after("torch", batches())
    assert np.abs(keras_.mean.data - torch_.mean.data).min() > 0.1
    biased = nn.BatchNorm("bn", SHAPE[-1], **PRESETS["torch"].norm | {"unbiased": False}).astype(np.float64)
    for x in batches():
        biased.forward(x)
    assert np.abs(biased.var.data / torch_.var.data - 1).min() > 1e-3


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 9])
def test_padding_of_keras(keras, kernel, stride, size):
    x = np.random.default_rng(0).standard_normal((1, size, size + 3, 2))
    theirs = keras.layers.Conv2D(3, kernel, stride, padding="same", dtype="float64")
    expected = np.asarray(theirs(x))
    ours = nn.Conv2d("c", 2, 3, kernel, stride=stride, pad=PRESETS["keras"].padding(kernel)).astype(np.float64)
    ours.w.data = np.asarray(theirs.kernel)
    np.testing.assert_allclose(ours.forward(x), expected, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_padding_of_torch(kernel):
    """The convolution of torchvision's networks; at stride 2 it sees other pixels than Keras's."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((1, 8, 10, 2))
    theirs = torch.nn.Conv2d(2, 3, kernel, 2, PRESETS["torch"].padding(kernel), bias=False).double()
    expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
    for preset, same in (("torch", True), ("keras", kernel == 1)):
        ours = nn.Conv2d("c", 2, 3, kernel, stride=2, pad=PRESETS[preset].padding(kernel)).astype(np.float64)
        ours.w.data = theirs.weight.detach().numpy().transpose(2, 3, 1, 0)
        assert np.allclose(ours.forward(x), expected, atol=1e-12) == same
