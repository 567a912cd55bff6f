"""Each layer, and a network of them all, beside PyTorch's of the same settings, in float64: outputs and gradients."""

import numpy as np
import pytest

from minires import nn

torch = pytest.importorskip("torch")

CONVOLUTIONS = [
    {"kernel": 3, "stride": 2, "pad": 1, "dilation": 2, "groups": 3, "bias": True},
    {"kernel": (2, 3), "stride": (1, 2), "pad": (3, 1), "dilation": (2, 1), "groups": 2},
    {"kernel": 3, "pad": 1, "groups": 6, "bias": True},
    {"kernel": 3, "pad": 4, "dilation": 4},
]


def convolution(settings, C=6, O=6):
    ours = nn.Conv2d("conv", C, O, **settings).astype(np.float64)
    theirs = {"padding": settings["pad"], **settings, "bias": settings.get("bias", False)}
    theirs = {word: value for word, value in theirs.items() if word not in ("pad", "kernel")}
    return ours, torch.nn.Conv2d(C, O, settings["kernel"], dtype=torch.float64, **theirs)


def layers():
    """(ours, theirs) of everything that has a counterpart there."""
    t = torch.nn
    return [
        *(convolution(settings) for settings in CONVOLUTIONS),
        convolution({"kernel": 3, "pad": 1, "groups": 2}, 6, 10),
        (nn.MaxPool2d("max", 3, 2, 1, dilation=2, ceil_mode=True), t.MaxPool2d(3, 2, 1, 2, ceil_mode=True)),
        (nn.AvgPool2d("avg", 3, 2, 1, ceil_mode=True), t.AvgPool2d(3, 2, 1, ceil_mode=True)),
        (
            nn.AvgPool2d("avg", (3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
            t.AvgPool2d((3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
        ),
        (nn.LeakyReLU("leaky", 0.2), t.LeakyReLU(0.2)),
        (nn.Sigmoid("sigmoid"), t.Sigmoid()),
        (nn.GELU("gelu"), t.GELU()),
        (nn.GroupNorm("groups", 6, 3).astype(np.float64), t.GroupNorm(3, 6, dtype=torch.float64)),
        (nn.LayerNorm("layer", 6).astype(np.float64), ChannelsLast(6)),
        (nn.BatchNorm("batch", 6, unbiased=True).astype(np.float64), t.BatchNorm2d(6, dtype=torch.float64)),
    ]


class ChannelsLast(torch.nn.Module):
    """PyTorch's layer normalisation of the channels of a map (N, C, H, W)."""

    def __init__(self, channels):
        super().__init__()
        self.norm = torch.nn.LayerNorm(channels, dtype=torch.float64)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def copy_weights(ours, theirs):
    """Ours away from where they start, and the same there: grouped kernels are transposed as all others."""
    rng = np.random.default_rng(0)
    for p, there in zip(ours.params(), theirs.parameters(), strict=True):
        p.data = p.data + 0.1 * rng.standard_normal(p.data.shape)
        turned = {4: (3, 2, 0, 1), 2: (1, 0)}.get(p.data.ndim)
        there.data = torch.tensor(p.data.transpose(turned).copy())


def assert_parity(ours, theirs, x, tolerance):
    copy_weights(ours, theirs)
    tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    y, ty = ours(x), theirs(tx)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dx, maps = ours.backward(dy), y.ndim == 4
    ty.backward(torch.tensor(dy.transpose(0, 3, 1, 2) if maps else dy))
    pairs = [(y, ty.detach().numpy().transpose(0, 2, 3, 1) if maps else ty.detach().numpy())]
    pairs.append((dx, tx.grad.numpy().transpose(0, 2, 3, 1)))
    for p, there in zip(ours.params(), theirs.parameters(), strict=True):
        turned = {4: (2, 3, 1, 0), 2: (1, 0)}.get(p.data.ndim)
        pairs.append((p.grad, there.grad.numpy().transpose(turned)))
    for mine, expected in pairs:
        np.testing.assert_allclose(mine, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("index", range(len(layers())), ids=[repr(ours).split("  ")[0] for ours, _ in layers()])
def test_a_layer_is_pytorchs(index):
    ours, theirs = layers()[index]
    assert_parity(ours, theirs, np.random.default_rng(2).standard_normal((3, 11, 10, 6)), 1e-10)


def test_batch_and_layer_normalisation_of_vectors_are_pytorchs():
    x, dy = (np.random.default_rng(seed).standard_normal((5, 6)) for seed in (3, 4))
    for ours, theirs in (
        (nn.BatchNorm("batch", 6, unbiased=True), torch.nn.BatchNorm1d(6, dtype=torch.float64)),
        (nn.LayerNorm("layer", 6), torch.nn.LayerNorm(6, dtype=torch.float64)),
    ):
        ours.astype(np.float64)
        copy_weights(ours, theirs)
        tx = torch.tensor(x, requires_grad=True)
        y, ty = ours(x), theirs(tx)
        ty.backward(torch.tensor(dy))
        np.testing.assert_allclose(y, ty.detach().numpy(), atol=1e-10)
        np.testing.assert_allclose(ours.backward(dy), tx.grad.numpy(), atol=1e-10)
        for p, there in zip(ours.params(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(p.grad, there.grad.numpy(), atol=1e-10)
        for buffer, there in zip(ours.buffers(), theirs.buffers(), strict=False):  # the last one counts batches
            np.testing.assert_allclose(buffer.data, there.numpy(), atol=1e-10)


def test_a_network_of_them_is_pytorchs():
    """A depthwise and a grouped convolution, both kinds of pools, three activations, two norms, a head."""
    t, f8 = torch.nn, {"dtype": torch.float64}
    ours = nn.Sequential(
        nn.Conv2d("stem", 3, 8, 3, stride=2, pad=1),
        nn.BatchNorm("norm", 8, unbiased=True),
        nn.GELU("gelu"),
        nn.MaxPool2d("max", 3, 2, ceil_mode=True),
        nn.Conv2d("depthwise", 8, 8, 3, pad=2, dilation=2, groups=8),
        nn.LayerNorm("layer", 8),
        nn.LeakyReLU("leaky"),
        nn.Conv2d("grouped", 8, 12, 3, pad=1, groups=4, bias=True),
        nn.Sigmoid("sigmoid"),
        nn.AvgPool2d("avg", 2, ceil_mode=True, count_include_pad=False),
        nn.GlobalAvgPool2d("mean"),
        nn.Dense("fc", 12, 5),
    ).astype(np.float64)
    theirs = t.Sequential(
        t.Conv2d(3, 8, 3, 2, 1, bias=False, **f8),
        t.BatchNorm2d(8, **f8),
        t.GELU(),
        t.MaxPool2d(3, 2, ceil_mode=True),
        t.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False, **f8),
        ChannelsLast(8),
        t.LeakyReLU(),
        t.Conv2d(8, 12, 3, padding=1, groups=4, **f8),
        t.Sigmoid(),
        t.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
        t.AdaptiveAvgPool2d(1),
        t.Flatten(),
        t.Linear(12, 5, **f8),
    )
    assert_parity(ours, theirs, np.random.default_rng(5).standard_normal((4, 23, 22, 3)), 1e-8)
