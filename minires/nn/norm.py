"""Normalisations: of a batch, of groups of channels, of each position."""

import math
from typing import Any

import numpy as np

from minires import ops
from minires.backend import Array, get_xp
from minires.errors import ConfigError, ShapeError
from minires.fast import communicator
from minires.nn.module import Buffer, Maths, Module, Param, check_channels

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "LayerNorm",
]


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

    x (..., channels) -> y of its shape; statistics are those of each channel over all else. The layer holds gamma, beta
    (trained) and the running mean and var, all (channels,). ShapeError, naming this layer, for other channels.

    >>> norm = minires.BatchNorm("bn", 2)
    >>> x = numpy.array([[1, 10], [3, 30]], "float32")
    >>> norm.forward(x).round(3).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> [round(float(mean), 3) for mean in norm.mean.data]  # a tenth of the way from 0 to the batch's 2 and 20
    [0.2, 2.0]
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
            mean, var, m = communicator.pooled(*ops.batchnorm_statistics(x), x.size // x.shape[-1], len(x))
            if self.update_running_stats:
                self.move_running_stats(mean, var, m)
        else:
            mean, var, m = self.mean.data, self.var.data, 0
        rstd = 1 / get_xp(x).sqrt(var + self.epsilon)
        self.save(x, mean, rstd, m)
        return ops.batchnorm_forward(x, self.gamma.data, self.beta.data, mean, rstd)

    def move_running_stats(self, mean: Array, var: Array, m: int) -> None:
        """Move the running statistics towards those of a batch, of m values a channel."""
        settings = {"momentum": self.momentum, "unbiased": self.unbiased}
        running = ops.batchnorm_running(self.mean.data, self.var.data, mean, var, m, **settings)
        self.mean.data[...], self.var.data[...] = running

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

    x (N, H, W, channels) -> y of its shape. ConfigError where `groups` does not divide them, ShapeError for others.

    >>> minires.GroupNorm("gn", 8, groups=4).output_shape((16, 16, 8))
    (16, 16, 8)
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
        """Each group as one channel of InstanceNormalization, as opset 17 has no operator for groups."""
        name, before = self.name, [0, shape[-1], *shape[:-1]]
        ones, zeros = (
            graph.number(f"{name}.{word}", [value] * self.groups) for word, value in (("ones", 1), ("zeros", 0))
        )
        grouped = graph.constant(f"{name}.grouped", np.array([0, self.groups, -1]))
        x = graph.node("Reshape", f"{name}.split", [x, grouped])
        x = graph.node("InstanceNormalization", f"{name}.norm", [x, ones, zeros], epsilon=self.epsilon)
        x = graph.node("Reshape", f"{name}.joined", [x, graph.constant(f"{name}.whole", np.array(before))])
        gamma, beta = graph.hold(self.gamma, self.beta)
        if len(shape) == 3:
            axes = graph.constant(f"{name}.axes", np.array([1, 2]))
            gamma, beta = (graph.node("Unsqueeze", f"{v}.column", [v, axes]) for v in (gamma, beta))
        x = graph.node("Mul", f"{name}.scaled", [x, gamma])
        return graph.node("Add", name, [x, beta])


class LayerNorm(_Norm):
    """Layer normalisation: each position of each image by itself, over the last axes, which have the given shape.

    shape: a number C for the channels alone, or (W, C), (H, W, C); gamma and beta have it too. The same in training and
    evaluation. J. L. Ba et al., arXiv:1607.06450, section 3.
    """

    maths = Maths(
        (
            "y = γ (x − μ) / √(σ² + ε) + β",
            "The channels of each position are brought to mean 0 and variance 1, then scaled and shifted.",
        ),
        (
            "dx = (g − mean g − x̂ · mean(g x̂)) / σ,   g = γ dy",
            "What flows back through a position's mean and variance is subtracted; dividing by σ rescales the rest.",
        ),
    )

    def __init__(self, name: str, shape: tuple[int, ...], *, epsilon: float = 1e-5):
        super().__init__(name, shape, epsilon)

    def check_input(self, x: Array) -> None:
        """ShapeError or DeviceError, naming this layer, where x does not fit."""
        self.output_shape(x.shape[1:])
        self.check_device(x, self.gamma.data)

    def forward(self, x: Array) -> Array:
        self.check_input(x)
        mean, var = ops.layernorm_statistics(x, self.gamma.data.ndim)
        rstd = 1 / get_xp(x).sqrt(var + self.epsilon)
        self.save(x, mean, rstd)
        return ops.layernorm_forward(x, self.gamma.data, self.beta.data, mean, rstd)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        x, mean, rstd = self.saved()
        return self.write_grads(*ops.layernorm_backward(dy, x, self.gamma.data, mean, rstd))

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        last = self.gamma.data.shape
        if shape[-len(last) :] != last:
            raise ShapeError(f"{self.name}: expected {last} as the last axes, got {shape}: check the layer before it")
        return shape

    def kept_numbers(self, batch: int, shape: tuple[int, ...]) -> int:
        return 2 * batch * math.prod(shape[: len(shape) - self.gamma.data.ndim])

    def onnx(self, graph: Any, x: str, shape: tuple[int, ...]) -> str:
        axes, held = self.gamma.data.ndim, graph.hold(self.gamma, self.beta)
        settings = {"axis": -axes, "epsilon": self.epsilon}
        if axes > 1:  # which are held with their axes turned round
            held = [graph.node("Transpose", f"{v}.turned", [v], perm=list(range(axes))[::-1]) for v in held]
        if len(shape) == 1:
            return graph.node("LayerNormalization", self.name, [x, *held], **settings)
        x = graph.node("Transpose", f"{self.name}.to_nhwc", [x], perm=[0, 2, 3, 1])
        x = graph.node("LayerNormalization", f"{self.name}.nhwc", [x, *held], **settings)
        return graph.node("Transpose", self.name, [x], perm=[0, 3, 1, 2])
