"""Convolution as a matrix product (im2col), and zero padding.

Shapes, here and everywhere: x (N, H, W, C), w (R, S, C, O), b (O,), y (N, P, Q, O).
The im2col formulation: K. Chellapilla, S. Puri, P. Simard, "High Performance Convolutional Neural Networks
for Document Processing", 2006, section 3; arithmetic of sizes: V. Dumoulin, F. Visin, arXiv:1603.07285.
"""

from minires.backend import Array, device_of, get_xp, workspace
from minires.errors import ConfigError
from minires.fast.dispatch import compiled
from minires.geometry import Pad, Pair, output_size, pair, resolve_padding, windows_over
from minires.ops.norm import channel_sum

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


def im2col(x: Array, kernel: Pair, stride: Pair) -> Array:
    """Every receptive field as a row: (N, H, W, C) -> (N * P * Q, R * S * C), no padding.

    In NHWC a field's row of S pixels lies side by side in memory, so the copy moves S * C numbers at a time;
    for a 1x1 kernel with stride 1 there is nothing to copy and the result is a view of x.
    """
    xp = get_xp(x)
    x = xp.ascontiguousarray(x)
    (R, S), (sv, sh) = kernel, stride
    N, H, W, C = x.shape
    P, Q = output_size((H, W), kernel, stride, "valid")
    n, h, w, c = x.strides
    fields = xp.lib.stride_tricks.as_strided(x, (N, P, Q, R, S * C), (n, h * sv, w * sh, h, c))
    return fields.reshape(N * P * Q, R * S * C)


def col2im(columns: Array, shape: tuple[int, ...], kernel: Pair, stride: Pair) -> Array:
    """The adjoint of `im2col`: each entry of a row is added back where it was read from."""
    (R, S), (sv, sh) = kernel, stride
    N, H, W, C = shape
    P, Q = output_size((H, W), kernel, stride, "valid")
    fields = columns.reshape(N, P, Q, R, S, C)
    if (R, S, sv, sh) == (1, 1, 1, 1):
        return fields.reshape(shape)
    x = get_xp(columns).zeros(shape, columns.dtype)
    for r in range(R):
        for s in range(S):
            x[:, r : r + sv * P : sv, s : s + sh * Q : sh] += fields[:, :, :, r, s]
    return x


def _image_chunks(x, kernel, stride):
    """Slices of the batch whose columns fit in the workspace; the whole batch where none are needed."""
    N, H, W, C = x.shape
    if (*kernel, *stride) == (1, 1, 1, 1):
        return [slice(0, N)]
    P, Q = output_size((H, W), kernel, stride, "valid")
    most = workspace(MAX_WORKSPACE if device_of(x) == "cpu" else GPU_WORKSPACE)
    step = max(1, most // max(1, P * Q * kernel[0] * kernel[1] * C * x.dtype.itemsize))
    return [slice(i, min(i + step, N)) for i in range(0, max(N, 1), step)]  # of an empty batch one, empty


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
    algorithm: str | None = None,
) -> Array:
    """y[n, p, q, o] = b[o] + sum over r, s, c of x[n, p*stride + r - top, q*stride + s - left, c] w[r, s, c, o]

    x (N, H, W, C), w (R, S, C, O), b (O,) or None -> y (N, P, Q, O), in the dtype of x and w.
    algorithm: "im2col", as it reads here, or of the compiled kernels "direct" or "winograd" (for 3x3 kernels with
    stride 1, else direct; A. Lavin, S. Gray, arXiv:1509.09308); by default the kernels choose by shape.
    """
    xp = get_xp(x)
    _check_algorithm(algorithm)
    (R, S, C, O), stride = w.shape, pair(stride)
    padded = zero_pad2d_forward(x, resolve_padding(pad, x.shape[1:3], (R, S), stride))
    P, Q = windows_over("convolution", x.shape[1:3], (R, S), stride, pad)
    y = xp.empty((x.shape[0], P, Q, O), xp.result_type(x, w))
    flat = w.reshape(R * S * C, O)
    bias = None if b is None else xp.tile(b, Q)
    for images in _image_chunks(padded, (R, S), stride):
        columns = im2col(padded[images], (R, S), stride)  # (n*P*Q, R*S*C)
        xp.matmul(columns, flat, out=y[images].reshape(-1, O))
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
    need_dx: bool = True,
    need_dw: bool = True,
    need_db: bool = True,
    dw: Array | None = None,
    algorithm: str | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """(dx, dw, db) of `conv2d_forward`, each None unless needed. dw is written where one is given.

    With the columns X (recomputed, never kept) the forward is Y = X W + b, so
    dW = X^T dY,  dX = dY W^T (scattered back by col2im),  db = the sum of dY's rows.
    For stride 1 the scatter is itself a convolution: dy, padded, with the kernel turned by 180 degrees. That is
    the faster way where the maps are large beside the kernel, which has to be copied to be turned.
    """
    xp = get_xp(dy)
    _check_algorithm(algorithm)
    (R, S, C, O), stride = w.shape, pair(stride)
    (top, bottom), (left, right) = pads = resolve_padding(pad, x.shape[1:3], (R, S), stride)
    padded = zero_pad2d_forward(x, pads)
    fits = stride == (1, 1) and max(R, S) > 1 and max(top, bottom) < R and max(left, right) < S
    turn = need_dx and fits and dy.size > 4 * O * O
    whole = dw if dw is not None and dw.flags.c_contiguous else xp.empty(w.shape, w.dtype)
    flat, dparts = whole.reshape(R * S * C, O), []
    for images in _image_chunks(padded, (R, S), stride):
        rows = dy[images].reshape(-1, O)
        if need_dw:
            columns = im2col(padded[images], (R, S), stride)
            if images.start == 0:
                xp.matmul(columns.T, rows, out=flat)
            else:
                flat += columns.T @ rows
        if need_dx and not turn:
            dcolumns = rows @ w.reshape(R * S * C, O).T
            dparts.append(col2im(dcolumns, padded[images].shape, (R, S), stride))
    dx = None
    if turn:
        around = ((R - 1 - top, R - 1 - bottom), (S - 1 - left, S - 1 - right))
        dx = conv2d_forward(dy, w[::-1, ::-1].transpose(0, 1, 3, 2), pad=around)
    elif need_dx:
        dpadded = dparts[0] if len(dparts) == 1 else xp.concatenate(dparts)
        dx = zero_pad2d_backward(dpadded, pads)
    if need_dw and dw is not None and dw is not whole:
        dw[...] = whole
    return dx, whole if need_dw else None, channel_sum(dy) if need_db else None
