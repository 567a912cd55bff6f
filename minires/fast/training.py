"""A network for training with each normalisation, add and ReLU brought together, over the same parameters."""

from minires.backend import get_xp
from minires.errors import StateError
from minires.fast.checkpointing import Checkpointed
from minires.fast.fuse import Fuser
from minires.fast.fused_ops import conv2d_backward_add, norm_add_relu_backward, norm_add_relu_forward, norm_statistics
from minires.nn.layers import BatchNorm, Conv2d
from minires.nn.module import Module, Param


class FusedConv(Conv2d):
    """`conv` without its bias, which the normalisation behind it takes away again; it can add to its gradient."""

    def __init__(self, conv: Conv2d):
        self.__dict__.update(vars(conv), b=None)

    def backward_onto(self, dy, add):
        """dx + add."""
        (x,) = self.saved()
        dx, dw, _ = conv2d_backward_add(dy, x, self.w.data, add, **self.window, dw=self.w.grad)
        self.w.write_grad(dw)
        return dx


class FusedNorm(Module):
    """Batch normalisation in training, then the residual add and ReLU if asked for.

    `bias` is that of the convolution before it, which was left out: the mean takes it away again, so it
    moves the running mean and nothing else, and its gradient is zero.
    """

    def __init__(self, norm: BatchNorm, relu: bool, bias: Param | None):
        super().__init__(norm.name)
        self.norm, self.relu, self.bias = norm, relu, bias

    def forward(self, x, shortcut=None):
        norm, bias = self.norm, None if self.bias is None else self.bias.data
        if not norm.training:
            raise StateError(f"{norm.name} went into evaluation mode: call .train(), or make the step anew")
        settings = {"epsilon": norm.epsilon, "unbiased": norm.unbiased, "bias": bias}
        momentum = norm.momentum if norm.update_running_stats else 1.0  # they stay where they are
        mean, rstd = norm_statistics(x, norm.mean.data, norm.var.data, momentum=momentum, **settings)
        y = norm_add_relu_forward(x, norm.gamma.data, norm.beta.data, mean, rstd, shortcut, self.relu)
        self.save(x, y if self.relu else None, mean, rstd)
        return y

    def backward(self, dy, need_dx=True):
        return self._backward(dy, False)[0]

    def backward_both(self, dy):
        """(dx, dshortcut)."""
        return self._backward(dy, True)

    def _backward(self, dy, need_g):
        x, y, mean, rstd = self.saved()
        gamma, beta = self.norm.gamma, self.norm.beta
        options = {"relu": self.relu, "need_g": need_g, "dgamma": gamma.grad, "dbeta": beta.grad}
        dx, g, dgamma, dbeta = norm_add_relu_backward(dy, x, y, gamma.data, mean, rstd, **options)
        gamma.write_grad(dgamma)
        beta.write_grad(dbeta)
        return dx, g


class _Trainer(Fuser):
    def __init__(self, recompute):
        self.recompute = recompute
        self.idle: list[Param] = []  # biases that no gradient reaches

    def normalised(self, conv, norm, relu):
        if conv is None:
            return [FusedNorm(norm, relu, None)]
        self.idle += [] if conv.b is None else [conv.b]
        return [FusedConv(conv), FusedNorm(norm, relu, conv.b)]

    def block(self, block):
        return Checkpointed(block) if self.recompute else block


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
        self.forward = self.net.forward

    def backward(self, dy, need_dx=False):
        """Write every parameter's gradient; dx only if asked for."""
        dx = self.net.backward(dy, need_dx=need_dx)
        for param in self.idle:
            param.write_grad(get_xp(param.data).zeros_like(param.data))
        return dx
