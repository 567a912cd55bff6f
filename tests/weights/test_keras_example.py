"""The ResNets of Keras's own example (keras.io, "cifar10_resnet", version 1), built by Keras and read here."""

import os

import h5py
import numpy as np
import pytest

pytestmark = pytest.mark.slow

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402

from minires import nn, resnet  # noqa: E402
from minires.cli import main  # noqa: E402
from minires.train import load_classifier  # noqa: E402
from minires.weights import export_weights, import_weights  # noqa: E402

IMAGES = np.random.default_rng(1).random((4, 32, 32, 3), np.float32)


def resnet_layer(x, filters=16, kernel_size=3, strides=1, activation="relu", batch_normalization=True):
    x = layers.Conv2D(
        filters, kernel_size, strides, padding="same", kernel_initializer="he_normal",
        kernel_regularizer=keras.regularizers.L2(1e-4),
    )(x)  # fmt: skip
    if batch_normalization:
        x = layers.BatchNormalization()(x)
    return x if activation is None else layers.Activation(activation)(x)


def resnet_v1(depth, num_classes=10):
    """Layer by layer as the example has it."""
    inputs = keras.Input((32, 32, 3))
    x, filters = resnet_layer(inputs), 16
    for stack in range(3):
        for block in range((depth - 2) // 6):
            strides = 2 if stack > 0 and block == 0 else 1
            y = resnet_layer(x, filters, strides=strides)
            y = resnet_layer(y, filters, activation=None)
            if stack > 0 and block == 0:
                x = resnet_layer(x, filters, 1, strides, activation=None, batch_normalization=False)
            x = layers.Activation("relu")(layers.add([x, y]))
        filters *= 2
    y = layers.Flatten()(layers.AveragePooling2D(pool_size=8)(x))
    outputs = layers.Dense(num_classes, activation="softmax", kernel_initializer="he_normal")(y)
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for weight in model.weights:  # biases and statistics that are not the initial ones
        if len(weight.shape) == 1:
            weight.assign(np.asarray(weight) + 0.2 * rng.random(weight.shape, np.float32))
    return model


def network(depth, **options):
    return resnet(f"resnet{depth}", (32, 32, 3), 10, variant="keras-example", **options)


def probabilities(model):
    with nn.inference(model):
        logits = model(IMAGES)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def twin():
    resnet_v1(8)  # so that the names begin behind conv2d_8, as in a notebook
    return resnet_v1(20)


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5", "a.keras"])
def test_resnet_20_in_each_of_keras_s_files(twin, name, tmp_path):
    path = tmp_path / name
    twin.save_weights(path) if name == "a.weights.h5" else twin.save(path)
    model = network(20, seed=5)
    report = import_weights(model, path)
    assert set(report.mapped) == set(model.state())
    assert "names are not ours" in report.notes[0]
    np.testing.assert_allclose(probabilities(model), np.asarray(twin(IMAGES, training=False)), atol=1e-5)


def test_keras_counts_as_many_parameters_and_loads_our_file(twin, tmp_path):
    assert sum(network(20).parameter_count()) == twin.count_params() == 274_442
    model = network(20, seed=7)
    export_weights(model, tmp_path / "a.weights.h5")
    other = keras.models.clone_model(twin)
    other.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(np.asarray(other(IMAGES, training=False)), probabilities(model), atol=1e-5)


def test_resnet_56_by_the_command_line(tmp_path, capsys):
    twin = resnet_v1(56)
    twin.save(tmp_path / "cifar10_ResNet56v1_model.h5")
    words = ["--arch", "resnet56", "--variant", "keras-example", "--input", "32", "--classes", "10"]
    file, out = str(tmp_path / "cifar10_ResNet56v1_model.h5"), str(tmp_path / "m.h5")
    assert main(["weights", "import", file, *words, "--out", out]) == 0
    assert "images will be prepared as 'unit'" in capsys.readouterr().out
    model = load_classifier(out).model
    np.testing.assert_allclose(probabilities(model), np.asarray(twin(IMAGES, training=False)), atol=1e-5)


def test_its_training_step_pads_at_the_bottom_as_keras_does(twin):
    """At stride 2 "same" adds its zero below and to the right; the file states strides and epsilon, and they fit."""
    model = network(20)
    strided = next(m for m in model.modules() if m.name == "stack2_block1_conv1")
    assert (strided.stride, strided.pad) == ((2, 2), "same")
    assert {layer.epsilon for layer in twin.layers if hasattr(layer, "epsilon")} == {1e-3}


def test_a_file_with_another_head(twin, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w"):
        pass
    twin.save(tmp_path / "a.h5")
    model = resnet("resnet20", (32, 32, 3), 4, variant="keras-example")
    report = import_weights(model, tmp_path / "a.h5", skip_head=True)
    assert report.missing == ("dense.w", "dense.b")
