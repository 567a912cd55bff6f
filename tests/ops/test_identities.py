"""Exact identities, at the size of the course's ResNet-50: cheap, and true of no wrong backward.

A linear y = A x has <y, dy> = <x, A^T dy> for every x and dy; what is linear in its weights as well has
<y, dy> = <w, dw> too. Here x is what arrives in the network for two images of 64x64, dy is random, all is
float64, and errors are relative to |y| |dy|.
"""

import numpy as np
import pytest
from arrays import normal

from minires import nn, ops, resnet
from minires.geometry import resolve_padding
from minires.instruments.gradcheck.watch import Watch
from minires.ops.conv import col2im, im2col

EXACT = 1e-13
RNG = np.random.default_rng(0)
IMAGES = normal(RNG, (2, 64, 64, 3))


def run(**options):
    """A ResNet-50 with every bias, gamma and beta away from where it starts, and what each module received
    and sent in a forward and a backward pass."""
    model = resnet("resnet50", (64, 64, 3), 6, **options).astype(np.float64)
    if "last_gamma" not in options:
        for p in model.params():
            if not p.decay:
                p.data += 0.2 * RNG.standard_normal(p.data.shape)
    watch = Watch(model)
    watch.begin("record")
    y = model.forward(IMAGES)
    model.backward(normal(RNG, y.shape))
    watch.begin("off")
    return model, watch.calls


@pytest.fixture(scope="module")
def course():
    return run()


def of(kind, course):
    """(layer, the x that arrives there) for every layer of a kind."""
    model, calls = course
    return [(m, calls[m].inputs[0]) for m in model.modules() if type(m) is kind]


def dot(a, b) -> float:
    return float(np.vdot(a, b))


def assert_products(layer, x):
    """<y, dy> = <x, dx> + <b, db> = <w, dw> + <b, db>, each where there is one."""
    y = layer.forward(x)
    dy = normal(RNG, y.shape)
    dx = layer.backward(dy)
    size = np.linalg.norm(y) * np.linalg.norm(dy)
    bias = dot(layer.b.data, layer.b.grad) if getattr(layer, "b", None) else 0.0
    products = {"x": dot(x, dx)} | ({"w": dot(layer.w.data, layer.w.grad)} if hasattr(layer, "w") else {})
    for name, product in products.items():
        error = abs(dot(y, dy) - product - bias) / size
        assert error < EXACT, f"{layer.name}: <y, dy> is not <{name}, d{name}>, off by {error:.1e}"


def test_every_convolution(course):
    layers = of(nn.Conv2d, course)
    assert len(layers) == 53
    for layer, x in layers:
        assert layer.b.data.any()
        assert_products(layer, x)


def test_padding_pools_relus_flatten_and_the_classifier(course):
    """ReLU and max pooling are linear while the same units pass and the same pixels win: dx is that map's adjoint."""
    counts = {nn.ZeroPad2d: 1, nn.MaxPool2d: 1, nn.AvgPool2d: 1, nn.ReLU: 49, nn.Flatten: 1, nn.Dense: 1}
    for kind, count in counts.items():
        layers = of(kind, course)
        assert len(layers) == count
        for layer, x in layers:
            assert_products(layer, x)


@pytest.mark.parametrize("layer", [nn.GlobalAvgPool2d("avg_pool"), nn.MaxPool2d("pool1", 3, 2, 1)])
def test_the_pools_of_the_other_variants(layer):
    assert_products(layer, normal(RNG, (2, 2, 2, 2048) if layer.name == "avg_pool" else (2, 32, 32, 64)))


def test_im2col_and_col2im_are_adjoint_at_every_shape(course):
    shapes = set()
    for layer, x in of(nn.Conv2d, course):
        kernel = layer.w.data.shape[:2]
        (top, bottom), (left, right) = resolve_padding(layer.pad, x.shape[1:3], kernel, layer.stride)
        N, H, W, C = x.shape
        shapes.add(((N, H + top + bottom, W + left + right, C), kernel, layer.stride))
    assert len(shapes) == 16
    for shape, kernel, stride in shapes:
        x = normal(RNG, shape)
        columns = im2col(x, kernel, stride)
        dcolumns = normal(RNG, columns.shape)
        error = abs(dot(columns, dcolumns) - dot(x, col2im(dcolumns, shape, kernel, stride)))
        assert error < EXACT * np.linalg.norm(columns) * np.linalg.norm(dcolumns), (shape, kernel, stride)


