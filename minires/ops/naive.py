"""Every op of minires.ops once more, as loops over single numbers: the executable specification.

Slow on purpose: each function is its equation, and the tests hold the fast ops to it. Nothing is shared with
the fast ops, the padding arithmetic included. Two helpers carry all the rest: `@exact` computes in float64
and hands back the caller's dtype; `_Windows` says which pixel (i, j) lies under cell (r, s) of window (p, q).
With it a convolution and both its gradients are one loop, only the array that is summed into changes:

    y[n, p, q, o]  += x[n, i, j, c]  * w[r, s, c, o]
    dx[n, i, j, c] += dy[n, p, q, o] * w[r, s, c, o]
    dw[r, s, c, o] += dy[n, p, q, o] * x[n, i, j, c]
"""

import functools
import math

import numpy as np
from numpy import ndindex, zeros

from minires.errors import ShapeError


def exact(op, least=np.float16):
    """`op` on float64 copies of its floating-point arrays, its results cast to the dtype of the first argument.

    least: results that may not fit in float16 have this dtype, or a wider one.
    """

    def widen(value):
        floating = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return value.astype(np.float64) if floating else value

    @functools.wraps(op)
    def wrapped(first, *others, **options):
        def narrow(result):
            if isinstance(result, tuple):
                return tuple(map(narrow, result))
            return None if result is None else np.asarray(result, np.promote_types(first.dtype, least))

        return narrow(op(widen(first), *map(widen, others), **options))

    return wrapped


sums = functools.partial(exact, least=np.float32)


# --- geometry ---------------------------------------------------------------------------------------------


