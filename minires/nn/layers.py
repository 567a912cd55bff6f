"""Thin layers: each holds state, checks its input, and calls one op forward and its twin backward."""

import numpy as np

from minires import ops
from minires.backend import get_xp
from minires.errors import ConfigError, ShapeError
from minires.fast import communicator
from minires.geometry import pair, resolve_padding, windows_over
from minires.nn.init import draw_kernel, generator
from minires.nn.module import Buffer, Module, Param


def _check_channels(layer: Module, shape: tuple, expected: int, rank: int) -> None:
    if len(shape) != rank or shape[-1] != expected:
        layout = "(H, W, C)" if rank == 3 else "(C,)"
        raise ShapeError(f"{layer.name}: expected {layout} with C = {expected}, got {shape}: check the layer before it")


class Conv2d(Module):
    """Convolution. w (R, S, C, O); see ops.conv2d_forward. `init`: 'he' or 'glorot'."""

    def __init__(self, name, in_channels, out_channels, kernel, *, stride=1, pad=0, bias=False, init="he", seed=0):
        super().__init__(name)
        self.stride, self.pad = pair(stride), pad
        shape = (*pair(kernel), in_channels, out_channels)
        self.w = Param(f"{name}.w", draw_kernel(f"{name}.w", shape, init, seed))
        self.b = Param(f"{name}.b", np.zeros(out_channels, np.float32), decay=False) if bias else None

    @property
    def window(self):
        return {"stride": self.stride, "pad": self.pad}

    def check_input(self, x):
        """ShapeError or DeviceError, naming this layer, where x does not fit."""
        _check_channels(self, x.shape[1:], self.w.data.shape[2], 3)
        self.check_device(x, self.w.data)

    def forward(self, x):
        self.check_input(x)
        self.save(x)
        return ops.conv2d_forward(x, self.w.data, None if self.b is None else self.b.data, **self.window)

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        wanted = {"need_dx": need_dx, "need_dw": self.w.trainable, "need_db": self.b is not None, "dw": self.w.grad}
        dx, dw, db = ops.conv2d_backward(dy, x, self.w.data, **self.window, **wanted)
        self.w.write_grad(dw)
        if self.b is not None:
            self.b.write_grad(db)
        return dx

    def output_shape(self, shape):
        R, S, C, O = self.w.data.shape
        _check_channels(self, shape, C, 3)
        return (*windows_over(self.name, shape[:2], (R, S), self.stride, self.pad), O)


class _Norm(Module):
    """What normalisations share: gamma and beta, a factor and a shift a channel."""

    def __init__(self, name, channels, epsilon):
        super().__init__(name)
        self.epsilon = epsilon
        self.gamma = Param(f"{name}.gamma", np.ones(channels, np.float32), decay=False)
        self.beta = Param(f"{name}.beta", np.zeros(channels, np.float32), decay=False)

    def check_input(self, x):
        """ShapeError or DeviceError, naming this layer, where x does not fit."""
        _check_channels(self, x.shape[1:], self.gamma.data.size, x.ndim - 1)
        self.check_device(x, self.gamma.data)

    def write_grads(self, dx, dgamma, dbeta):
        """dx, with the gradients of gamma and beta written."""
        self.gamma.write_grad(dgamma)
        self.beta.write_grad(dbeta)
        return dx

    def output_shape(self, shape):
        _check_channels(self, shape, self.gamma.data.size, len(shape))
        return shape


