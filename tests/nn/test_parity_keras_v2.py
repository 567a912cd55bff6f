"""ResNet50V2 of keras.applications: its sizes, its file, its results and those of a step of training."""

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
pytest.importorskip("tensorflow")
from minires import nn, ops, resnet
from minires.nn.init import undrawn
from minires.weights import export_weights, import_weights

keras = pytest.importorskip("keras")


SIZE, CLASSES = 40, 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "count"),
    [(50, 25_613_800), (101, 44_675_560), (152, 60_380_648)],
)
def test_sizes(depth, count):
    """Keras's own summary of each, counted there as here."""
    with undrawn():
        model = resnet(f"resnet{depth}", (224, 224, 3), 1000, variant="v2")
    assert sum(model.parameter_count()) == count
    twin = getattr(keras.applications, f"ResNet{depth}V2")(weights=None)
    assert twin.count_params() == count
    theirs = {w.path.rpartition("/")[0] for w in twin.weights}
    assert {name.rpartition(".")[0] for name in model.state()} == theirs


@pytest.fixture(scope="module")
def twin():
    """In float64, with biases and running statistics that are not the initial ones."""
    keras.utils.set_random_seed(0)
    keras.backend.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    options = {"input_shape": (SIZE, SIZE, 3), "classes": CLASSES, "classifier_activation": None}
    model = keras.applications.ResNet50V2(weights=None, **options)
    rng = np.random.default_rng(0)
    for w in model.weights:
        if len(w.shape) == 1:
            noise = rng.random(w.shape)
            w.assign(w + 0.2 * (noise if w.path.endswith("variance") else noise - 0.5))
    yield model
    keras.backend.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module", params=["v2.h5", "v2.weights.h5"])
def model(request, twin, tmp_path_factory):
    """Ours, with the weights of the file that Keras saved: with its layers' names, or in its order alone."""
    path = tmp_path_factory.mktemp("keras") / request.param
    twin.save_weights(path) if request.param.endswith(".weights.h5") else twin.save(path)
    with undrawn():
        model = resnet("resnet50", (SIZE, SIZE, 3), CLASSES, variant="v2").astype(np.float64)
    report = import_weights(model, path)
    assert not report.missing
    assert not any("warning" in note for note in report.notes)
    return model


def images():
    return np.random.default_rng(1).standard_normal((2, SIZE, SIZE, 3))


@pytest.mark.slow
def test_evaluation(model, twin):
    with nn.inference(model):
        logits = model(images())
    theirs = np.asarray(twin(images(), training=False))
    np.testing.assert_allclose(logits, theirs, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.slow
def test_step(model, twin):
    """Logits in training mode and every gradient."""
    import tensorflow as tf

    x, labels = images(), np.array([1, 4])
    logits = model.train()(x)
    probs = ops.softmax_cross_entropy_forward(logits, labels)[1]
    model.backward(ops.softmax_cross_entropy_backward(probs, labels), need_dx=False)
    with tf.GradientTape() as tape:
        theirs = twin(x, training=True)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, theirs, from_logits=True))
    np.testing.assert_allclose(logits, np.asarray(theirs), atol=1e-8 * np.abs(theirs).max())
    names = {"w": "kernel", "b": "bias", "gamma": "gamma", "beta": "beta"}
    weights = twin.trainable_weights
    grads = tape.gradient(loss, [w.value for w in weights])
    grads = {w.path: np.asarray(grad) for w, grad in zip(weights, grads, strict=True)}
    whole = np.sqrt(sum(np.sum(np.square(g)) for g in grads.values()))
    for p in model.params():
        layer, _, role = p.name.rpartition(".")
        grad = grads.pop(f"{layer}/{names[role]}")
        assert np.linalg.norm(p.grad - grad) <= 1e-8 * max(np.linalg.norm(grad), 1e-3 * whole), p.name
    assert not grads


@pytest.mark.slow
def test_our_file_loads_in_keras(model, twin, tmp_path):
    export_weights(model, tmp_path / "ours.weights.h5")
    before = [np.array(w) for w in twin.weights]
    for w in twin.weights:
        w.assign(np.zeros(w.shape))
    twin.load_weights(tmp_path / "ours.weights.h5")
    for w, expected in zip(twin.weights, before, strict=True):
        # running statistics that both have updated, each by its own sums, in `test_step`
        np.testing.assert_allclose(np.array(w), expected, rtol=1e-12, atol=1e-15)