def _two(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _pads(pad, size, kernel, stride, dilation=(1, 1)):
    """[(top, bottom), (left, right)] for 'valid', 'same', an int, (v, h) or the four numbers."""
    if pad == "valid":
        return [(0, 0), (0, 0)]
    if pad == "same":
        pads = []
        for length, cells, step, apart in zip(size, kernel, stride, dilation, strict=True):
            outputs = math.ceil(length / step)
            covered = (outputs - 1) * step + (cells - 1) * apart + 1  # from the first cell of all to the last
            missing = max(covered - length, 0)
            pads.append((missing // 2, missing - missing // 2))  # an odd zero goes after the image
        return pads
    return [_two(p) for p in _two(pad)]


class _Windows:
    """Windows that slide over an image of `size`: which pixel lies under which cell."""

    def __init__(self, size, kernel, stride, pad, dilation=1, ceil_mode=False):
        self.size, self.kernel, self.dilation = size, _two(kernel), _two(dilation)
        self.stride = self.kernel if stride is None else _two(stride)
        self.pads = _pads(pad, size, self.kernel, self.stride, self.dilation)
        self.P, self.Q = (self._count(axis, ceil_mode) for axis in (0, 1))
        if not self.P * self.Q:
            raise ShapeError(f"a map of {size[0]}x{size[1]} is smaller than the window")

    def _count(self, axis, ceil_mode):
        """As many windows as fit in the padded length, the first at its start, each a stride behind the one before.

        ceil_mode: one more where they leave something over, unless it would start behind the image.
        """
        image, (before, after), cells, step, apart = (
            of[axis] for of in (self.size, self.pads, self.kernel, self.stride, self.dilation)
        )
        count, last = 0, (cells - 1) * apart
        while count * step + last < before + image + after:
            count += 1
        left_over = (count - 1) * step + last < before + image + after - 1
        return count + (ceil_mode and left_over and count * step < before + image)

    def cells(self, p, q):
        """(r, s, i, j) for each cell of window (p, q) that lies on the image, row by row."""
        for r, s in ndindex(self.kernel):
            i = p * self.stride[0] + r * self.dilation[0] - self.pads[0][0]
            j = q * self.stride[1] + s * self.dilation[1] - self.pads[1][0]
            if 0 <= i < self.size[0] and 0 <= j < self.size[1]:
                yield r, s, i, j


# --- padding and convolution ------------------------------------------------------------------------------


@exact
def zero_pad2d_forward(x, pad):
    (top, bottom), (left, right) = _pads(pad, x.shape[1:3], (1, 1), (1, 1))
    N, H, W, C = x.shape
    y = zeros((N, top + H + bottom, left + W + right, C))
    for n, i, j, c in ndindex(x.shape):
        y[n, top + i, left + j, c] = x[n, i, j, c]
    return y


@exact
def zero_pad2d_backward(dy, pad):
    (top, bottom), (left, right) = _pads(pad, dy.shape[1:3], (1, 1), (1, 1))
    N, H, W, C = dy.shape
    dx = zeros((N, H - top - bottom, W - left - right, C))
    for n, i, j, c in ndindex(dx.shape):
        dx[n, i, j, c] = dy[n, top + i, left + j, c]
    return dx


@exact
def conv2d_forward(x, w, b=None, *, stride=1, pad=0, dilation=1, groups=1, algorithm=None):
    N, H, W, _ = x.shape
    R, S, C, O = w.shape  # C: the channels of one group
    windows = _Windows((H, W), (R, S), stride, pad, dilation)
    y = zeros((N, windows.P, windows.Q, O))
    for n, p, q, o in ndindex(y.shape):
        y[n, p, q, o] = 0 if b is None else b[o]
        first = o // (O // groups) * C  # channel of o's group
        for r, s, i, j in windows.cells(p, q):
            for c in range(C):
                y[n, p, q, o] += x[n, i, j, first + c] * w[r, s, c, o]
    return y


@exact
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
    R, S, C, O = w.shape
    windows = _Windows(x.shape[1:3], (R, S), stride, pad, dilation)
    dx, db = zeros(x.shape), zeros(O)
    dw = zeros(w.shape) if dw is None or not need_dw else dw
    dw[...] = 0
    for n, p, q, o in ndindex(dy.shape):
        db[o] += dy[n, p, q, o]
        first = o // (O // groups) * C
        for r, s, i, j in windows.cells(p, q):
            for c in range(C):
                dx[n, i, j, first + c] += dy[n, p, q, o] * w[r, s, c, o]
                dw[r, s, c, o] += dy[n, p, q, o] * x[n, i, j, first + c]
    return dx if need_dx else None, dw if need_dw else None, db if need_db else None


# --- pooling ----------------------------------------------------------------------------------------------


@exact
def maxpool_forward(x, *, kernel, stride=None, pad=0, dilation=1, ceil_mode=False):
    N, H, W, C = x.shape
    windows = _Windows((H, W), kernel, stride, pad, dilation, ceil_mode)
    y = zeros((N, windows.P, windows.Q, C))
    for n, p, q, c in ndindex(y.shape):
        y[n, p, q, c] = np.max([x[n, i, j, c] for _, _, i, j in windows.cells(p, q)])  # a NaN wins
    return y


@exact
def maxpool_backward(dy, x, y, *, kernel, stride=None, pad=0, dilation=1, ceil_mode=False):
    windows = _Windows(x.shape[1:3], kernel, stride, pad, dilation, ceil_mode)
    dx = zeros(x.shape)
    for n, p, q, c in ndindex(dy.shape):
        for _, _, i, j in windows.cells(p, q):
            if x[n, i, j, c] == y[n, p, q, c] or np.isnan(x[n, i, j, c]):
                dx[n, i, j, c] += dy[n, p, q, c]
                break  # the first of several equal ones takes it all
    return dx


def _averaged(windows, p, q, count_include_pad):
    """How many numbers the mean of window (p, q) is taken over: those on the image, with the padding's or without."""
    if not count_include_pad:
        return len(list(windows.cells(p, q)))
    counts = []
    for axis, place in enumerate((p, q)):
        end = windows.size[axis] + windows.pads[axis][1]  # of the padding, from the image's first pixel on
        start = place * windows.stride[axis] - windows.pads[axis][0]
        counts.append(sum(start + cell < end for cell in range(windows.kernel[axis])))
    return math.prod(counts)


@exact
def avgpool_forward(x, *, kernel, stride=None, pad=0, ceil_mode=False, count_include_pad=True):
    N, H, W, C = x.shape
    windows = _Windows((H, W), kernel, stride, pad, 1, ceil_mode)
    y = zeros((N, windows.P, windows.Q, C))
    for n, p, q, c in ndindex(y.shape):
        total = sum(x[n, i, j, c] for _, _, i, j in windows.cells(p, q))
        y[n, p, q, c] = total / _averaged(windows, p, q, count_include_pad)
    return y


@exact
def avgpool_backward(dy, shape, *, kernel, stride=None, pad=0, ceil_mode=False, count_include_pad=True):
    windows = _Windows(shape[1:3], kernel, stride, pad, 1, ceil_mode)
    dx = zeros(shape)
    for n, p, q, c in ndindex(dy.shape):
        for _, _, i, j in windows.cells(p, q):
            dx[n, i, j, c] += dy[n, p, q, c] / _averaged(windows, p, q, count_include_pad)
    return dx


@exact
def global_avgpool_forward(x):
    N, H, W, C = x.shape
    y = zeros((N, C))
    for n, i, j, c in ndindex(x.shape):
        y[n, c] += x[n, i, j, c] / (H * W)
    return y


@exact
def global_avgpool_backward(dy, shape):
    H, W = shape[1:3]
    dx = zeros(shape)
    for n, i, j, c in ndindex(shape):
        dx[n, i, j, c] = dy[n, c] / (H * W)
    return dx


@exact
def subsample_forward(x, stride, zeros=(0, 0)):
    (sv, sh), (before, behind), (N, H, W, C) = _two(stride), zeros, x.shape
    y = np.zeros((N, (H - 1) // sv + 1, (W - 1) // sh + 1, before + C + behind))
    for n, i, j, c in ndindex(x.shape):
        if i % sv == 0 and j % sh == 0:
            y[n, i // sv, j // sh, before + c] = x[n, i, j, c]
    return y


@exact
def subsample_backward(dy, shape, stride, zeros=(0, 0)):
    (sv, sh), (before, _) = _two(stride), zeros
    dx = np.zeros(shape)
    for n, i, j, c in ndindex(shape):
        if i % sv == 0 and j % sh == 0:
            dx[n, i, j, c] = dy[n, i // sv, j // sh, before + c]
    return dx


# --- batch normalisation: x (N, H, W, C) or (N, C), `at` runs over all but the channel ----------------------


@sums
def batchnorm_statistics(x):
    if not x.size:
        raise ShapeError("an empty batch has no mean and variance")
    C = x.shape[-1]
    m = x.size // C
    mean, var = zeros(C), zeros(C)
    for *at, c in ndindex(x.shape):
        mean[c] += x[*at, c] / m
    for *at, c in ndindex(x.shape):
        var[c] += (x[*at, c] - mean[c]) ** 2 / m
    return mean, var


@exact
def batchnorm_forward(x, gamma, beta, mean, rstd):
    y = zeros(x.shape)
    for *at, c in ndindex(x.shape):
        y[*at, c] = gamma[c] * (x[*at, c] - mean[c]) * rstd[c] + beta[c]
    return y


@exact
def batchnorm_backward(dy, x, gamma, mean, rstd):
    """The chain rule term by term, through x_hat = (x - mean) * rstd, var and mean, as in the paper's section 3.

    With rstd = (var + epsilon)^(-1/2):  d rstd / d var = -rstd^3 / 2.
    """
    C = x.shape[-1]
    m = x.size // C
    dgamma, dbeta, dmean, dvar = zeros(C), zeros(C), zeros(C), zeros(C)
    dx_hat, dx = zeros(x.shape), zeros(x.shape)
    for *at, c in ndindex(x.shape):  # y = gamma * x_hat + beta
        dgamma[c] += dy[*at, c] * (x[*at, c] - mean[c]) * rstd[c]
        dbeta[c] += dy[*at, c]
        dx_hat[*at, c] = dy[*at, c] * gamma[c]
    for *at, c in ndindex(x.shape):  # x_hat through rstd
        dvar[c] += dx_hat[*at, c] * (x[*at, c] - mean[c]) * -(rstd[c] ** 3) / 2
    for *at, c in ndindex(x.shape):  # x_hat through x - mean, and var = sum (x - mean)^2 / m
        dmean[c] += dx_hat[*at, c] * -rstd[c]
        dmean[c] += dvar[c] * -2 * (x[*at, c] - mean[c]) / m
    for *at, c in ndindex(x.shape):  # x itself in x_hat, in var, and in mean = sum x / m
        dx[*at, c] = dx_hat[*at, c] * rstd[c]
        dx[*at, c] += dvar[c] * 2 * (x[*at, c] - mean[c]) / m
        dx[*at, c] += dmean[c] / m
    return dx, dgamma, dbeta


@sums
def batchnorm_sums(dy, x, mean, rstd):
    dgamma, dbeta = zeros(x.shape[-1]), zeros(x.shape[-1])
    for *at, c in ndindex(x.shape):
        dgamma[c] += dy[*at, c] * (x[*at, c] - mean[c]) * rstd[c]
        dbeta[c] += dy[*at, c]
    return dgamma, dbeta


@exact
def batchnorm_dx(dy, x, gamma, mean, rstd, dgamma, dbeta, m):
    dx = zeros(x.shape)
    for *at, c in ndindex(x.shape):
        x_hat = (x[*at, c] - mean[c]) * rstd[c]
        dx[*at, c] = gamma[c] * rstd[c] * (dy[*at, c] - dbeta[c] / m - x_hat * dgamma[c] / m)
    return dx


@exact
def batchnorm_running(running_mean, running_var, mean, var, m, *, momentum, unbiased=False):
    new_mean, new_var = zeros(len(mean)), zeros(len(mean))
    for c in range(len(mean)):
        new_mean[c] = momentum * running_mean[c] + (1 - momentum) * mean[c]
        new_var[c] = momentum * running_var[c] + (1 - momentum) * var[c] * (m / (m - 1) if unbiased and m > 1 else 1)
    return new_mean, new_var


@exact
def batchnorm_eval_backward(dy, x, gamma, mean, rstd):
    dx, dgamma, dbeta = zeros(x.shape), zeros(x.shape[-1]), zeros(x.shape[-1])
    for *at, c in ndindex(x.shape):
        dx[*at, c] = dy[*at, c] * gamma[c] * rstd[c]
        dgamma[c] += dy[*at, c] * (x[*at, c] - mean[c]) * rstd[c]
        dbeta[c] += dy[*at, c]
    return dx, dgamma, dbeta


@sums
def groupnorm_statistics(x, groups):
    N, *_, C = x.shape
    m = math.prod(x.shape[1:]) // groups
    if not m or C % groups:
        raise ShapeError(f"{C} channels do not make {groups} groups")
    mean, var = zeros((N, groups)), zeros((N, groups))
    for n, *at, c in ndindex(x.shape):
        mean[n, c * groups // C] += x[n, *at, c] / m
    for n, *at, c in ndindex(x.shape):
        var[n, c * groups // C] += (x[n, *at, c] - mean[n, c * groups // C]) ** 2 / m
    return mean, var


@exact
def groupnorm_forward(x, gamma, beta, mean, rstd):
    y, groups = zeros(x.shape), mean.shape[1]
    for n, *at, c in ndindex(x.shape):
        g = c * groups // x.shape[-1]
        y[n, *at, c] = gamma[c] * (x[n, *at, c] - mean[n, g]) * rstd[n, g] + beta[c]
    return y


@exact
def groupnorm_backward(dy, x, gamma, mean, rstd):
    """A group of one image's channels is a batch of one channel, whose gamma is 1 and whose dy is gamma * dy."""
    (N, *_, C), groups = x.shape, mean.shape[1]
    dx, dgamma, dbeta = zeros(x.shape), zeros(C), zeros(C)
    for n, *at, c in ndindex(x.shape):
        g = c * groups // C
        dgamma[c] += dy[n, *at, c] * (x[n, *at, c] - mean[n, g]) * rstd[n, g]
        dbeta[c] += dy[n, *at, c]
    for n, g in ndindex(N, groups):
        own = slice(g * C // groups, (g + 1) * C // groups)
        values, arriving = x[n, ..., own], (gamma * dy)[n, ..., own]
        through = batchnorm_backward(
            arriving.reshape(-1, 1), values.reshape(-1, 1), np.ones(1), mean[n, g : g + 1], rstd[n, g : g + 1]
        )
        dx[n, ..., own] = through[0].reshape(values.shape)
    return dx, dgamma, dbeta


@sums
def layernorm_statistics(x, axes=1):
    before, last = x.shape[: x.ndim - axes], x.shape[x.ndim - axes :]
    mean, var = zeros(before), zeros(before)
    for at in ndindex(before):
        for i in ndindex(last):
            mean[at] += x[*at, *i] / math.prod(last)
        for i in ndindex(last):
            var[at] += (x[*at, *i] - mean[at]) ** 2 / math.prod(last)
    return mean, var


@exact
def layernorm_forward(x, gamma, beta, mean, rstd):
    y = zeros(x.shape)
    for at in ndindex(mean.shape):
        for i in ndindex(gamma.shape):
            y[*at, *i] = gamma[i] * (x[*at, *i] - mean[at]) * rstd[at] + beta[i]
    return y


@exact
def layernorm_backward(dy, x, gamma, mean, rstd):
    """A position's values are a batch of one channel, whose gamma is 1 and whose dy is gamma * dy."""
    dx, dgamma, dbeta = zeros(x.shape), zeros(gamma.shape), zeros(gamma.shape)
    for at in ndindex(mean.shape):
        for i in ndindex(gamma.shape):
            dgamma[i] += dy[*at, *i] * (x[*at, *i] - mean[at]) * rstd[at]
            dbeta[i] += dy[*at, *i]
        arriving, values = (gamma * dy[at]).reshape(-1, 1), x[at].reshape(-1, 1)
        alone = batchnorm_backward(arriving, values, np.ones(1), mean[at].reshape(1), rstd[at].reshape(1))
        dx[at] = alone[0].reshape(gamma.shape)
    return dx, dgamma, dbeta


# --- elementwise ------------------------------------------------------------------------------------------


@exact
def relu_forward(x):
    y = zeros(x.shape)
    for at in ndindex(x.shape):
        y[at] = max(x[at], 0)
    return y


@exact
def relu_backward(dy, y):
    dx = zeros(dy.shape)
    for at in ndindex(dy.shape):
        dx[at] = dy[at] if y[at] > 0 else 0
    return dx


@exact
def add_forward(branch, shortcut):
    y = zeros(branch.shape)
    for at in ndindex(branch.shape):
        y[at] = branch[at] + shortcut[at]
    return y


@exact
def add_backward(dy):
    return dy, dy


@exact
def leaky_relu_forward(x, slope):
    y = zeros(x.shape)
    for at in ndindex(x.shape):
        y[at] = x[at] if x[at] > 0 else slope * x[at]
    return y


@exact
def leaky_relu_backward(dy, y, slope):
    dx = zeros(dy.shape)
    for at in ndindex(dy.shape):
        dx[at] = dy[at] if y[at] > 0 else slope * dy[at]
    return dx


@exact
def sigmoid_forward(x):
    y = zeros(x.shape)
    for at in ndindex(x.shape):
        y[at] = 1 / (1 + math.exp(-x[at])) if x[at] > -700 else 0  # where exp overflows
    return y


@exact
def sigmoid_backward(dy, y):
    dx = zeros(dy.shape)
    for at in ndindex(dy.shape):
        dx[at] = dy[at] * y[at] * (1 - y[at])
    return dx


@exact
def gelu_forward(x):
    y = zeros(x.shape)
    for at in ndindex(x.shape):
        y[at] = x[at] * math.erfc(-x[at] / math.sqrt(2)) / 2
    return y


@exact
def gelu_backward(dy, x):
    dx = zeros(dy.shape)
    for at in ndindex(dy.shape):
        share = math.erfc(-x[at] / math.sqrt(2)) / 2
        density = math.exp(-(x[at] ** 2) / 2) / math.sqrt(2 * math.pi)
        dx[at] = dy[at] * (share + x[at] * density)
    return dx


@exact
def concat_forward(*xs):
    channels = [x.shape[-1] for x in xs]
    y = zeros((*xs[0].shape[:-1], sum(channels)))
    for i, x in enumerate(xs):
        for *at, c in ndindex(x.shape):
            y[*at, sum(channels[:i]) + c] = x[*at, c]
    return y


@exact
def concat_backward(dy, channels):
    dxs = []
    for i, width in enumerate(channels):
        dxs.append(zeros((*dy.shape[:-1], width)))
        for *at, c in ndindex(dxs[i].shape):
            dxs[i][*at, c] = dy[*at, sum(channels[:i]) + c]
    return tuple(dxs)


def _gate_at(at, gate):
    """Where the gate of the number at `at` stands."""
    if gate.ndim == 2:
        return at[0], at[-1]
    return tuple(i if size > 1 else 0 for i, size in zip(at, gate.shape, strict=True))


@exact
def multiply_forward(x, gate):
    y = zeros(x.shape)
    for at in ndindex(x.shape):
        y[at] = x[at] * gate[_gate_at(at, gate)]
    return y


@exact
def multiply_backward(dy, x, gate):
    dx, dgate = zeros(x.shape), zeros(gate.shape)
    for at in ndindex(x.shape):
        dx[at] = dy[at] * gate[_gate_at(at, gate)]
        dgate[_gate_at(at, gate)] += dy[at] * x[at]
    return dx, dgate


@exact
def dropout_forward(x, keep, rate):
    y, keep = zeros(x.shape), np.broadcast_to(keep, x.shape)
    for at in ndindex(x.shape):
        y[at] = x[at] / (1 - rate) if keep[at] else 0
    return y


@exact
def dropout_backward(dy, keep, rate):
    dx, keep = zeros(dy.shape), np.broadcast_to(keep, dy.shape)
    for at in ndindex(dy.shape):
        dx[at] = dy[at] / (1 - rate) if keep[at] else 0
    return dx


@exact
def flatten_forward(x):
    N, H, W, C = x.shape
    y = zeros((N, H * W * C))
    for n, i, j, c in ndindex(x.shape):
        y[n, (i * W + j) * C + c] = x[n, i, j, c]
    return y


@exact
def flatten_backward(dy, shape):
    W, C = shape[2:]
    dx = zeros(shape)
    for n, i, j, c in ndindex(shape):
        dx[n, i, j, c] = dy[n, (i * W + j) * C + c]
    return dx


# --- the classifier ---------------------------------------------------------------------------------------


@exact
def dense_forward(x, w, b=None):
    (N, C), O = x.shape, w.shape[1]
    y = zeros((N, O))
    for n, o in ndindex(N, O):
        y[n, o] = 0 if b is None else b[o]
        for c in range(C):
            y[n, o] += x[n, c] * w[c, o]
    return y


@exact
def dense_backward(dy, x, w, *, need_dx=True):
    dx, dw, db = zeros(x.shape), zeros(w.shape), zeros(w.shape[1])
    for n, o in ndindex(dy.shape):
        db[o] += dy[n, o]
        for c in range(x.shape[1]):
            dx[n, c] += dy[n, o] * w[c, o]
            dw[c, o] += dy[n, o] * x[n, c]
    return dx if need_dx else None, dw, db


def _target(labels, n, k, K, label_smoothing):
    """t[n, k]: the share of class k in the label of image n."""
    share = labels[n, k] if labels.ndim == 2 else float(labels[n] == k)
    return (1 - label_smoothing) * share + label_smoothing / K


def _pull(labels, n, k, K, label_smoothing, weights, ignore_index):
    """t[n, k] times the class's weight; 0 where the label is ignored."""
    if ignore_index is not None and labels[n] == ignore_index:
        return 0.0
    return _target(labels, n, k, K, label_smoothing) * (1 if weights is None else weights[k])


def _total(labels, N, weights, ignore_index):
    """What the mean divides by: the weights of the labels that count."""
    if labels.ndim == 2:
        return N
    counting = [label for label in labels if ignore_index is None or label != ignore_index]
    return sum(1 if weights is None else weights[label] for label in counting)


@exact
def softmax_cross_entropy_forward(
    logits, labels, *, label_smoothing=0.0, weights=None, ignore_index=None, reduction="mean"
):
    N, K = logits.shape
    if not N * K:
        raise ShapeError("an empty batch has no mean loss")
    losses, probs = zeros(N), zeros((N, K))
    for n in range(N):
        largest = max(logits[n])  # log sum exp z = a + log sum exp (z - a) for every a; this one never overflows
        log_sum = largest + math.log(sum(math.exp(z - largest) for z in logits[n]))
        for k in range(K):
            log_prob = logits[n, k] - log_sum
            probs[n, k] = math.exp(log_prob)
            target = _pull(labels, n, k, K, label_smoothing, weights, ignore_index)
            losses[n] -= target * log_prob if target else 0  # of minus infinity too
    if reduction == "none":
        return losses, probs
    return sum(losses) / (np.float64(_total(labels, N, weights, ignore_index)) if reduction == "mean" else 1), probs


@exact
def softmax_cross_entropy_backward(
    probs, labels, *, label_smoothing=0.0, weights=None, ignore_index=None, reduction="mean", dloss=None
):
    N, K = probs.shape
    dlogits = zeros((N, K))
    for n in range(N):
        targets = [_pull(labels, n, k, K, label_smoothing, weights, ignore_index) for k in range(K)]
        for k in range(K):
            dlogits[n, k] = sum(targets) * probs[n, k] - targets[k]
            if dloss is not None:
                dlogits[n, k] *= dloss[n] if np.ndim(dloss) else dloss
            if reduction == "mean":
                dlogits[n, k] /= _total(labels, N, weights, ignore_index)
    return dlogits
