"""Convolution as a matrix product (im2col), and zero padding.

Shapes, here and everywhere: x (N, H, W, C), w (R, S, C, O), b (O,), y (N, P, Q, O). In G groups, C / G channels of x
each make O / G of y by themselves, w is (R, S, C / G, O), and the product is one of G matrices side by side.
The im2col formulation: K. Chellapilla, S. Puri, P. Simard, "High Performance Convolutional Neural Networks
for Document Processing", 2006, section 3; arithmetic of sizes: V. Dumoulin, F. Visin, arXiv:1603.07285.
"""

from minires.backend import Array, device_of, get_xp, workspace
from minires.errors import ConfigError, ShapeError
from minires.fast.dispatch import compiled
from minires.geometry import Pad, Pair, output_size, pair, resolve_padding, span, windows_over
from minires.ops.norm import channel_sum

__all__ = [
    "conv2d_backward",
    "conv2d_forward",
    "zero_pad2d_backward",
    "zero_pad2d_forward",
]

# Bytes of columns that one matrix product may take. The batch is walked in pieces of this size, so that a
# large image costs time but never memory. benchmarks/bench_ops.py --workspace measures it.
MAX_WORKSPACE = 2 * 2**20
GPU_WORKSPACE = 2**30  # there, pieces that fit in the cache are no faster


def zero_pad2d_forward(x: Array, pad: Pad) -> Array:
    """y = x with rows and columns of zeros around it; pad as in `resolve_padding`. x itself when there are none."""
    (top, bottom), (left, right) = resolve_padding(pad, x.shape[1:3], (1, 1), (1, 1))
    if not (top or bottom or left or right):
        return x
    N, H, W, C = x.shape
    y = get_xp(x).zeros((N, top + H + bottom, left + W + right, C), x.dtype)
    y[:, top : top + H, left : left + W] = x
    return y


def zero_pad2d_backward(dy: Array, pad: Pad) -> Array:
    """dx: the padding received no input, so its gradient is dropped."""
    (top, bottom), (left, right) = resolve_padding(pad, dy.shape[1:3], (1, 1), (1, 1))
    H, W = dy.shape[1] - top - bottom, dy.shape[2] - left - right
    return dy[:, top : top + H, left : left + W]


