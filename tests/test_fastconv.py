"""The shorter ways to convolve, each against the plain op; how they are chosen; products in pieces."""

import numpy as np
import pytest
from conftest import assert_same, frozen, normal
from hypothesis import assume, given
from hypothesis import strategies as st

from minires import nn, ops
from minires.nn.fastconv import FastConv, Kernels
from minires.ops import fastconv, fused, products, winograd
from minires.ops.conv import output_size
from minires.team import Member

SIDE = st.tuples(st.integers(0, 2), st.integers(0, 2))
PADS = st.one_of(st.sampled_from(["valid", "same"]), st.integers(0, 2), st.tuples(SIDE, SIDE))
DTYPES = st.sampled_from([np.float32, np.float64])


@pytest.fixture(params=[1, 60, 10**6], autouse=True, scope="module")
def pieces(request):
    """A BLAS that packs always, one that spares the smallest products, and OpenBLAS's; few images at a time."""
    monkeypatch = pytest.MonkeyPatch()
    for module in (products, fastconv):
        monkeypatch.setattr(module, "unpacked_product", lambda turned=False: request.param)
    monkeypatch.setattr(fastconv, "WORKSPACE", 2000)
    monkeypatch.setattr(winograd, "WORKSPACE", 4000)
    yield request.param
    monkeypatch.undo()


@st.composite
def convolutions(draw, kernels, strides=(1,), pads=PADS):
    """(dy, x, w, options) with an output."""
    kernel, stride = draw(kernels), draw(st.sampled_from(strides))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 7)))
    N, C, O = draw(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)))
    options = {"stride": stride, "pad": draw(pads)}
    P, Q = output_size(size, kernel, (stride, stride), options["pad"])
    assume(min(P, Q) >= 1)
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(DTYPES)
    arrays = ((N, P, Q, O), (N, *size, C), (*kernel, C, O))
    return *(normal(rng, shape, dtype) for shape in arrays), options


def assert_is_the_convolution(forward, backward, dy, x, w, options):
    """y, dx and dw; and dw written where it is told, dx left out where nobody asks."""
    expected = ops.conv2d_backward(dy, x, w, **options, need_db=False)[:2]
    assert_same(forward(x, w), ops.conv2d_forward(x, w, **options))
    assert_same(backward(dy, x, w, True, None), expected)
    dw = np.full(w.shape, np.nan, w.dtype)
    dx, written = backward(dy, x, w, False, dw)
    assert dx is None
    assert written is dw
    assert_same(dw, expected[1])


@given(case=convolutions(st.tuples(st.integers(1, 4), st.integers(1, 4)), strides=(1, 2, 3)))
def test_tapwise_is_the_convolution(pieces, case):
    stride, pad = case[3]["stride"], case[3]["pad"]
    assert_is_the_convolution(
        lambda x, w: fastconv.tapwise_forward(x, w, stride, pad),
        lambda dy, x, w, need_dx, dw: fastconv.tapwise_backward(dy, x, w, stride, pad, need_dx, dw),
        *case,
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"), [((2, 2), 3, 1, 1), ((1, 1), 3, 1, 1), ((4, 5), 3, 2, 1), ((2, 3), 7, 2, 3)]
)
def test_pairs_of_outputs_and_taps_that_meet_a_pixel(size, kernel, stride, pad):
    x, w = np.ones((1, *size, 1)), np.ones((kernel, kernel, 1, 1))
    y = ops.conv2d_forward(x, w, stride=stride, pad=pad)  # counts the pixels under each output
    pads = ((pad, pad),) * 2
    assert fastconv.tap_pairs(size, y.shape[1:3], (kernel,) * 2, (stride,) * 2, pads) == y.sum()


@given(case=convolutions(st.just((1, 1)), strides=(1, 2, 3), pads=st.just(0)))
def test_pointwise_is_the_convolution(pieces, case):
    stride = case[3]["stride"]
    assert_is_the_convolution(
        lambda x, w: fastconv.pointwise_forward(x, w, stride),
        lambda dy, x, w, need_dx, dw: fastconv.pointwise_backward(dy, x, w, stride, need_dx, dw),
        *case,
    )


@given(case=convolutions(st.tuples(st.integers(1, 4), st.integers(1, 3))))
def test_rowwise_is_the_convolution(pieces, case):
    pad = case[3]["pad"]
    assert_is_the_convolution(
        lambda x, w: fastconv.rowwise_forward(x, w, pad),
        lambda dy, x, w, need_dx, dw: fastconv.rowwise_backward(dy, x, w, pad, need_dx, dw),
        *case,
    )


@pytest.mark.parametrize("m", [2, 4])
@given(case=convolutions(st.just((3, 3))))
def test_winograd_is_the_convolution(pieces, m, case):
    pad = case[3]["pad"]

    def backward(dy, x, w, need_dx, dw):
        dx, dU = winograd.winograd_backward(dy, x, frozen(winograd.kernel_forward(w, m)), pad, need_dx)
        return dx, winograd.kernel_backward(dU, dw)

    assert_is_the_convolution(
        lambda x, w: winograd.winograd_forward(x, winograd.kernel_forward(w, m), pad), backward, *case
    )


