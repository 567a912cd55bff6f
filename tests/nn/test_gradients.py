"""Whole networks in float64: every parameter's gradient and the images' against finite differences."""

import numpy as np
import pytest

from minires import nn, ops, resnet
from minires.nn.resnet import ARCHITECTURES, Architecture

STEP = 1e-7  # small, so that hardly any of the thousands of ReLUs crosses its kink; the loss has nine digits to spare

# bottlenecks, the large stem and its pool in a network small enough to be checked parameter by parameter
TINY = Architecture("bottleneck", (2, 1), (3, 4), "imagenet")
ALL = Architecture(  # what the relatives of ResNet have, together
    "bottleneck", (2, 1), (4, 6), "deep", inner=2, groups=2, reduction=4, average=True, stem_width=4
)

COMBINATIONS = {
    **{f"resnet8-{variant}": ("resnet8", {"variant": variant}) for variant in nn.VARIANTS},
    "preact": ("resnet8", {"preact": True}),
    "plain": ("resnet8", {"skip": False}),
    "plain preact": ("resnet8", {"preact": True, "skip": False}),
    "no norm": ("resnet8", {"norm": False}),
    "no norm, plain": ("resnet8", {"norm": False, "skip": False}),
    "no norm, preact": ("resnet8", {"norm": False, "preact": True}),
    "zero gamma": ("resnet8", {"last_gamma": 0.0}),
    "dropout": ("resnet8", {"dropout": 0.4}),
    "bottleneck, course": ("tiny", {}),
    "bottleneck, v1": ("tiny", {"variant": "v1"}),
    "bottleneck, v1.5": ("tiny", {"variant": "v1.5"}),
    "bottleneck, preact": ("tiny", {"preact": True}),
    "bottleneck, v2": ("tiny", {"variant": "v2"}),
    "option A": ("resnet8", {"shortcut": "A"}),
    "option A, preact": ("resnet8", {"shortcut": "A", "preact": True}),
    "relatives": ("all", {}),
    "relatives, preact": ("all", {"preact": True}),
}


def seeded_forward(model, x):
    """Forward with the same dropout mask each time."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.rng = np.random.default_rng(0)
    return model(x)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    monkeypatch.setitem(ARCHITECTURES, "all", ALL)


def setup(arch, options, training):
    size = {"resnet8": 8, "all": 19}.get(arch, 20)
    model = resnet(arch, (size, size, 3), 4, **options).astype(np.float64).train(training)
    rng = np.random.default_rng(5)
    for p in model.params():  # leave the special points 0 and 1 at which biases, beta and gamma start
        p.data += 0.1 * rng.standard_normal(p.data.shape)
    for buffer in model.buffers():
        buffer.data += 0.3 * rng.random(buffer.data.shape)
    return model, rng.standard_normal((3, size, size, 3)), np.array([0, 3, 1]), rng


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_network_gradients(combination, training):
    """Along a random direction in each parameter, all together, and in the images.

    A step may carry a ReLU or a maximum over its kink: the median of three directions ignores one such. Where
    the true gradient is 0, as that of a bias before a batch normalisation, the error is relative to a
    thousandth of the whole gradient.
    """
    model, x, labels, rng = setup(*COMBINATIONS[combination], training)

    def loss():
        return ops.softmax_cross_entropy_forward(seeded_forward(model, x), labels)[0]

    probs = ops.softmax_cross_entropy_forward(seeded_forward(model, x), labels)[1]
    dx = model.backward(ops.softmax_cross_entropy_backward(probs, labels))
    checks = {p.name: [(p.data, p.grad)] for p in model.params()}
    whole = np.sqrt(sum(np.sum(p.grad**2) for p in model.params()))
    checks |= {"all parameters": [(p.data, p.grad) for p in model.params()], "images": [(x, dx)]}
    for name, arrays in checks.items():
        errors = []
        for _ in range(3):
            directions = [rng.standard_normal(data.shape) for data, _ in arrays]
            values = []
            for factor in (STEP, -2 * STEP, STEP):  # there, to the other side, and back
                for (data, _), direction in zip(arrays, directions, strict=True):
                    data += factor * direction
                values.append(loss())
            numeric = (values[0] - values[1]) / (2 * STEP)
            exact = sum(np.sum(grad * d) for (_, grad), d in zip(arrays, directions, strict=True))
            norm = np.sqrt(sum(np.sum(grad**2) for _, grad in arrays))
            length = np.sqrt(sum(np.sum(d**2) for d in directions))
            errors.append(abs(numeric - exact) / ((norm + 1e-3 * whole) * length))
        assert np.median(errors) < 1e-6, f"{name}: {errors}"


def test_the_check_can_fail():
    """A gradient off by one part in ten thousand is found out."""
    model, x, labels, _ = setup("resnet8", {}, training=True)
    p = model.params()[0]
    probs = ops.softmax_cross_entropy_forward(model(x), labels)[1]
    model.backward(ops.softmax_cross_entropy_backward(probs, labels))
    direction = p.grad / np.linalg.norm(p.grad)
    values = []
    for factor in (STEP, -2 * STEP):
        p.data += factor * direction
        values.append(ops.softmax_cross_entropy_forward(model(x), labels)[0])
    numeric = (values[0] - values[1]) / (2 * STEP)
    assert numeric == pytest.approx(np.linalg.norm(p.grad), rel=1e-6)
    assert numeric != pytest.approx(np.linalg.norm(p.grad) * 1.0001, rel=1e-6)
