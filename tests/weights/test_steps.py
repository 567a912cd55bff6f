"""Three steps of training beside PyTorch and beside Keras: weights to 1e-6, running statistics, in float64.

float64, because Adam divides by the gradient's own size: the bias of a convolution before a batch
normalisation has a true gradient of 0, and Adam makes steps of full length from its rounding noise.
"""

import os

import numpy as np
import pytest
from minires.benchmarks.peers import keras_course_resnet50, to_torch, torch_gradients

from minires import nn, ops, resnet
from minires.optim import SGD, Adam
from minires.weights import export_weights

pytestmark = pytest.mark.slow

CLASSES, STEPS, LR = 6, 3, 1e-3
NARROW = {"widths": (4, 6, 8, 10)}
NETWORKS = {
    "course": ("resnet50", NARROW),
    "v1": ("resnet50", {"variant": "v1", **NARROW}),
    "v1.5": ("resnet50", {"variant": "v1.5", **NARROW}),
    "resnet18": ("resnet18", {"variant": "v1.5", **NARROW}),
}


def data(count):
    rng = np.random.default_rng(4)
    return [(rng.standard_normal((count, 64, 64, 3)), rng.integers(0, CLASSES, count)) for _ in range(STEPS)]


def backward(model, x, labels):
    """One forward and backward pass of ours."""
    probs = ops.softmax_cross_entropy_forward(model(x), labels)[1]
    model.backward(ops.softmax_cross_entropy_backward(probs, labels), need_dx=False)


def moved(model, start):
    """How far training took every array: a comparison that passes without any movement shows nothing."""
    return {name: np.abs(a - start[name]).max() for name, a in model.state().items()}


CASES = [(name, rule) for name in NETWORKS for rule in ("adam", "sgd")]


@pytest.mark.parametrize(("name", "rule"), [*CASES, ("course at full size", "adam")])
def test_torch(name, rule):
    torch = pytest.importorskip("torch")
    arch, options = NETWORKS.get(name, ("resnet50", {}))
    model = resnet(arch, (64, 64, 3), CLASSES, **options).astype(np.float64)
    twin = to_torch(model).train()
    start = {n: a.copy() for n, a in model.state().items()}
    if rule == "adam":
        ours, theirs = Adam(model.params()), torch.optim.Adam(twin.parameters(), lr=LR)
    else:
        ours = SGD(model.params(), momentum=0.9, nesterov=True, weight_decay=1e-3, decay_all=True)
        theirs = torch.optim.SGD(twin.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=1e-3)
    for x, labels in data(3):
        backward(model, x, labels)
        ours.step(LR)
        theirs.zero_grad()
        logits = twin(torch.tensor(x.transpose(0, 3, 1, 2)))
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
        theirs.step()
    for p in twin.parameters():  # `torch_gradients` puts what stands in .grad into our layout
        p.grad = p.data
    for parameter, expected in torch_gradients(twin, model).items():
        np.testing.assert_allclose(model.state()[parameter], expected, rtol=0, atol=1e-6, err_msg=parameter)
    change = moved(model, start)
    assert min(change[p.name] for p in model.params() if p.data.ndim > 1) > 1e-5
    if model.config.variant == "v1.5":  # PyTorch's own conventions for the running statistics
        norms = [m for m in twin.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for m, their in zip((m for m in model.modules() if isinstance(m, nn.BatchNorm)), norms, strict=True):
            np.testing.assert_allclose(m.mean.data, their.running_mean.numpy(), rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(m.var.data, their.running_var.numpy(), rtol=1e-6)


@pytest.fixture(scope="module")
def keras_pair(tmp_path_factory):
    """Ours and Keras's course network in float64 at a sixteenth of the width, and the weights from which both start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    model = resnet("resnet50", (64, 64, 3), CLASSES, widths=(4, 8, 16, 32)).astype(np.float64)
    path = tmp_path_factory.mktemp("steps") / "start.weights.h5"
    export_weights(model, path)

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")  # of the optimisers' learning rate too
    keras.config.set_dtype_policy("float64")

    def narrow(layer):
        config = layer.get_config()
        if "filters" in config:
            config["filters"] //= 16
        return type(layer).from_config(config)

    twin = keras.models.clone_model(keras_course_resnet50((64, 64, 3), CLASSES), clone_function=narrow)
    twin.layers[-1].activation = keras.activations.linear  # Keras's loss clips probabilities at 1e-7, but not logits
    yield model, twin, path, {n: a.copy() for n, a in model.state().items()}
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_keras(keras_pair, rule):
    """Keras adds Adam's epsilon before the correction of the second moment: its 1e-7 is 1e-7 / sqrt(1 - b2^t) here.

    Keras takes betas and momentum through float32 on the way: the test uses numbers that float32 has exactly.
    """
    import keras
    import tensorflow as tf

    model, twin, path, start = keras_pair
    twin.load_weights(path)
    for n, a in model.state().items():
        a[...] = start[n]
    if rule == "adam":
        b1, b2 = 1 - 2**-3, 1 - 2**-10
        ours = Adam(model.params(), betas=(b1, b2))
        theirs = keras.optimizers.Adam(LR, beta_1=b1, beta_2=b2)
    else:
        ours, theirs = SGD(model.params(), momentum=0.875), keras.optimizers.SGD(LR, momentum=0.875)
    for step, (x, labels) in enumerate(data(3), start=1):
        if rule == "adam":
            ours.epsilon = 1e-7 / np.sqrt(1 - b2**step)
        backward(model, x, labels)
        ours.step(LR)
        with tf.GradientTape() as tape:
            logits = twin(x, training=True)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        theirs.apply_gradients(
            zip(tape.gradient(loss, twin.trainable_variables), twin.trainable_variables, strict=True)
        )
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Dense | nn.BatchNorm)):
        mine = [v.data for v in layer.params() + layer.buffers()]
        for own, expected in zip(mine, twin.get_layer(layer.name).get_weights(), strict=True):
            scale = max(1, np.abs(expected).max())
            np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6 * scale, err_msg=layer.name)
    change = moved(model, start)
    assert min(change[p.name] for p in model.params() if p.data.ndim > 1) > 1e-5
    assert change["bn_conv1.var"] > 1e-5
