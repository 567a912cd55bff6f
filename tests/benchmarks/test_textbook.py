"""The textbook network computes what ours computes: logits, loss, every gradient, an update."""

import numpy as np
import pytest
from minires.benchmarks import textbook

from minires import resnet
from minires.ops import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from minires.train import SGD, Adam

# the CIFAR stem and head; the ImageNet stem with both its pools, biases and the 2x2 average pool; no shortcuts
NETWORKS = [
    ("resnet8", 12, {}),
    ("resnet50", 64, {}),
    ("resnet18", 32, {"variant": "v1.5"}),
    ("resnet8", 12, {"skip": False}),
]


def ours_in_their_layout(param, grad):
    return grad.transpose(3, 2, 0, 1) if grad.ndim == 4 else grad


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "size", "options"), NETWORKS)
def test_forward_and_gradients(arch, size, options):
    model = resnet(arch, (size, size, 3), 5, **options).astype(np.float64)
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((3, size, size, 3)), rng.integers(0, 5, 3)
    twin = textbook.like(model)
    logits = twin.forward(x.transpose(0, 3, 1, 2), True)
    loss, dlogits = textbook.cross_entropy(logits, labels)
    twin.backward(dlogits)

    expected = model.forward(x)
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    ours, probs = softmax_cross_entropy_forward(expected, labels)
    np.testing.assert_allclose(loss, ours, rtol=1e-9)
    model.backward(softmax_cross_entropy_backward(probs, labels), need_dx=False)
    pairs, params = twin.params(), model.params()
    assert len(pairs) == len(params) > 10
    scale = max(np.abs(p.grad).max() for p in params)
    for (_, grad), param in zip(pairs, params, strict=True):
        np.testing.assert_allclose(grad, ours_in_their_layout(param, param.grad), rtol=1e-6, atol=1e-9 * scale)

    # the running statistics moved alike, so evaluation agrees too
    expected = model.eval().forward(x)
    inference = twin.forward(x.transpose(0, 3, 1, 2), False)
    np.testing.assert_allclose(inference, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(textbook.Adam(1e-2), Adam), (textbook.Momentum(1e-2), lambda params: SGD(params, momentum=0.9))],
)
def test_three_updates(theirs, ours):
    model = resnet("resnet8", (8, 8, 3), 4).astype(np.float64)
    twin, optimizer = textbook.like(model), ours(model.params())
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((4, 8, 8, 3)), rng.integers(0, 4, 4)
    for _ in range(3):
        loss = textbook.step(twin, x.transpose(0, 3, 1, 2), labels, theirs)
        expected, probs = softmax_cross_entropy_forward(model.forward(x), labels)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        model.backward(softmax_cross_entropy_backward(probs, labels), need_dx=False)
        optimizer.step(1e-2)
    assert expected < 1.0  # it learns the batch: the updates had an effect


def test_float32_stays_float32():
    model = resnet("resnet50", (64, 64, 3), 5)
    twin = textbook.like(model)
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    optimizer = textbook.Adam(1e-3)
    textbook.step(twin, x, np.array([0, 1]), optimizer)
    assert {a.dtype for pair in twin.params() for a in pair} == {np.dtype(np.float32)}
    assert {m.dtype for m in optimizer.m.values()} == {np.dtype(np.float32)}


def test_a_network_that_it_does_not_know():
    with pytest.raises(TypeError, match="post-activation"):
        textbook.like(resnet("resnet8", (8, 8, 3), 4, preact=True))
