"""What walks over memory once, by kernels: normalisation, ReLU, add, pooling, the optimiser's update."""

from minires.fast.cpu.engine import _kernels, empty, fit, like, rows, whole
from minires.geometry import output_size, pair, pool_window, resolve_padding

# --- normalisation, ReLU, add -----------------------------------------------------------------------------------------


def channel_sum(x):
    x, total = whole(x), empty(x.shape[-1], x.dtype)
    _kernels.sums(x, total, *rows(x))
    return total


def batchnorm_statistics(x):
    x = whole(x)
    mean, var = (empty(x.shape[-1], x.dtype) for _ in range(2))
    _kernels.statistics(x, mean, var, *rows(x))
    return mean, var


def batchnorm_forward(x, gamma, beta, mean, rstd):
    return norm_add_relu_forward(x, gamma, beta, mean, rstd, None, False)


def norm_add_relu_forward(x, gamma, beta, mean, rstd, shortcut=None, relu=True):
    if not fit(*((v, x.shape[-1:]) for v in (gamma, beta, mean, rstd)), (shortcut, x.shape)):
        return NotImplemented
    x, y, shortcut = whole(x), like(x), None if shortcut is None else whole(shortcut)
    _kernels.norm_add_relu(x, *map(whole, (gamma, beta, mean, rstd)), shortcut, y, *rows(x), int(relu))
    return y


def norm_add_relu_backward(
    dy, x, y, gamma, mean, rstd, *, need_g=True, dgamma=None, dbeta=None, training=True, beta=None, over=False
):
    of_channels = ((v, x.shape[-1:]) for v in (gamma, mean, rstd, dgamma, dbeta, beta))
    if not fit(*of_channels, (dy, x.shape), (y, x.shape)):
        return NotImplemented
    if any(a is not None and not a.flags.carray for a in (dgamma, dbeta)):
        return NotImplemented
    dy, x, over = whole(dy), whole(x), over and dy.flags.carray
    g = None if not need_g else dy if over or y is None else like(x)
    dx = dy if over and not need_g else like(x)
    dgamma, dbeta = (empty(x.shape[-1], x.dtype) if a is None else a for a in (dgamma, dbeta))
    kept, beta, y = (None if y is None else a for a in (g, beta, y if beta is None else None))
    given = (None if a is None else whole(a) for a in (y, gamma, beta, mean, rstd))
    arrays = dy, x, *given, dx, kept, dgamma, dbeta
    _kernels.norm_add_relu_backward(*arrays, *rows(x), int(training))
    return dx, g, dgamma, dbeta


def batchnorm_backward(dy, x, gamma, mean, rstd, *, training=True):
    result = norm_add_relu_backward(dy, x, None, gamma, mean, rstd, need_g=False, training=training)
    return result if result is NotImplemented else (result[0], *result[2:])


def relu_norm_sums(dy, x, y, mean, rstd):
    if not fit((dy, x.shape), (y, x.shape), (mean, x.shape[-1:]), (rstd, x.shape[-1:])):
        return NotImplemented
    dy, x, g = whole(dy), whole(x), like(x) if y is not None else dy
    dgamma, dbeta = (empty(x.shape[-1], x.dtype) for _ in range(2))
    gate = (None, None) if y is None else (whole(y), g)
    _kernels.norm_sums(dy, x, gate[0], whole(mean), whole(rstd), gate[1], dgamma, dbeta, *rows(x))
    return g, dgamma, dbeta


def batchnorm_sums(dy, x, mean, rstd):
    result = relu_norm_sums(dy, x, None, mean, rstd)
    return result if result is NotImplemented else result[1:]


def batchnorm_dx(dy, x, gamma, mean, rstd, dgamma, dbeta, m, dx=None):
    if not fit(*((v, x.shape[-1:]) for v in (gamma, mean, rstd, dgamma, dbeta)), (dy, x.shape)):
        return NotImplemented
    dx = like(x) if dx is None else dx
    arrays = map(whole, (dy, x, gamma, mean, rstd, dgamma, dbeta))
    _kernels.norm_dx(*arrays, dx, *rows(x), float(m))
    return dx


def batchnorm_dx_over(g, *args):
    return batchnorm_dx(g, *args, dx=g) if g.flags.carray else NotImplemented


def batchnorm_eval_backward(dy, x, gamma, mean, rstd):
    return batchnorm_backward(dy, x, gamma, mean, rstd, training=False)


