"""The ops of a training step as CUDA kernels, for CuPy arrays; reading this file is optional.

The same results as the plain ops, which run on CuPy too (the tests hold them equal), with passes over memory merged:
a normalisation, the residual add and ReLU are one kernel, columns are copied once with the padding inside, and a
whole optimiser is one walk over its flat buffers. The source is kernels.cu, compiled on first use. Every matrix
product is cuBLAS's. Nothing waits for the GPU, and the same input gives the same bits: no sum depends on timing.
"""

from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from minires.backend import get_xp, to_device, workspace
from minires.errors import ShapeError
from minires.fast.gpu.cublas import matmul
from minires.geometry import output_size, pair, pool_window, resolve_padding, windows_over

MAX_WORKSPACE = 2**30  # bytes of columns; pieces that fit in the cache are no faster
THREADS = 256  # of a block, as in kernels.cu
BLOCKS = 528  # four for each of an H100's multiprocessors; more do the same work in smaller pieces
NULL = np.uintp(0)  # where a kernel takes an array or none


def available(x) -> bool:
    """Whether kernels can be compiled for the array `x`: it is CuPy's, in float32 or float64."""
    return hasattr(get_xp(x), "RawModule") and x.dtype.char in "fd"


def takes(args) -> bool:
    """Whether kernels take these: the first an array that is not empty, of what an int can count, all of one type."""
    first = args[0]
    types = {a.dtype for a in args if hasattr(a, "dtype")}
    return hasattr(first, "size") and 0 < first.size < 2**31 and len(types) == 1 and available(first)


@cache
def _kernel(xp, name: str, real: str, width: int):
    return _module(xp, real, width).get_function(name)


@cache
def _module(xp, real, width):
    source = Path(__file__).with_suffix(".cu").read_text()
    return xp.RawModule(code=source, options=("--std=c++17", f"-DREAL={real}", f"-DWIDTH={width}"))


def _launch(name, grid, block, like, width, *args):
    """Start a kernel on the device and stream of now; arguments are arrays and NumPy's numbers."""
    real = {"f": "float", "d": "double"}[like.dtype.char]
    _kernel(get_xp(like), name, real, width)(grid, block, args)


def _width(channels: int, dtype) -> int:
    """Channels that a thread takes together: 16 bytes of them, or one."""
    width = 16 // dtype.itemsize
    return width if channels % width == 0 else 1