class BatchNorm(_Norm):
    """Batch normalisation with running statistics: running <- momentum * running + (1 - momentum) * batch.

    momentum follows Keras (0.99 is slow); PyTorch's momentum is 1 - this. `unbiased` stores the variance
    over m - 1, as PyTorch does; the batch itself is always normalised with the one over m.
    Evaluation normalises with the running statistics. S. Ioffe, C. Szegedy, arXiv:1502.03167, algorithm 2.
    """

    def __init__(self, name, channels, *, epsilon=1e-5, momentum=0.9, unbiased=False):
        super().__init__(name, channels, epsilon)
        self.momentum, self.unbiased = momentum, unbiased
        self.update_running_stats = True  # whether the running statistics follow
        self.mean = Buffer(f"{name}.mean", np.zeros(channels, np.float32))
        self.var = Buffer(f"{name}.var", np.ones(channels, np.float32))

    def forward(self, x):
        self.check_input(x)
        if self.training:
            mean, var, m = communicator.pooled(*ops.batchnorm_statistics(x), x.size // x.shape[-1])
            if self.update_running_stats:
                settings = {"momentum": self.momentum, "unbiased": self.unbiased}
                running = ops.batchnorm_running(self.mean.data, self.var.data, mean, var, m, **settings)
                self.mean.data[...], self.var.data[...] = running
        else:
            mean, var, m = self.mean.data, self.var.data, 0
        rstd = 1 / get_xp(x).sqrt(var + self.epsilon)
        self.save(x, mean, rstd, m)
        return ops.batchnorm_forward(x, self.gamma.data, self.beta.data, mean, rstd)

    def backward(self, dy, need_dx=True):
        x, mean, rstd, m = self.saved()
        backward = communicator.batchnorm_backward(m) if m else ops.batchnorm_eval_backward
        return self.write_grads(*backward(dy, x, self.gamma.data, mean, rstd))


class GroupNorm(_Norm):
    """Group normalisation: `groups` groups of neighbouring channels, each image by itself, in training and evaluation.

    It keeps nothing of other batches and works with one image. Y. Wu, K. He, arXiv:1803.08494, section 3.
    """

    def __init__(self, name, channels, groups, *, epsilon=1e-5):
        super().__init__(name, channels, epsilon)
        if groups < 1 or channels % groups:
            raise ConfigError(f"{name}: {channels} channels do not make {groups} equal groups: choose a divisor")
        self.groups = groups

    def forward(self, x):
        self.check_input(x)
        mean, var = ops.groupnorm_statistics(x, self.groups)
        rstd = 1 / get_xp(x).sqrt(var + self.epsilon)
        self.save(x, mean, rstd)
        return ops.groupnorm_forward(x, self.gamma.data, self.beta.data, mean, rstd)

    def backward(self, dy, need_dx=True):
        x, mean, rstd = self.saved()
        return self.write_grads(*ops.groupnorm_backward(dy, x, self.gamma.data, mean, rstd))


class ReLU(Module):
    """y = max(x, 0)."""

    def forward(self, x):
        y = ops.relu_forward(x)
        self.save(y)
        return y

    def backward(self, dy, need_dx=True):
        (y,) = self.saved()
        return ops.relu_backward(dy, y)

    def output_shape(self, shape):
        return shape


class ZeroPad2d(Module):
    """Zeros around the image; pad as in ops.conv.resolve_padding."""

    def __init__(self, name, pad):
        super().__init__(name)
        self.pad = pad

    def forward(self, x):
        return ops.zero_pad2d_forward(x, self.pad)

    def backward(self, dy, need_dx=True):
        return ops.zero_pad2d_backward(dy, self.pad)

    def output_shape(self, shape):
        (top, bottom), (left, right) = resolve_padding(self.pad, shape[:2], (1, 1), (1, 1))
        return shape[0] + top + bottom, shape[1] + left + right, shape[2]


class _Pool2d(Module):
    def __init__(self, name, kernel, stride=None, pad=0):
        super().__init__(name)
        self.kernel, self.pad = pair(kernel), pad
        self.stride = pair(stride if stride is not None else kernel)

    @property
    def window(self):
        return {"kernel": self.kernel, "stride": self.stride, "pad": self.pad}

    def output_shape(self, shape):
        return (*windows_over(self.name, shape[:2], self.kernel, self.stride, self.pad), shape[2])


class MaxPool2d(_Pool2d):
    """The largest value of each window."""

    def forward(self, x):
        y = ops.maxpool_forward(x, **self.window)
        self.save(x, y)
        return y

    def backward(self, dy, need_dx=True):
        return ops.maxpool_backward(dy, *self.saved(), **self.window)


class AvgPool2d(_Pool2d):
    """The mean of each window."""

    def forward(self, x):
        self.save(x.shape)
        return ops.avgpool_forward(x, **self.window)

    def backward(self, dy, need_dx=True):
        return ops.avgpool_backward(dy, *self.saved(), **self.window)


class GlobalAvgPool2d(Module):
    """The mean of each channel's map: (N, H, W, C) -> (N, C)."""

    def forward(self, x):
        self.save(x.shape)
        return ops.global_avgpool_forward(x)

    def backward(self, dy, need_dx=True):
        return ops.global_avgpool_backward(dy, *self.saved())

    def output_shape(self, shape):
        return shape[-1:]


class Flatten(Module):
    """(N, H, W, C) -> (N, H * W * C)."""

    def forward(self, x):
        self.save(x.shape)
        return ops.flatten_forward(x)

    def backward(self, dy, need_dx=True):
        return ops.flatten_backward(dy, *self.saved())

    def output_shape(self, shape):
        return (int(np.prod(shape)),)


class Dense(Module):
    """Fully connected: y = x w + b. w (C, O)."""

    def __init__(self, name, in_features, out_features, *, bias=True, init="glorot", seed=0):
        super().__init__(name)
        self.w = Param(f"{name}.w", draw_kernel(f"{name}.w", (in_features, out_features), init, seed))
        self.b = Param(f"{name}.b", np.zeros(out_features, np.float32), decay=False) if bias else None

    def forward(self, x):
        _check_channels(self, x.shape[1:], self.w.data.shape[0], 1)
        self.check_device(x, self.w.data)
        self.save(x)
        return ops.dense_forward(x, self.w.data, None if self.b is None else self.b.data)

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        dx, dw, db = ops.dense_backward(dy, x, self.w.data, need_dx=need_dx)
        self.w.write_grad(dw)
        if self.b is not None:
            self.b.write_grad(db)
        return dx

    def output_shape(self, shape):
        _check_channels(self, shape, self.w.data.shape[0], 1)
        return self.w.data.shape[1:]


class Dropout(Module):
    """Drop each unit with probability `rate` in training; the mask comes from a generator keyed by the name."""

    def __init__(self, name, rate, *, seed=0):
        super().__init__(name)
        if not 0 <= rate < 1:
            raise ConfigError(f"{name}: dropout rate must lie in [0, 1), got {rate}")
        self.rate = rate
        self.rng = generator(seed, name)

    def forward(self, x):
        if not self.training or self.rate == 0:
            self.save(None)
            return x
        xp = get_xp(x)
        keep = xp.asarray(self.rng.random(x.shape) >= self.rate).astype(x.dtype)
        self.save(keep)
        return ops.dropout_forward(x, keep, self.rate)

    def backward(self, dy, need_dx=True):
        (keep,) = self.saved()
        return dy if keep is None else ops.dropout_backward(dy, keep, self.rate)

    def output_shape(self, shape):
        return shape
