"""Networks of every kind, and a batch for each: what a fast path is held against."""

import numpy as np

from minires import resnet

NETWORKS = [
    ("resnet8", (16, 16, 3), {}),
    ("resnet20", (16, 16, 3), {}),
    ("resnet14", (12, 20, 3), {"preact": True}),
    ("resnet14", (16, 16, 3), {"skip": False}),
    ("resnet14", (16, 16, 3), {"norm": False}),
    ("resnet14", (16, 16, 3), {"variant": "course"}),
    ("resnet18", (64, 64, 3), {"variant": "v1.5", "widths": (8, 16, 24, 32)}),
    ("resnet50", (64, 64, 3), {"variant": "course", "widths": (8, 8, 16, 16)}),
    ("resnet50", (64, 64, 3), {"variant": "v1", "preact": True, "widths": (8, 8, 16, 16)}),
    ("resnet50", (64, 64, 3), {"variant": "v2", "widths": (8, 8, 16, 16)}),
    ("resnet14", (15, 16, 3), {"shortcut": "A"}),
    ("resnet14", (16, 16, 3), {"shortcut": "A", "preact": True}),
    ("resnet50d", (47, 48, 3), {"widths": (8, 8, 16, 16)}),
    ("se_resnet50", (48, 48, 3), {"widths": (8, 8, 16, 16)}),
    ("resnext50_32x4d", (48, 48, 3), {"widths": (16, 16, 16, 16)}),
    ("wide_resnet28_10", (16, 16, 3), {"widths": (8, 12, 16)}),
]


def network(arch, shape, options, dtype=np.float64):
    """A network that is not at its start: gammas, betas, biases and running statistics of some training."""
    model, rng = resnet(arch, shape, 4, **options).astype(dtype), np.random.default_rng(5)
    for p in model.params():
        p.data += rng.normal(0, 0.05, p.data.shape)
    for b in model.buffers():
        b.data += rng.uniform(0, 0.3, b.data.shape)
    return model


def batch(shape, n=5, dtype=np.float64):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, *shape)).astype(dtype), rng.integers(0, 4, n)