def _blocks(items: int) -> int:
    return min(-(-items // THREADS), 16 * BLOCKS)


def _contiguous(*arrays):
    return [get_xp(array).ascontiguousarray(array) for array in arrays]


# --- training images --------------------------------------------------------------------------------------------


def warp(images, matrices, gains):
    """Images (N, H, W, C) uint8 changed as by data.augment.warp, to the same bytes; matrices and gains are NumPy's."""
    (images,) = _contiguous(images)
    out = get_xp(images).empty(images.shape, images.dtype)
    changes = np.concatenate([matrices.reshape(len(images), 6), gains[:, None]], axis=1).astype(np.float32, "C")
    changes, sizes = to_device(changes, "gpu"), (np.uint32(out.size), *map(np.int32, images.shape[1:]))
    _launch("warp", (_blocks(out.size),), (THREADS,), changes, 1, images, changes, out, *sizes)
    return out


# --- convolution ------------------------------------------------------------------------------------------------


@lru_cache(512)
def _window(size, packs, kernel, stride, pads, dilation):
    """((P, Q), the kernels' arguments) of a window that walks over an image; padding in full."""
    P, Q = windows_over("convolution", size, kernel, stride, pads, dilation)
    return (P, Q), tuple(map(np.int32, (*size, packs, P, Q, *kernel, *stride, pads[0][0], pads[1][0], *dilation)))


def _pieces(images: int, bytes_each: int):
    step = max(1, workspace(MAX_WORKSPACE) // max(1, bytes_each))
    return [slice(i, min(i + step, images)) for i in range(0, images, step)]


class _Columns:
    """The geometry of one convolution: its columns and their way back, piece by piece of the batch."""

    def __init__(self, x, w, stride, pad, dilation):
        self.N, *size, self.C = x.shape
        self.kernel = w.shape[:2]
        self.width = _width(self.C, x.dtype)
        pads = resolve_padding(pad, size, self.kernel, stride, dilation)
        packs = self.C // self.width
        (self.P, self.Q), self.window = _window(tuple(size), packs, self.kernel, stride, pads, dilation)
        self.length = self.kernel[0] * self.kernel[1] * self.C
        # a 1x1 kernel reads x as it is
        self.none = self.kernel == stride == (1, 1) and size == [self.P, self.Q]
        bytes_each = self.P * self.Q * self.length * x.itemsize
        self.pieces = [slice(0, self.N)] if self.none else _pieces(self.N, bytes_each)

    def of(self, x):
        """(n * P * Q, R * S * C) of some images."""
        rows = len(x) * self.P * self.Q
        if self.none:
            return x.reshape(rows, self.length)
        columns = get_xp(x).empty((rows, self.length), x.dtype)
        self._walk("im2col", x, columns, columns.size)
        return columns

    def back(self, columns, dx):
        """Into dx, for each pixel, the sum of what its copies hold."""
        self._walk("col2im", columns, dx, dx.size)

    def _walk(self, name, source, target, size):
        total = size // self.width
        _launch(name, (_blocks(total),), (THREADS,), target, self.width, source, target, np.uint32(total), *self.window)


def conv2d_forward(x, w, b=None, *, stride=1, pad=0, dilation=1, groups=1, algorithm=None):
    """As ops.conv2d_forward, in one group."""
    if algorithm is not None or groups > 1:
        return NotImplemented
    xp = get_xp(x)
    (x,) = _contiguous(x)
    columns, O = _Columns(x, w, pair(stride), pad, pair(dilation)), w.shape[3]
    y, flat = xp.empty((columns.N, columns.P, columns.Q, O), x.dtype), w.reshape(columns.length, O)
    for images in columns.pieces:
        matmul(columns.of(x[images]), flat, y[images].reshape(-1, O))
    if b is not None:
        y += b
    return y


def conv2d_backward(
    dy,
    x,
    w,
    *,
    stride=1,
    pad=0,
    dilation=1,
    groups=1,
    need_dx=True,
    need_dw=True,
    need_db=True,
    dw=None,
    algorithm=None,
):
    """As ops.conv2d_backward, in one group."""
    if algorithm is not None or groups > 1 or not (dw is None or dw.flags.c_contiguous):
        return NotImplemented
    xp = get_xp(x)
    dy, x = _contiguous(dy, x)
    columns, O = _Columns(x, w, pair(stride), pad, pair(dilation)), w.shape[3]
    dw = xp.empty(w.shape, w.dtype) if dw is None and need_dw else dw
    flat, dflat = w.reshape(columns.length, O), dw.reshape(columns.length, O) if need_dw else None
    dx = xp.empty(x.shape, x.dtype) if need_dx else None
    for images in columns.pieces:
        rows, fields = dy[images].reshape(-1, O), columns.of(x[images])
        if need_dw and images.start == 0:
            matmul(fields.T, rows, dflat)
        elif need_dw:
            dflat += matmul(fields.T, rows, xp.empty(dflat.shape, dflat.dtype))
        if need_dx and columns.none:
            matmul(rows, flat.T, dx.reshape(-1, columns.length))
        elif need_dx:
            columns.back(matmul(rows, flat.T, fields), dx[images])
    return dx, dw if need_dw else None, dy.reshape(-1, O).sum(axis=0) if need_db else None


def conv2d_add_relu(x, weights, b=None, shortcut=None, relu=True, *, stride=1, pad=0, dilation=1, groups=1):
    """As fused_ops.conv2d_add_relu, in one group."""
    y = conv2d_forward(x, weights.plain(), stride=stride, pad=pad, dilation=dilation, groups=groups)
    if y is NotImplemented:
        return y
    channels = _Channels(y)
    shift = get_xp(y).zeros(channels.C, y.dtype) if b is None else b
    shortcut = NULL if shortcut is None else shortcut
    channels.walk("shift_add_relu", y, shortcut, shift, *channels.sizes, np.int32(relu))
    return y


def dense_forward(x, w, b=None):
    """As ops.dense_forward."""
    (x,) = _contiguous(x)
    y = matmul(x, w, get_xp(x).empty((len(x), w.shape[1]), x.dtype))
    return y if b is None else y + b


def dense_backward(dy, x, w, *, need_dx=True):
    """As ops.dense_backward."""
    dy, x = _contiguous(dy, x)
    dw = matmul(x.T, dy, get_xp(x).empty(w.shape, w.dtype))
    return matmul(dy, w.T, get_xp(x).empty(x.shape, x.dtype)) if need_dx else None, dw, dy.sum(axis=0)


# --- batch normalisation, the residual add and ReLU -------------------------------------------------------------


@lru_cache(512)
def _rows_by_lanes(rows, channels, width):
    """(grid, block) for a matrix (rows, channels): lanes of channels across, rows dealt out down."""
    packs = channels // width
    lanes = min(32, 1 << (packs - 1).bit_length())
    across, down = -(-packs // lanes), THREADS // lanes
    return (across, max(1, min(-(-rows // (4 * down)), -(-BLOCKS // across)))), (lanes, down)


class _Channels:
    """An array (N, H, W, C) or (N, C) as rows of channels, and the kernels that walk over it."""

    def __init__(self, x):
        self.like, self.C = x, x.shape[-1]
        self.m = x.size // self.C
        self.width = _width(self.C, x.dtype)
        self.grid, self.block = _rows_by_lanes(self.m, self.C, self.width)
        self.sizes = np.int32(self.m), np.int32(self.C)

    def walk(self, name, *args):
        _launch(name, self.grid, self.block, self.like, self.width, *args)

    def partials(self, name, *args):
        """(sums of two things for each block, the number of blocks)."""
        partials = get_xp(self.like).empty((2, self.grid[1], self.C), self.like.dtype)
        self.walk(name, *args, partials, *self.sizes)
        return partials, np.int32(self.grid[1])

    def end(self, name, *args):
        _launch(name, (self.grid[0],), self.block, self.like, self.width, *args)


def norm_statistics(x, running_mean, running_var, *, epsilon, momentum, unbiased=False, bias=None):
    """(mean, rstd) of each channel; the running statistics move on, as in nn.BatchNorm.

    bias: of the convolution before, where it was left out: it moves the running mean and nothing else.
    One pass, as in ops.batchnorm_statistics, shifted by the mean of a few of the channel's values.
    """
    xp, channels = get_xp(x), _Channels(x)
    mean, rstd = (xp.empty(channels.C, x.dtype) for _ in range(2))
    m = channels.m
    numbers = map(np.float64, (m, epsilon, momentum, m / (m - 1) if unbiased and m > 1 else 1))
    bias = NULL if bias is None else bias
    channels.end(
        "norm_statistics_end",
        *channels.partials("norm_statistics", x),
        *(x, bias, mean, rstd, running_mean, running_var, np.int32(channels.C), *numbers),
    )
    return mean, rstd


def batchnorm_statistics(x):
    """As ops.batchnorm_statistics: running statistics that move on all the way."""
    (x,) = _contiguous(x)
    mean, var = get_xp(x).zeros((2, x.shape[-1]), x.dtype)
    norm_statistics(x, mean, var, epsilon=1.0, momentum=0.0)
    return mean, var


def norm_add_relu_forward(x, gamma, beta, mean, rstd, shortcut=None, relu=True):
    """y = relu(gamma * (x - mean) * rstd + beta + shortcut), the last two if asked for."""
    channels, y = _Channels(x), get_xp(x).empty(x.shape, x.dtype)
    shortcut = NULL if shortcut is None else shortcut
    channels.walk("norm_forward", x, shortcut, gamma, beta, mean, rstd, y, *channels.sizes, np.int32(relu))
    return y


def norm_add_relu_backward(
    dy, x, y, gamma, mean, rstd, *, need_g=True, dgamma=None, dbeta=None, training=True, beta=None, over=False
):
    """As fused_ops.norm_add_relu_backward; y is read, and dy stays as it is."""
    (dy,) = _contiguous(dy)
    gate = NULL if y is None else y
    dgamma, dbeta = _norm_sums(dy, x, gate, mean, rstd, dgamma, dbeta)
    m = x.size // x.shape[-1] if training else np.inf  # what flows through the statistics is divided by it
    dx, g = _norm_dx(dy, x, gate, gamma, mean, rstd, dgamma, dbeta, m, keep=need_g and y is not None)
    return dx, dy if need_g and y is None else g, dgamma, dbeta


def batchnorm_sums(dy, x, mean, rstd):
    """As ops.batchnorm_sums."""
    return _norm_sums(*_contiguous(dy, x), NULL, mean, rstd)


def batchnorm_dx(dy, x, gamma, mean, rstd, dgamma, dbeta, m):
    """As ops.batchnorm_dx."""
    return _norm_dx(*_contiguous(dy, x), NULL, gamma, mean, rstd, dgamma, dbeta, m)[0]


def _norm_sums(dy, x, gate, mean, rstd, dgamma=None, dbeta=None):
    xp, channels = get_xp(x), _Channels(x)
    dgamma, dbeta = (xp.empty(channels.C, x.dtype) if a is None else a for a in (dgamma, dbeta))
    partials = channels.partials("norm_sums", dy, x, gate, mean)
    channels.end("norm_sums_end", *partials, rstd, dgamma, dbeta, np.int32(channels.C))
    return dgamma, dbeta


def _norm_dx(dy, x, gate, gamma, mean, rstd, dgamma, dbeta, m, keep=False):
    """(dx, g); keep: whether g, dy where the gate lets it through, is wanted."""
    xp, channels = get_xp(x), _Channels(x)
    dx, g = (xp.empty(x.shape, x.dtype) if needed else NULL for needed in (True, keep))
    arrays = dy, x, gate, gamma, mean, rstd, dgamma, dbeta, dx, g
    channels.walk("norm_backward", *arrays, *channels.sizes, x.dtype.type(m))
    return dx, g if keep else None


# --- max pooling ------------------------------------------------------------------------------------------------


def _pool(name, target, shape, geometry, dilation, *arrays):
    """One of the kernels, a thread for each pack of `target`; `shape` is x's."""
    *_, H, W, C = shape
    width = _width(C, target.dtype)
    _, window = _window((H, W), C // width, *geometry, pair(dilation))
    total = target.size // width
    _launch(name, (_blocks(total),), (THREADS,), target, width, *arrays, np.uint32(total), *window)


def maxpool_forward(x, *, kernel, stride=None, pad=0, dilation=1, ceil_mode=False):
    """As ops.maxpool_forward."""
    (x,) = _contiguous(x)
    geometry = pool_window(x.shape[1:3], kernel, stride, pad, dilation, ceil_mode)
    y = get_xp(x).empty((len(x), *output_size(x.shape[1:3], *geometry, dilation), x.shape[3]), x.dtype)
    _pool("maxpool_forward", y, x.shape, geometry, dilation, x, y)
    return y


def maxpool_backward(dy, x, y, *, kernel, stride=None, pad=0, dilation=1, ceil_mode=False):
    """As ops.maxpool_backward."""
    dy, x, y = _contiguous(dy, x, y)
    geometry, xp = pool_window(x.shape[1:3], kernel, stride, pad, dilation, ceil_mode), get_xp(x)
    winner, dx = xp.empty(y.shape, np.int32), xp.empty(x.shape, dy.dtype)
    _pool("maxpool_winner", y, x.shape, geometry, dilation, x, y, winner)
    _pool("maxpool_backward", dx, x.shape, geometry, dilation, dy, winner, dx)
    return dx


# --- the loss and the update: what they tell goes into `metrics`, {loss, right answers, gradient norm} in float64 --


def cross_entropy(logits, labels, metrics, *, label_smoothing=0.0):
    """dlogits; the mean loss and the number of right answers go into metrics[0] and metrics[1].

    As ops.softmax_cross_entropy_forward and _backward for labels (N,) int64: of no class, the loss is NaN.
    """
    xp, (N, K) = get_xp(logits), logits.shape
    if not N * K:
        raise ShapeError(f"cross-entropy: logits {(N, K)} have no mean loss: give at least one image")
    if labels.shape != (N,) or labels.dtype != np.int64:
        raise ShapeError(f"cross-entropy: logits {(N, K)} need int64 labels ({N},), got {labels.dtype} {labels.shape}")
    (logits,) = _contiguous(logits)
    dlogits, losses = xp.empty((N, K), logits.dtype), xp.empty((2, N), logits.dtype)
    sizes, smoothing = map(np.int32, (N, K)), logits.dtype.type(label_smoothing)
    threads = min(THREADS, 32 << max(0, (K - 1) // 32).bit_length())
    _launch("cross_entropy", (N,), (threads,), logits, 1, logits, labels, dlogits, losses, *sizes, smoothing)
    _launch("cross_entropy_end", (1,), (THREADS,), logits, 1, losses, metrics, np.int32(N))
    return dlogits


def set_rates(rates, like, lr, first=0.0, second=0.0):
    """Into rates (4,) float64 on the device: what changes from step to step, for `update_sgd` and `update_adam`."""
    _launch("set_rates", (1,), (1,), like, 1, rates, *map(np.float64, (lr, first, second)))


def gradient_norm(grads, metrics, rates, clip_norm=None):
    """The norm into metrics[2], and into rates[3] the factor that brings it down to clip_norm."""
    blocks = min(_blocks(grads.size), BLOCKS)
    partials = get_xp(grads).empty(blocks, np.float64)
    _launch("square_sums", (blocks,), (THREADS,), grads, 1, grads, partials, np.uint64(grads.size))
    clip = np.float64(clip_norm or 0)
    _launch("square_sums_end", (1,), (THREADS,), grads, 1, partials, np.int32(blocks), metrics, rates, clip)


def update_sgd(weights, grads, velocity, rates, *, decayed, decay, momentum, nesterov):
    """As optim.SGD, over a stretch of the buffer; `decayed`: how many numbers from the start decay."""
    real = weights.dtype.type
    sizes = map(np.uint64, (weights.size, decayed))
    numbers = real(decay), real(momentum), np.int32(nesterov)
    blocks = (_blocks(weights.size),)
    _launch("update_sgd", blocks, (THREADS,), weights, 1, weights, grads, velocity, rates, *sizes, *numbers)


def update_adam(weights, grads, m, v, rates, *, decayed, decay, decoupled, betas, epsilon):
    """As optim.Adam and AdamW, over a stretch of the buffer."""
    real, (b1, b2) = weights.dtype.type, betas
    sizes = map(np.uint64, (weights.size, decayed))
    numbers = np.float64(decay), np.int32(decoupled), *map(real, (b1, b2, 1 - b1, 1 - b2, epsilon))
    blocks = (_blocks(weights.size),)
    _launch("update_adam", blocks, (THREADS,), weights, 1, weights, grads, m, v, rates, *sizes, *numbers)