def relu_forward(x):
    x, y = whole(x), like(x)
    _kernels.norm_add_relu(x, None, None, None, None, None, y, *rows(x), 1)
    return y


def relu_backward(dy, y):
    if dy.shape != y.shape:
        return NotImplemented
    dy, y, dx = whole(dy), whole(y), like(dy)
    _kernels.relu_backward(dy, y, dx, dy.size)
    return dx


def add_forward(branch, shortcut):
    if branch.shape != shortcut.shape:
        return NotImplemented
    branch, shortcut, y = whole(branch), whole(shortcut), like(branch)
    _kernels.norm_add_relu(branch, None, None, None, None, shortcut, y, *rows(branch), 0)
    return y


# --- pooling ------------------------------------------------------------------------------------------------------


def _window(x, kernel, stride, pad, dilation=1, ceil_mode=False):
    """(output size, (kernel, stride, padding) as the kernel takes them); None where the op must say what is wrong."""
    if x.ndim != 4:
        return None, None
    kernel, stride, pads = pool_window(x.shape[1:3], kernel, stride, pad, dilation, ceil_mode)
    size = output_size(x.shape[1:3], kernel, stride, pads, dilation)
    if min(map(min, pads)) < 0:
        return None, None
    return size, (*kernel, *stride, pads[0][0], pads[1][0])


def maxpool_forward(x, *, kernel, stride=None, pad=0, dilation=1, ceil_mode=False):
    size, window = _window(x, kernel, stride, pad, dilation, ceil_mode)
    if size is None:
        return NotImplemented
    x, y = whole(x), empty((len(x), *size, x.shape[3]), x.dtype)
    _kernels.maxpool(x, y, *x.shape, *size, *window, *pair(dilation))
    return y


def maxpool_backward(dy, x, y, *, kernel, stride=None, pad=0, dilation=1, ceil_mode=False):
    size, window = _window(x, kernel, stride, pad, dilation, ceil_mode)
    if size is None or not dy.shape == y.shape == (len(x), *size, x.shape[3]):
        return NotImplemented
    dy, x, y, dx = whole(dy), whole(x), whole(y), like(x)
    _kernels.maxpool_backward(dy, x, y, dx, *x.shape, *size, *window, *pair(dilation))
    return dx


def avgpool_forward(x, *, kernel, stride=None, pad=0, ceil_mode=False, count_include_pad=True):
    size, window = _window(x, kernel, stride, pad, ceil_mode=ceil_mode)
    if size is None:
        return NotImplemented
    x, y = whole(x), empty((len(x), *size, x.shape[3]), x.dtype)
    pads = resolve_padding(pad, x.shape[1:3], window[:2], window[2:4])
    ends = [n + after for n, (_, after) in zip(x.shape[1:3], pads, strict=True)]
    _kernels.avgpool(x, y, *x.shape, *size, *window, int(count_include_pad), *ends)
    return y


def global_avgpool_forward(x):
    y = avgpool_forward(x, kernel=x.shape[1:3], stride=1)
    return y if y is NotImplemented else y.reshape(len(x), -1)


# --- the optimiser --------------------------------------------------------------------------------------------------


def _flat(g, *updated):
    """Whether these are rows of one length, all but g such as can be written."""
    return g.ndim == 1 and g.flags.c_contiguous and all(a.shape == g.shape and a.flags.carray for a in updated)


def square_sum(g):
    if not _flat(g):
        return NotImplemented
    total = empty(1, g.dtype)
    _kernels.square_sum(g, total, g.size)
    return total[0]


def sgd_update(w, g, velocity, *, lr, momentum, nesterov, decay, scale):
    if not _flat(g, w, velocity):
        return NotImplemented
    _kernels.sgd(w, g, velocity, w.size, float(lr), float(momentum), float(decay), float(scale), int(nesterov))


def adam_update(w, g, m, v, *, lr, betas, epsilon, steps, decay, decoupled, scale):
    if not _flat(g, w, m, v):
        return NotImplemented
    (b1, b2), correction = betas, (1 - betas[1] ** steps) ** 0.5
    rate = lr * correction / (1 - b1**steps)
    shrink, added = (1 - lr * decay, 0.0) if decoupled else (1.0, decay)
    numbers = (rate, b1, b2, epsilon * correction, added, shrink, scale)
    _kernels.adam(w, g, m, v, w.size, *map(float, numbers))
