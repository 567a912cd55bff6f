"""The course's network against the same network in Keras, written independently, with our weights copied over."""

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
pytest.importorskip("tensorflow")
pytest.importorskip("keras")

from minires.benchmarks.peers import keras_course_resnet50

from minires import nn, ops, resnet50

# what Keras calls our names
RENAMED = {
    "w": "kernel",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
}


@pytest.fixture(scope="module")
def networks():
    """Ours, with biases and running statistics that are not the initial ones, and Keras's with the same state."""
    model, twin = resnet50((64, 64, 3), 6), keras_course_resnet50((64, 64, 3), 6)
    rng = np.random.default_rng(0)
    for name, array in model.state().items():
        if name.endswith((".b", ".beta", ".mean")):
            array += 0.1 * rng.standard_normal(array.shape, np.float32)
        elif name.endswith((".gamma", ".var")):
            array += 0.3 * rng.random(array.shape, np.float32)
    copied = set()
    for layer in twin.layers:
        for weight in layer.weights:
            (name,) = (
                f"{layer.name}.{ours}" for ours, theirs in RENAMED.items() if weight.path == f"{layer.name}/{theirs}"
            )
            weight.assign(model.state()[name])
            copied.add(name)
    assert copied == set(model.state())
    return model, twin


def images():
    return np.random.default_rng(1).random((4, 64, 64, 3), np.float32)


def test_sizes(networks):
    model, twin = networks
    assert sum(model.parameter_count()) == twin.count_params()


def test_evaluation(networks):
    model, twin = networks
    with nn.inference(model):
        logits = model(images())
    _, probs = ops.softmax_cross_entropy_forward(logits, np.zeros(4, int))
    np.testing.assert_allclose(probs, np.asarray(twin(images(), training=False)), atol=1e-4)


def test_training_mode_and_its_running_statistics(networks):
    model, twin = networks
    _, probs = ops.softmax_cross_entropy_forward(model.train()(images()), np.zeros(4, int))
    np.testing.assert_allclose(probs, np.asarray(twin(images(), training=True)), atol=1e-4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm):
            theirs = twin.get_layer(module.name)
            scale = np.abs(np.asarray(theirs.moving_mean)).max() + 1
            np.testing.assert_allclose(module.mean.data, np.asarray(theirs.moving_mean), atol=1e-5 * scale)
            np.testing.assert_allclose(module.var.data, np.asarray(theirs.moving_variance), rtol=1e-3)
