"""Normalisations: of a batch, of groups of channels."""

from typing import Any

import numpy as np

from minires import ops
from minires.backend import Array, get_xp
from minires.errors import ConfigError
from minires.fast import communicator
from minires.nn.module import Buffer, Maths, Module, Param, check_channels


class _Norm(Module):
    """What normalisations share: gamma and beta, a factor and a shift a channel."""

    keeps = ("x", "mean", "rstd")
    smooth = True

    def __init__(self, name: str, channels: int, epsilon: float):
        super().__init__(name)
        self.epsilon = epsilon
        self.gamma = Param(f"{name}.gamma", np.ones(channels, np.float32), decay=False)
        self.beta = Param(f"{name}.beta", np.zeros(channels, np.float32), decay=False)

    def check_input(self, x: Array) -> None:
        """ShapeError or DeviceError, naming this layer, where x does not fit."""
        check_channels(self, x.shape[1:], self.gamma.data.size, x.ndim - 1)
        self.check_device(x, self.gamma.data)

    def write_grads(self, dx: Array, dgamma: Array, dbeta: Array) -> Array:
        """dx, with the gradients of gamma and beta written."""
        self.gamma.write_grad(dgamma)
        self.beta.write_grad(dbeta)
        return dx

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        check_channels(self, shape, self.gamma.data.size, len(shape))
        return shape

    def look(self) -> tuple[str, str] | None:
        return "norm", ""


class BatchNorm(_Norm):
    """Batch normalisation with running statistics: running <- momentum * running + (1 - momentum) * batch.

    momentum follows Keras (0.99 is slow); PyTorch's momentum is 1 - this. `unbiased` stores the variance
    over m - 1, as PyTorch does; the batch itself is always normalised with the one over m.
    Evaluation normalises with the running statistics. S. Ioffe, C. Szegedy, arXiv:1502.03167, algorithm 2.
    """

    maths = Maths(
        (
            "y = γ (x − μ) / √(σ² + ε) + β",
            "Each channel is brought to mean 0 and variance 1 over the batch, then scaled and shifted.",
        ),
        (
            "dx = γ/σ · (dy − mean dy − x̂ · mean(dy x̂))",
            "What flows back through the mean and the variance is subtracted; dividing by σ rescales the rest.",
        ),
    )

    def __init__(
        self, name: str, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.9, unbiased: bool = False
    ):
        super().__init__(name, channels, epsilon)
        self.momentum, self.unbiased = momentum, unbiased
        self.update_running_stats = True  # whether the running statistics follow
        self.mean = Buffer(f"{name}.mean", np.zeros(channels, np.float32))
        self.var = Buffer(f"{name}.var", np.ones(channels, np.float32))

    def forward(self, x: Array) -> Array:
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

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        x, mean, rstd, m = self.saved()
        backward = communicator.batchnorm_backward(m) if m else ops.batchnorm_eval_backward
        return self.write_grads(*backward(dy, x, self.gamma.data, mean, rstd))

    def kept_numbers(self, batch: int, shape: tuple[int, ...]) -> int:
        return 2 * shape[-1]  # the batch's mean and 1 / standard deviation

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        inputs = [x, *graph.hold(self.gamma, self.beta, self.mean, self.var)]
        return graph.node("BatchNormalization", self.name, inputs, epsilon=self.epsilon)


class GroupNorm(_Norm):
    """Group normalisation: `groups` groups of neighbouring channels, each image by itself, in training and evaluation.

    It keeps nothing of other batches and works with one image. Y. Wu, K. He, arXiv:1803.08494, section 3.
    """

    maths = Maths(
        (
            "y = γ (x − μ) / √(σ² + ε) + β",
            "Each group of channels of each image is brought to mean 0 and variance 1, then scaled and shifted.",
        ),
        (
            "dx = (g − mean g − x̂ · mean(g x̂)) / σ,   g = γ dy",
            "What flows back through a group's mean and variance is subtracted; dividing by σ rescales the rest.",
        ),
    )

    def __init__(self, name: str, channels: int, groups: int, *, epsilon: float = 1e-5):
        super().__init__(name, channels, epsilon)
        if groups < 1 or channels % groups:
            raise ConfigError(f"{name}: {channels} channels do not make {groups} equal groups: choose a divisor")
        self.groups = groups

    def forward(self, x: Array) -> Array:
        self.check_input(x)
        mean, var = ops.groupnorm_statistics(x, self.groups)
        rstd = 1 / get_xp(x).sqrt(var + self.epsilon)
        self.save(x, mean, rstd)
        return ops.groupnorm_forward(x, self.gamma.data, self.beta.data, mean, rstd)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        x, mean, rstd = self.saved()
        return self.write_grads(*ops.groupnorm_backward(dy, x, self.gamma.data, mean, rstd))

    def kept_numbers(self, batch: int, shape: tuple[int, ...]) -> int:
        return 2 * batch * self.groups  # mean and 1 / standard deviation of each image's groups

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        return graph.group_norm(self, x, self.groups)