@pytest.mark.parametrize("epsilon", [0.0, None], ids=["epsilon 0", "the layer's epsilon"])
def test_every_batch_normalisation(course, epsilon):
    """Over each channel, sum dx = 0 and <dx, x_hat> = gamma rstd dgamma (1 - sum x_hat^2 / m), 0 if epsilon is.

    <gamma, dgamma> + <beta, dbeta> = <y, dy>, since y is linear in both.
    """
    layers = of(nn.BatchNorm, course)
    assert len(layers) == 53
    for layer, x in layers:
        gamma, beta = layer.gamma.data, layer.beta.data
        mean, var = ops.batchnorm_statistics(x)
        rstd = 1 / np.sqrt(var + (layer.epsilon if epsilon is None else epsilon))
        y = ops.batchnorm_forward(x, gamma, beta, mean, rstd)
        dy = normal(RNG, x.shape)
        dx, dgamma, dbeta = ops.batchnorm_backward(dy, x, gamma, mean, rstd)
        rows, x_hat = dx.reshape(-1, dx.shape[-1]), ((x - mean) * rstd).reshape(-1, dx.shape[-1])
        size = np.linalg.norm(rows, axis=0) * np.sqrt(len(rows))
        rest = gamma * rstd * dgamma * (1 - np.square(x_hat).mean(axis=0))
        if epsilon == 0:
            assert np.abs(rest).max() < 1e-9 * size.max(), layer.name
        errors = {"sum dx": rows.sum(axis=0) / size, "<dx, x_hat>": ((rows * x_hat).sum(axis=0) - rest) / size}
        for name, error in errors.items():
            assert np.abs(error).max() < 100 * EXACT, f"{layer.name}: {name} is off by {np.abs(error).max():.1e}"
        error = abs(dot(y, dy) - dot(gamma, dgamma) - dot(beta, dbeta))
        assert error < EXACT * np.linalg.norm(y) * np.linalg.norm(dy), layer.name


def test_at_every_add_node_the_gradients_add_up_to_the_bit(course):
    model, calls = course
    assert len(model.blocks()) == 16
    for block in model.blocks():
        add = calls[block.add]
        assert all(np.array_equal(d, add.dy) for d in add.dx), f"{block.name}: copied to both paths, not divided"
        shortcut = add.dx[1] if block.shortcut == nn.Block.IDENTITY else calls[block.shortcut].dx[0]
        assert np.array_equal(calls[block].dx[0], calls[block.branch].dx[0] + shortcut), block.name


def test_a_block_whose_last_gamma_is_zero_is_its_shortcut_to_the_bit():
    model, calls = run(last_gamma=0.0)
    for block in model.blocks():
        identity = block.shortcut == nn.Block.IDENTITY
        shortcut = calls[block].inputs[0] if identity else calls[block.shortcut].y
        assert np.array_equal(calls[block].y, np.maximum(shortcut, 0)), block.name
        assert not calls[block.branch].y.any(), block.name


@pytest.mark.parametrize("skip", [True, False], ids=["residual", "plain"])
def test_a_network_without_biases_and_norms_scales_with_its_input(skip):
    """y(a x) = a y(x) for a > 0, so that <x, dx> = <y, dy>; in the plain one <w, dw> is that number in every layer."""
    model = resnet("resnet50", (64, 64, 3), 6, variant="v1.5", norm=False, skip=skip).astype(np.float64)
    y = model.forward(IMAGES)
    dy = normal(RNG, y.shape)
    expected = dot(y, dy)
    products = {"x": dot(IMAGES, model.backward(dy))}
    if not skip:
        products |= {p.name: dot(p.data, p.grad) for p in model.params() if p.decay}
        assert len(products) == 51
    for name, product in products.items():
        assert product == pytest.approx(expected, rel=1e-9), name
