"""Convolution and zero padding: against the loops, against finite differences, and by exact identities."""

import numpy as np
import pytest
from arrays import assert_gradients, assert_same, frozen, normal
from hypothesis import assume, given
from hypothesis import strategies as st

from minires import ops
from minires.errors import ShapeError
from minires.ops import conv, naive

SMALL = st.integers(0, 2)
PADS = st.one_of(
    st.sampled_from(["valid", "same"]),
    SMALL,
    st.tuples(SMALL, SMALL),
    st.tuples(st.tuples(SMALL, SMALL), st.tuples(SMALL, SMALL)),
)
DTYPES = st.sampled_from([np.float32, np.float64])


@st.composite
def convolutions(draw, pads=PADS, dtypes=DTYPES):
    """(x, w, b, dy, options) of a convolution that has an output, half in one group; b is None half the time."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    stride = draw(st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))))
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 6)))
    N, C, O = draw(st.tuples(*[st.integers(1, 3)] * 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    dilation = draw(st.sampled_from([1, 1, 2, (1, 2), (3, 1)]))
    options = {"stride": stride, "pad": draw(pads), "dilation": dilation, "groups": groups}
    P, Q = conv.output_size(size, kernel, conv.pair(stride), options["pad"], dilation)
    assume(min(P, Q) >= 1)
    rng, dtype = np.random.default_rng(draw(st.integers(0, 2**32))), draw(dtypes)
    x, w = normal(rng, (N, *size, groups * C), dtype), normal(rng, (*kernel, C, groups * O), dtype)
    b = normal(rng, groups * O, dtype) if draw(st.booleans()) else None
    return x, w, b, normal(rng, (N, P, Q, groups * O), dtype), options


@given(convolutions())
def test_convolution_is_the_loops(case):
    x, w, b, dy, options = case
    assert_same(ops.conv2d_forward(x, w, b, **options), naive.conv2d_forward(x, w, b, **options))
    assert_same(ops.conv2d_backward(dy, x, w, **options), naive.conv2d_backward(dy, x, w, **options))


@given(convolutions(dtypes=st.just(np.float64)))
def test_convolution_gradients(case):
    x, w, b, dy, options = case
    dx, dw, db = ops.conv2d_backward(dy, x, w, **options, need_db=b is not None)
    tensors, gradients = ([x, w], [dx, dw]) if b is None else ([x, w, b], [dx, dw, db])
    assert_gradients(lambda *t: ops.conv2d_forward(*t, **options), tensors, gradients, dy)


@given(convolutions(dtypes=st.just(np.float64)))
def test_a_convolution_without_bias_is_linear_in_both_arguments(case):
    """<y, dy> = <x, dx> = <w, dw>, for every dy."""
    x, w, _, dy, options = case
    y = ops.conv2d_forward(x, w, **options)
    dx, dw, db = ops.conv2d_backward(dy, x, w, **options, need_db=False)
    size = np.linalg.norm(y) * np.linalg.norm(dy) + 1
    assert db is None
    assert abs(np.sum(y * dy) - np.sum(x * dx)) < 1e-12 * size
    assert abs(np.sum(y * dy) - np.sum(w * dw)) < 1e-12 * size


@given(convolutions(pads=st.just("valid"), dtypes=st.just(np.float64)))
def test_im2col_and_col2im_are_adjoint(case):
    """<im2col(x), z> = <x, col2im(z)>."""
    x, w, _, _, options = case
    window = w.shape[:2], conv.pair(options["stride"]), conv.pair(options["dilation"])
    columns = conv.im2col(x, *window)
    z = normal(np.random.default_rng(1), columns.shape)
    assert columns.shape[1] == w.shape[0] * w.shape[1] * x.shape[3]
    assert np.sum(columns * z) == pytest.approx(np.sum(x * conv.col2im(z, x.shape, *window)), abs=1e-10)


@given(convolutions())
def test_the_input_gradient_is_left_out_on_request(case):
    x, w, _, dy, options = case
    with_dx, without = (ops.conv2d_backward(dy, x, w, **options, need_dx=need) for need in (True, False))
    assert without[0] is None
    assert_same(without[1:], with_dx[1:])


@given(convolutions())
def test_the_kernels_gradient_is_left_out_on_request(case):
    x, w, _, dy, options = case
    for backward in (ops.conv2d_backward, ops.conv2d_backward.as_read):
        dx, dw, db = backward(dy, x, w, **options, need_dw=False)
        assert dw is None
        expected = backward(dy, x, w, **options)
        assert_same((dx, db), expected[::2])


@given(convolutions())
def test_small_workspace_changes_nothing(case):
    """One image at a time gives what the whole batch gives."""
    x, w, b, dy, options = case
    forward, backward = ops.conv2d_forward(x, w, b, **options), ops.conv2d_backward(dy, x, w, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "MAX_WORKSPACE", 1)
        assert_same(ops.conv2d_forward(x, w, b, **options), forward)
        assert_same(ops.conv2d_backward(dy, x, w, **options), backward)


def test_the_workspace_bounds_the_columns(monkeypatch):
    """No call of im2col makes more columns than MAX_WORKSPACE bytes, as long as one image fits."""
    made = []
    monkeypatch.setattr(conv, "im2col", lambda *a, original=conv.im2col: made.append(original(*a)) or made[-1])
    x, w = np.ones((7, 6, 6, 2)), np.ones((3, 3, 2, 1))
    one_image = 4 * 4 * 3 * 3 * 2 * 8
    monkeypatch.setattr(conv, "MAX_WORKSPACE", 2 * one_image + 1)
    ops.conv2d_forward.as_read(x, w)
    assert [columns.nbytes // one_image for columns in made] == [2, 2, 2, 1]


@given(convolutions())
def test_strided_and_broadcast_arrays_are_fine(case):
    """What reaches a layer may be a view: a slice of a larger batch, or one number broadcast."""
    x, w, b, dy, options = case
    channels_first = frozen(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    assert_same(ops.conv2d_forward(channels_first, w, b, **options), ops.conv2d_forward(x, w, b, **options))
    one = np.broadcast_to(dy[:, :1, :1], dy.shape)
    assert_same(ops.conv2d_backward(one, channels_first, w, **options), naive.conv2d_backward(one, x, w, **options))


@given(convolutions())
def test_a_strided_array_for_the_gradient_is_written(case):
    x, w, _, dy, options = case
    dw = np.full(w.shape[::-1], np.nan, w.dtype).T
    expected = naive.conv2d_backward(dy, x, w, **options)
    for backward in (ops.conv2d_backward, ops.conv2d_backward.as_read):
        dw[...] = np.nan
        assert_same(backward(dy, x, w, **options, dw=dw), expected)
        assert_same(dw, expected[1])
    with pytest.raises(ValueError, match="read-only"):
        ops.conv2d_backward(dy, x, w, **options, dw=frozen(dw))


@pytest.mark.parametrize("pad", ["valid", 0, ((0, 0), (0, 1))])
def test_a_map_smaller_than_the_window_is_refused(pad):
    x, w = np.ones((2, 2, 2, 3)), np.ones((3, 3, 3, 4))
    message = "convolution: the map of 2x2 that arrives is smaller than the window"
    for forward in (ops.conv2d_forward, ops.conv2d_forward.as_read):
        with pytest.raises(ShapeError, match=message):
            forward(x, w, pad=pad)
    with pytest.raises(ShapeError, match="smaller than the window"):
        naive.conv2d_forward(x, w, pad=pad)


@given(convolutions())
def test_same_means_one_output_a_stride(case):
    x, w, _, _, options = case
    y = ops.conv2d_forward(x, w, **{**options, "pad": "same"})
    sv, sh = conv.pair(options["stride"])
    assert y.shape[1:3] == (-(-x.shape[1] // sv), -(-x.shape[2] // sh))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(convolutions())
def test_convolution_is_that_of_torch(case):
    torch = pytest.importorskip("torch")
    x, w, b, dy, options = case
    tx, tw, tdy = (
        torch.from_numpy(array.transpose(axes).copy())
        for array, axes in ((x, (0, 3, 1, 2)), (w, (3, 2, 0, 1)), (dy, (0, 3, 1, 2)))
    )
    tx.requires_grad_()
    tw.requires_grad_()
    stride, dilation, groups = conv.pair(options["stride"]), conv.pair(options["dilation"]), options["groups"]
    if options["pad"] == "same" and stride == (1, 1):  # PyTorch knows "same" for stride 1 alone
        padded, pad = tx, "same"
    else:
        steps = w.shape[:2], stride, dilation
        (top, bottom), (left, right) = conv.resolve_padding(options["pad"], x.shape[1:3], *steps)
        padded, pad = torch.nn.functional.pad(tx, (left, right, top, bottom)), 0
    tb = None if b is None else torch.tensor(b)
    ty = torch.nn.functional.conv2d(padded, tw, tb, stride, pad, dilation, groups)
    ty.backward(tdy)
    dx, dw, _ = ops.conv2d_backward(dy, x, w, **options)
    assert_same(ops.conv2d_forward(x, w, b, **options), ty.detach().numpy().transpose(0, 2, 3, 1))
    assert_same(dx, tx.grad.numpy().transpose(0, 2, 3, 1))
    assert_same(dw, tw.grad.numpy().transpose(2, 3, 1, 0))


@given(convolutions())
def test_a_group_sees_its_own_channels_alone(case):
    """Each as a convolution by itself."""
    x, w, _, dy, options = case
    groups, alone = options["groups"], {**options, "groups": 1}
    xs, ws, dys = (np.split(a, groups, axis=-1) for a in (x, w, dy))
    forward = [ops.conv2d_forward(*own, **alone) for own in zip(xs, ws, strict=True)]
    assert_same(ops.conv2d_forward(x, w, **options), np.concatenate(forward, axis=-1))
    backward = [ops.conv2d_backward(*own, **alone) for own in zip(dys, xs, ws, strict=True)]
    together = tuple(np.concatenate(parts, axis=-1) for parts in zip(*backward, strict=True))
    assert_same(ops.conv2d_backward(dy, x, w, **options), together)


@given(convolutions())
def test_a_dilated_kernel_is_one_with_zeros_between_its_cells(case):
    x, w, b, dy, options = case
    dv, dh = conv.pair(options["dilation"])
    wide = np.zeros((*conv.span(w.shape[:2], (dv, dh)), *w.shape[2:]), w.dtype)
    wide[::dv, ::dh] = w
    plain = {**options, "dilation": 1}
    assert_same(ops.conv2d_forward(x, w, b, **options), ops.conv2d_forward(x, wide, b, **plain))
    dx, dw, db = ops.conv2d_backward(dy, x, wide, **plain)
    assert_same(ops.conv2d_backward(dy, x, w, **options), (dx, dw[::dv, ::dh], db))


@pytest.mark.parametrize(("C", "each", "O", "groups"), [(6, 6, 4, 2), (6, 3, 5, 2), (5, 2, 4, 2), (4, 4, 6, 3)])
def test_channels_that_do_not_make_the_groups_are_refused(C, each, O, groups):
    x, w, dy = np.ones((1, 3, 3, C)), np.ones((1, 1, each, O)), np.ones((1, 3, 3, O))
    message = rf"convolution: {C} channels in, {O} out and a kernel .* do not make {groups} equal groups"
    for forward in (ops.conv2d_forward, ops.conv2d_forward.as_read):
        with pytest.raises(ShapeError, match=message):
            forward(x, w, groups=groups)
    with pytest.raises(ShapeError, match=message):
        ops.conv2d_backward(dy, x, w, groups=groups)


@given(convolutions())
def test_zero_padding(case):
    x, _, _, _, options = case
    y = ops.zero_pad2d_forward(x, options["pad"])
    assert_same(y, naive.zero_pad2d_forward(x, options["pad"]))
    dy = normal(np.random.default_rng(2), y.shape, x.dtype)
    assert_same(ops.zero_pad2d_backward(dy, options["pad"]), naive.zero_pad2d_backward(dy, options["pad"]))


def test_no_padding_copies_nothing():
    x = normal(np.random.default_rng(3), (1, 2, 2, 1))
    assert ops.zero_pad2d_forward(x, 0) is x


def test_unknown_padding_name():
    with pytest.raises(ShapeError, match=r"unknown padding 'full'.*'valid', 'same'"):
        ops.conv2d_forward(np.ones((1, 3, 3, 1)), np.ones((2, 2, 1, 1)), pad="full")