@pytest.mark.parametrize(("m", "most"), [(2, 3), (4, 6)])
def test_winograd_rounds_a_few_times_as_much_as_the_plain_sum(m, most, monkeypatch):
    """Norm-relative error in float32 over that of the plain op, on what a convolution behind a ReLU sees."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((4, 12, 12, 64)), 0)
    w = rng.standard_normal((3, 3, 64, 64)) * np.sqrt(2 / (9 * 64))
    exact, narrow = ops.conv2d_forward(x, w, pad=1), (x.astype(np.float32), w.astype(np.float32))

    def error(y):
        assert y.dtype == np.float32
        return np.linalg.norm(y - exact) / np.linalg.norm(exact)

    def ours():
        winograd.matrices.cache_clear()
        return error(winograd.winograd_forward(narrow[0], winograd.kernel_forward(narrow[1], m), 1))

    plain, here = error(ops.conv2d_forward(*narrow, pad=1)), ours()
    assert here < most * plain
    if m == 4:
        monkeypatch.setitem(winograd.POINTS, 4, (0, 1, -1, 2, -2))
        assert ours() > 1.5 * here
        winograd.matrices.cache_clear()


@given(
    st.tuples(st.integers(1, 200), st.integers(1, 7), st.integers(1, 200)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_product_in_pieces_is_the_product(pieces, sizes, turned, into_view, seed):
    M, K, O = sizes
    rng = np.random.default_rng(seed)
    a, b = normal(rng, (M, K)), normal(rng, (O, K)).T if turned else normal(rng, (K, O))
    out = np.full((M, 2 * O), np.nan)[:, :O] if into_view else None
    result = products.product(a, b, out)
    assert out is None or result is out
    np.testing.assert_allclose(result, a @ b, rtol=1e-12, atol=1e-12)


def layer(shape, w_shape, stride=1, pad=1, bias=False):
    """(plain, fast, x, dy) for one shape."""
    rng = np.random.default_rng(3)
    conv = nn.Conv2d("c", *w_shape[2:], w_shape[:2], stride=stride, pad=pad, bias=bias).astype(np.float64)
    x = normal(rng, shape)
    dy = normal(rng, (shape[0], *conv.output_shape(shape[1:])))
    return conv, FastConv(conv, conv.w, conv.b, Kernels()), x, dy


@pytest.mark.parametrize(
    ("way", "shape", "w_shape", "options"),
    [
        ("pointwise", (3, 5, 4, 8), (1, 1, 8, 6), {"pad": 0}),
        ("pointwise", (3, 5, 4, 8), (1, 1, 8, 6), {"pad": "same", "stride": 2, "bias": True}),
        ("direct", (3, 5, 4, 8), (1, 1, 8, 6), {"pad": 1}),
        ("direct", (2, 9, 9, 3), (7, 7, 3, 8), {"pad": 3, "stride": 2}),
        ("direct", (2, 9, 9, 64), (3, 3, 64, 64), {"stride": 2}),
        ("direct", (4, 8, 8, 3), (3, 3, 3, 16), {}),
        ("rowwise", (4, 8, 8, 16), (3, 3, 16, 16), {}),
        (4, (16, 15, 15, 64), (3, 3, 64, 64), {"bias": True}),  # ResNet-50 at 64x64, half of a batch of 32
        (4, (16, 8, 8, 128), (3, 3, 128, 128), {}),
        (2, (16, 4, 4, 256), (3, 3, 256, 256), {}),
        ("tapwise", (16, 2, 2, 512), (3, 3, 512, 512), {"bias": True}),
        ("tapwise", (16, 4, 4, 256), (3, 3, 256, 512), {"stride": 2}),
        (4, (4, 56, 56, 64), (3, 3, 64, 64), {}),
    ],
)
def test_the_way_that_suits_a_shape_gives_the_same(way, shape, w_shape, options):
    plain, fast, x, dy = layer(shape, w_shape, **options)
    assert fast._way(shape) == way
    y = plain.forward(x)
    np.testing.assert_allclose(fast.forward(x), y, rtol=0, atol=1e-11 * np.abs(y).max())
    expected = [plain.backward(dy), *(p.grad.copy() for p in plain.params())]
    for p in plain.params():
        p.grad[...] = np.nan
    for ours, theirs in zip([fast.backward(dy), *(p.grad for p in plain.params())], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * np.abs(theirs).max())


def test_a_kernel_is_transformed_once_a_step():
    w, kernels, alone = nn.Param("w", np.random.default_rng(0).standard_normal((3, 3, 4, 5))), Kernels(), Member(0, 1)
    kernels.weights["w"] = w
    U = kernels.transformed("w", 2)
    np.testing.assert_array_equal(U, winograd.kernel_forward(w.data, 2))
    w.data *= 2
    assert kernels.transformed("w", 2) is U
    kernels.renew(1, alone)
    again = kernels.transformed("w", 2)
    np.testing.assert_array_equal(again, 2 * U)
    kernels.renew(1, alone)  # another thread's call, in the same step
    assert kernels.transformed("w", 2) is again
    kernels.made, kernels.agreed = {}, {("w", 2): np.full_like(U, np.nan)}
    kernels.renew(2, alone)
    np.testing.assert_array_equal(kernels.transformed("w", 2), again)
    assert kernels.nbytes == U.nbytes


@pytest.mark.parametrize("mean", [0, 1, 5, 1e4])
def test_statistics_in_a_pass_less(mean):
    """Float32 against float64 on the same numbers; one channel constant."""
    x = (mean + np.random.default_rng(0).standard_normal((6, 9, 9, 8))).astype(np.float32)
    x[..., 3] = mean
    frozen(x)
    ours, exact = fused.statistics(x), ops.batchnorm_statistics(x.astype(np.float64))
    assert all(v.dtype == np.float32 for v in ours)
    np.testing.assert_allclose(ours[0], exact[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours[1], exact[1], rtol=3e-6, atol=1e-6 * max(1, mean) ** 2 * 1e-7 + 1e-12)
    assert (ours[1] >= 0).all()


def test_statistics_of_what_is_not_finite_are_not_finite():
    x = np.ones((2, 3, 3, 4), np.float32)
    x[0, 0, 0, 1] = np.nan
    with np.errstate(invalid="ignore"):
        assert np.isnan(fused.statistics(x)[0]).tolist() == [False, True, False, False]
