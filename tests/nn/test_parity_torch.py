"""Whole networks against PyTorch in float64: logits, every gradient, the running statistics.

float64, because in float32 a ReLU near its kink flips in one library and not in the other, and fifty layers
of such flips leave both a fraction of a percent off the exact gradient.
"""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from minires.benchmarks.peers import to_torch, torch_gradients  # noqa: E402

from minires import nn, ops, resnet  # noqa: E402

CLASSES = 6
NARROW = {"widths": (4, 6, 9, 10)}
NETWORKS = {
    "resnet50, course, full size": ("resnet50", 64, {}),
    "resnet50, v1, full size": ("resnet50", 64, {"variant": "v1"}),
    "resnet18, v1.5, full size": ("resnet18", 64, {"variant": "v1.5"}),
    "resnet8, v1.5": ("resnet8", 16, {}),
    "resnet8, plain": ("resnet8", 16, {"skip": False}),
    "resnet8, preact": ("resnet8", 16, {"preact": True}),
    "resnet50, v1.5, preact": ("resnet50", 64, {"variant": "v1.5", "preact": True, "widths": (4, 6, 8, 10)}),
    "resnet8, no norm": ("resnet8", 16, {"norm": False}),
    "resnet18, course, 2x2 pixels before the classifier": ("resnet18", 128, {"widths": (4, 6, 8, 10)}),
    "resnet8, option A": ("resnet8", 15, {"shortcut": "A"}),
    "resnet18, option A, preact": ("resnet18", 64, {"shortcut": "A", "preact": True, "variant": "v1.5", **NARROW}),
    "resnet18, course, plain": ("resnet18", 64, {"skip": False, "widths": (4, 6, 8, 10)}),
}


def step(model, twin, x, labels):
    """(logits, dx, name -> gradient) of ours and of PyTorch's, for one training step."""
    logits = model(x)
    probs = ops.softmax_cross_entropy_forward(logits, labels)[1]
    dx = model.backward(ops.softmax_cross_entropy_backward(probs, labels))
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    tlogits = twin(tx)
    torch.nn.functional.cross_entropy(tlogits, torch.tensor(labels)).backward()
    theirs = tlogits.detach().numpy(), tx.grad.numpy().transpose(0, 2, 3, 1), torch_gradients(twin, model)
    return (logits, dx, {p.name: p.grad for p in model.params()}), theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(name):
    """The error of a gradient is relative to its norm.

    The bias of a convolution before a batch normalisation has no effect at all; its true gradient is 0 and both
    libraries return rounding noise. That is held, absolutely, below 1e-10 of the norm of its kernel's gradient.
    """
    arch, size, options = NETWORKS[name]
    model = resnet(arch, (size, size, 3), CLASSES, **options).astype(np.float64)
    rng = np.random.default_rng(0)
    for p in model.params():  # biases and betas start at 0, where a forgotten one would not show
        if p.data.ndim == 1:
            p.data += 0.1 * rng.standard_normal(p.data.shape)
    twin = to_torch(model).train()
    x, labels = rng.standard_normal((4, size, size, 3)), rng.integers(0, CLASSES, 4)
    (logits, dx, grads), (tlogits, tdx, tgrads) = step(model, twin, x, labels)

    np.testing.assert_allclose(logits, tlogits, rtol=1e-10, atol=1e-10 * np.abs(tlogits).max())
    assert np.linalg.norm(dx - tdx) <= 1e-8 * np.linalg.norm(tdx)
    assert grads.keys() == tgrads.keys()
    without_effect = {m.b.name for m in model.modules() if followed_by_norm(model, m)}
    for parameter, expected in tgrads.items():
        assert grads[parameter].shape == expected.shape
        if parameter in without_effect:
            kernel = np.linalg.norm(tgrads[parameter.removesuffix(".b") + ".w"])
            assert max(np.linalg.norm(grads[parameter]), np.linalg.norm(expected)) <= 1e-10 * kernel, parameter
        else:
            error = np.linalg.norm(grads[parameter] - expected)
            assert error <= 1e-8 * np.linalg.norm(expected), f"{parameter}: {error / np.linalg.norm(expected)}"


def followed_by_norm(model, module):
    """Whether this is a convolution with a bias whose output goes straight into a batch normalisation."""
    if not isinstance(module, nn.Conv2d) or module.b is None:
        return False
    chains = [m.layers for m in model.modules() if isinstance(m, nn.Sequential)]
    return any(a is module and isinstance(b, nn.BatchNorm) for chain in chains for a, b in pairwise(chain))


def test_running_statistics_and_evaluation():
    """Two training steps' worth of running statistics (the variance unbiased, as PyTorch has it), then evaluation."""
    model = resnet("resnet18", (32, 32, 3), CLASSES, variant="v1.5", widths=(4, 6, 8, 10)).astype(np.float64)
    twin = to_torch(model).train()
    rng = np.random.default_rng(0)
    for _ in range(2):
        x = rng.standard_normal((3, 32, 32, 3)) + 1
        model(x)
        twin(torch.tensor(x.transpose(0, 3, 1, 2)))
    norms = [m for m in twin.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ours = [m for m in model.modules() if isinstance(m, nn.BatchNorm)]
    for ours_, theirs in zip(ours, norms, strict=True):
        np.testing.assert_allclose(ours_.mean.data, theirs.running_mean.numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours_.var.data, theirs.running_var.numpy(), rtol=1e-9)
    with nn.inference(model), torch.no_grad():
        logits, expected = model(x), twin.eval()(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def test_float32_is_as_exact_as_torch():
    """The full course network in the precision it trains in, both held against float64."""
    model = resnet("resnet50", (64, 64, 3), CLASSES)
    x = np.random.default_rng(0).standard_normal((4, 64, 64, 3), np.float32)
    with torch.no_grad():
        theirs = to_torch(model).train()(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    ours = model(x)
    exact = model.astype(np.float64)(x.astype(np.float64))
    assert ours.dtype == np.float32
    assert np.linalg.norm(ours - exact) <= 3 * np.linalg.norm(theirs - exact) + 1e-6 * np.linalg.norm(exact)