def im2col(x: Array, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Array:
    """Every receptive field as a row: (N, H, W, C) -> (N * P * Q, R * S * C), no padding.

    In NHWC a field's row of S pixels lies side by side in memory, so the copy moves S * C numbers at a time, of a
    dilated one C; for a 1x1 kernel with stride 1 there is nothing to copy and the result is a view of x.
    """
    xp = get_xp(x)
    x = xp.ascontiguousarray(x)
    (R, S), (sv, sh), (dv, dh) = kernel, stride, dilation
    N, H, W, C = x.shape
    P, Q = output_size((H, W), kernel, stride, "valid", dilation)
    n, h, w, c = x.strides
    strides = n, h * sv, w * sh, h * dv, w * dh, c
    fields = xp.lib.stride_tricks.as_strided(x, (N, P, Q, R, S, C), strides)
    return fields.reshape(N * P * Q, R * S * C)


def col2im(columns: Array, shape: tuple[int, ...], kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Array:
    """The adjoint of `im2col`: each entry of a row is added back where it was read from."""
    (R, S), (sv, sh), (dv, dh) = kernel, stride, dilation
    N, H, W, C = shape
    P, Q = output_size((H, W), kernel, stride, "valid", dilation)
    fields = columns.reshape(N, P, Q, R, S, C)
    if (R, S, sv, sh) == (1, 1, 1, 1):
        return fields.reshape(shape)
    x = get_xp(columns).zeros(shape, columns.dtype)
    for r in range(R):
        for s in range(S):
            x[:, r * dv : r * dv + sv * P : sv, s * dh : s * dh + sh * Q : sh] += fields[:, :, :, r, s]
    return x


def _image_chunks(x, kernel, stride, dilation):
    """Slices of the batch whose columns fit in the workspace; the whole batch where none are needed."""
    N, H, W, C = x.shape
    if (*kernel, *stride) == (1, 1, 1, 1):
        return [slice(0, N)]
    P, Q = output_size((H, W), kernel, stride, "valid", dilation)
    most = workspace(MAX_WORKSPACE if device_of(x) == "cpu" else GPU_WORKSPACE)
    step = max(1, most // max(1, P * Q * kernel[0] * kernel[1] * C * x.dtype.itemsize))
    return [slice(i, min(i + step, N)) for i in range(0, max(N, 1), step)]  # of an empty batch one, empty


def _by_group(a, groups):
    """(rows, taps, C) -> (G, rows, taps * C / G), of each tap one group's channels; a view for one group or tap."""
    rows, taps, C = a.shape
    parts = a.reshape(rows, taps, groups, C // groups).transpose(2, 0, 1, 3)
    return parts.reshape(groups, rows, taps * (C // groups))


def _side_by_side(a, taps):
    """The way back from `_by_group`."""
    groups, rows, length = a.shape
    return a.reshape(groups, rows, taps, length // taps).transpose(1, 2, 0, 3)


def _product(a, b, out):
    """out (rows, G * n) = a (G, rows, k) b (G, k, n), the groups side by side."""
    if len(a) == 1:
        get_xp(a).matmul(a[0], b[0], out=out)
    else:
        out.reshape(len(out), len(a), b.shape[2]).transpose(1, 0, 2)[...] = a @ b


def _turned(w, groups):
    """The kernel by which dy becomes dx where the stride is 1: turned by 180 degrees, (R, S, O / G, C)."""
    R, S, C, O = w.shape
    parts = w[::-1, ::-1].reshape(R, S, C, groups, O // groups).transpose(0, 1, 4, 3, 2)
    return parts.reshape(R, S, O // groups, groups * C)


def _check_groups(x, w, groups):
    """ShapeError where these channels do not make equal groups of which w knows."""
    C, each, O = x.shape[3], *w.shape[2:]
    if each * groups != C or O % groups:
        raise ShapeError(
            f"convolution: {C} channels in, {O} out and a kernel {w.shape} do not make {groups} equal groups: "
            f"the kernel has (R, S, channels in / groups, channels out)"
        )


def _check_algorithm(name):
    """ConfigError for one that is not im2col, where that is all there is."""
    if name not in (None, "im2col"):
        raise ConfigError(f"convolution: no algorithm {name!r} for these arrays: choose im2col, or leave it out")


@compiled
def conv2d_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Pair = 1,
    pad: Pad = 0,
    dilation: Pair = 1,
    groups: int = 1,
    algorithm: str | None = None,
) -> Array:
    """y[n, p, q, o] = b[o] + sum over r, s, c of x[n, i, j, c] w[r, s, c, o], where cell (r, s) of the window lies on
    i = p * stride + r * dilation - top,  j = q * stride + s * dilation - left.

    x (N, H, W, C), w (R, S, C, O), b (O,) or None -> y (N, P, Q, O), in the dtype of x and w.
    stride, dilation: one number or (vertical, horizontal); dilation: F. Yu, V. Koltun, arXiv:1511.07122.
    groups: output o sees the channels of its own group alone, c counts those, and w is (R, S, C / groups, O); as many
    groups as channels are a depthwise convolution. ShapeError where C or O do not make equal groups.
    algorithm: "im2col", as it reads here, or of the compiled kernels "direct" or "winograd" (for 3x3 kernels with
    stride 1, else direct; A. Lavin, S. Gray, arXiv:1509.09308); by default the kernels choose by shape.
    """
    xp = get_xp(x)
    _check_algorithm(algorithm)
    _check_groups(x, w, groups)
    (R, S, C, O), stride, dilation = w.shape, pair(stride), pair(dilation)
    padded = zero_pad2d_forward(x, resolve_padding(pad, x.shape[1:3], (R, S), stride, dilation))
    P, Q = windows_over("convolution", x.shape[1:3], (R, S), stride, pad, dilation)
    y = xp.empty((x.shape[0], P, Q, O), xp.result_type(x, w))
    kernels = _by_group(w.reshape(R * S * C, 1, O), groups)  # (G, R*S*C/G, O/G)
    bias = None if b is None else xp.tile(b, Q)
    for images in _image_chunks(padded, (R, S), stride, dilation):
        columns = im2col(padded[images], (R, S), stride, dilation)  # (n*P*Q, R*S*C)
        fields = _by_group(columns.reshape(len(columns), R * S, x.shape[3]), groups)  # (G, n*P*Q, R*S*C/G)
        _product(fields, kernels, out=y[images].reshape(-1, O))
        if b is not None:
            y[images].reshape(-1, Q * O)[...] += bias  # whole rows of the map: long inner loops
    return y


@compiled
def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    *,
    stride: Pair = 1,
    pad: Pad = 0,
    dilation: Pair = 1,
    groups: int = 1,
    need_dx: bool = True,
    need_dw: bool = True,
    need_db: bool = True,
    dw: Array | None = None,
    algorithm: str | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """(dx, dw, db) of `conv2d_forward`, each None unless needed. dw is written where one is given.

    With the columns X (recomputed, never kept) the forward is Y = X W + b, so
    dW = X^T dY,  dX = dY W^T (scattered back by col2im),  db = the sum of dY's rows; in groups, each for itself.
    For stride 1 the scatter is itself a convolution: dy, padded, with the kernel turned by 180 degrees. That is
    the faster way where the maps are large beside the kernel, which has to be copied to be turned.
    """
    xp = get_xp(dy)
    _check_algorithm(algorithm)
    _check_groups(x, w, groups)
    (R, S, C, O), stride, dilation = w.shape, pair(stride), pair(dilation)
    (top, bottom), (left, right) = pads = resolve_padding(pad, x.shape[1:3], (R, S), stride, dilation)
    padded = zero_pad2d_forward(x, pads)
    high, wide = span((R, S), dilation)
    fits = stride == (1, 1) and max(R, S) > 1 and max(top, bottom) < high and max(left, right) < wide
    turn = need_dx and fits and dy.size > 4 * O * O
    whole = dw if dw is not None and dw.flags.c_contiguous else xp.empty(w.shape, w.dtype)
    flat, dparts = whole.reshape(R * S * C, O), []
    back = _by_group(w.reshape(R * S * C, 1, O), groups).transpose(0, 2, 1)  # (G, O/G, R*S*C/G)
    for images in _image_chunks(padded, (R, S), stride, dilation):
        rows = dy[images].reshape(-1, O)
        grows = _by_group(rows[:, None], groups)  # (G, n*P*Q, O/G)
        if need_dw:
            columns = im2col(padded[images], (R, S), stride, dilation)
            fields = _by_group(columns.reshape(len(columns), R * S, x.shape[3]), groups).transpose(0, 2, 1)
            if images.start == 0:
                _product(fields, grows, out=flat)
            else:
                flat += _side_by_side(fields @ grows, 1).reshape(flat.shape)
        if need_dx and not turn:
            dcolumns = _side_by_side(grows @ back, R * S)
            dparts.append(col2im(dcolumns, padded[images].shape, (R, S), stride, dilation))
    dx = None
    if turn:
        around = ((high - 1 - top, high - 1 - bottom), (wide - 1 - left, wide - 1 - right))
        dx = conv2d_forward(dy, _turned(w, groups), pad=around, dilation=dilation, groups=groups)
    elif need_dx:
        dpadded = dparts[0] if len(dparts) == 1 else xp.concatenate(dparts)
        dx = zero_pad2d_backward(dpadded, pads)
    if need_dw and dw is not None and dw is not whole:
        dw[...] = whole
    return dx, whole if need_dw else None, channel_sum(dy) if need_db else None
