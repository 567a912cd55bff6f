"""A network for training with each normalisation, add and ReLU brought together, over the same parameters."""

from itertools import pairwise

from minires import ops
from minires.backend import get_xp
from minires.errors import StateError
from minires.fast import communicator
from minires.fast.checkpointing import Checkpointed
from minires.fast.fuse import FusedBlock, Fuser
from minires.fast.fused_ops import (
    batchnorm_dx_over,
    conv2d_backward_add,
    norm_add_relu_backward,
    norm_add_relu_forward,
    norm_statistics,
    relu_norm_sums,
)
from minires.nn.conv import Conv2d
from minires.nn.module import Module, Param, Sequential, inference
from minires.nn.norm import BatchNorm


class FusedConv(Conv2d):
    """`conv` without its bias, which the normalisation behind it takes away again; it can add to its gradient."""

    def __init__(self, conv: Conv2d):
        self.__dict__.update(vars(conv), b=None)

    def backward_onto(self, dy, add):
        """dx + add."""
        (x,) = self.saved()
        wanted = {"need_dw": self.w.trainable, "dw": self.w.grad}
        dx, dw, _ = conv2d_backward_add(dy, x, self.w.data, add, **self.window, **wanted)
        self.w.write_grad(dw)
        return dx


class FusedNorm(Module):
    """Batch normalisation in training, or frozen, then the residual add and ReLU if asked for.

    `bias` is that of the convolution before it, which was left out: the mean takes it away again, so it
    moves the running mean and nothing else, and its gradient is zero. Not so where the statistics rest.
    """

    def __init__(self, norm: BatchNorm, relu: bool, bias: Param | None):
        super().__init__(norm.name)
        self.norm, self.relu, self.bias, self.rests = norm, relu, bias, norm.frozen
        self.over = False  # whether nobody else needs the dy that comes

    def forward(self, x, shortcut=None):
        norm = self.norm
        if norm.training == self.rests:
            now = "training" if norm.training else "evaluation"
            raise StateError(f"{norm.name} went into {now} mode: call .train(), or make the step anew")
        mean, rstd, m = self._resting() if self.rests else self._statistics(x)
        y = norm_add_relu_forward(x, norm.gamma.data, norm.beta.data, mean, rstd, shortcut, self.relu)
        self.save(x, y if self.relu else None, mean, rstd, m, shortcut is None)
        return y

    def _resting(self):
        var = self.norm.var.data
        return self.norm.mean.data, 1 / get_xp(var).sqrt(var + self.norm.epsilon), None

    def _statistics(self, x):
        """(mean, rstd, m), m where other ranks have a share of the m values."""
        norm, bias = self.norm, None if self.bias is None else self.bias.data
        if not communicator.synchronised():
            momentum = norm.momentum if norm.update_running_stats else 1.0  # they stay where they are
            settings = {"epsilon": norm.epsilon, "unbiased": norm.unbiased, "bias": bias, "momentum": momentum}
            return *norm_statistics(x, norm.mean.data, norm.var.data, **settings), None
        mean, var, m = communicator.pooled(*ops.batchnorm_statistics(x), x.size // x.shape[-1], len(x))
        if norm.update_running_stats:
            norm.move_running_stats(mean if bias is None else mean + bias, var, m)
        return mean, 1 / get_xp(x).sqrt(var + norm.epsilon), m

    def backward(self, dy, need_dx=True):
        return self._backward(dy, False)[0]

    def backward_both(self, dy):
        """(dx, dshortcut)."""
        return self._backward(dy, True)

    def _backward(self, dy, need_g):
        x, y, mean, rstd, m, alone = self.saved()
        gamma, beta = self.norm.gamma, self.norm.beta
        if m is None:
            options = {"need_g": need_g, "dgamma": gamma.grad, "dbeta": beta.grad}
            options |= {"training": not self.rests, "beta": beta.data if alone else None, "over": self.over}
            dx, g, dgamma, dbeta = norm_add_relu_backward(dy, x, y, gamma.data, mean, rstd, **options)
        else:
            if self.relu:
                g, *sums = relu_norm_sums(dy, x, y, mean, rstd)
            else:
                g, sums = dy, ops.batchnorm_sums(dy, x, mean, rstd)
            write_dx = batchnorm_dx_over if self.relu and not need_g else ops.batchnorm_dx
            dx = write_dx(g, x, gamma.data, mean, rstd, *communicator.totals(*sums), m)
            dgamma, dbeta = sums
        gamma.write_grad(dgamma)
        beta.write_grad(dbeta)
        return dx, g


class _Trainer(Fuser):
    def __init__(self, recompute):
        self.recompute = recompute
        self.idle: list[Param] = []  # biases that no gradient reaches

    def normalised(self, conv, norm, relu):
        if conv is None or norm.frozen:  # a mean that rests does not take the bias away
            return [*([] if conv is None else [conv]), FusedNorm(norm, relu, None)]
        self.idle += [] if conv.b is None or not conv.b.trainable else [conv.b]
        return [FusedConv(conv), FusedNorm(norm, relu, conv.b)]

    def block(self, block):
        return Checkpointed(block) if self.recompute else block

    def chain(self, layers):
        result = super().chain(layers)
        for layer, following in pairwise(result):
            block = _block_in(layer)
            last = block.branch.layers[-1] if block else layer
            if isinstance(last, FusedNorm):
                last.over = _makes_dx(following)
        return result


def _block_in(layer):
    layer = layer.block if isinstance(layer, Checkpointed) else layer
    return layer if isinstance(layer, FusedBlock) else None


def _makes_dx(layer) -> bool:
    """Whether dx of this layer is an array of its own, as a convolution's is; others may hand on what they got."""
    if block := _block_in(layer):
        paths = (block.branch, block.shortcut)
        return all(_makes_dx(path.layers[0]) for path in paths if isinstance(path, Sequential))
    return isinstance(layer, Conv2d)


class Fused:
    """`model`, fused: forward and backward in training mode; its parameters' gradients are those of the batch.

    recompute: blocks keep their input alone and are computed again on the way back (checkpointing.py).
    Make it anew after `.to` or `.astype`. A convolution's bias before a normalisation gets the gradient that it has in
    exact arithmetic, zero, where the plain layers get what rounding leaves.
    """

    def __init__(self, model, *, recompute: bool = False):
        model.release()
        trainer = _Trainer(recompute)
        self.net, self.idle = trainer.network(model), trainer.idle
        first = next((i for i, layer in enumerate(self.net.layers) if layer.is_trainable()), 0)
        self.frozen, self.rest = (Sequential(*part) for part in (self.net.layers[:first], self.net.layers[first:]))

    def forward(self, x):
        """The logits; what is frozen in front keeps nothing, for no gradient gets there."""
        if self.frozen.layers:
            with inference(self.frozen):
                x = self.frozen.forward(x)
        return self.rest.forward(x)

    def backward(self, dy, need_dx=False):
        """Write every parameter's gradient; dx only if asked for."""
        dx = self.rest.backward(dy, need_dx=need_dx)
        for param in self.idle:
            param.write_grad(get_xp(param.data).zeros_like(param.data))
        return dx
