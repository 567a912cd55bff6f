"""One network by CUDA kernels: its copy, with each normalisation, add and ReLU brought together.

For training the copy shares parameters and buffers with the network it was made from, for inference batch
normalisation is folded into the convolutions. It gives what the network gives, up to the order of summation.
What has no kernel of its own (fast/gpu/kernels.py) runs as it is: the plain ops take CuPy arrays.
"""

from minires.backend import get_xp
from minires.fast.fuse import FusedSequential, Rewriter, folded, rewritable
from minires.fast.gpu import kernels
from minires.fast.gpu.graph import Replay
from minires.nn.layers import BatchNorm, Conv2d, Dense, Dropout, MaxPool2d
from minires.nn.module import Module, Param


class KernelConv(Module):
    """A convolution; without its bias where a normalisation follows, which takes it away again."""

    def __init__(self, conv: Conv2d, *, with_bias: bool):
        super().__init__(conv.name)
        self.check_input, self.window = conv.check_input, {"stride": conv.stride, "pad": conv.pad}
        self.w, self.b = conv.w, conv.b if with_bias else None

    def forward(self, x):
        self.check_input(x)
        self.save(x)
        return kernels.conv2d_forward(x, self.w.data, None if self.b is None else self.b.data, **self.window)

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        needs = {"need_dx": need_dx, "need_db": self.b is not None}
        dx, _, db = kernels.conv2d_backward(dy, x, self.w.data, **self.window, **needs, dw=self.w.grad)
        if self.b is not None:
            self.b.write_grad(db)
        return dx


class KernelNorm(Module):
    """Batch normalisation in training, the residual add and ReLU if asked for; `bias`: of the convolution before."""

    def __init__(self, norm: BatchNorm, relu: bool, bias: Param | None):
        super().__init__(norm.name)
        self.norm, self.relu, self.bias, self.tracks = norm, relu, bias, True
        self.settings = {"epsilon": norm.epsilon, "momentum": norm.momentum, "unbiased": norm.unbiased}

    def forward(self, x, shortcut=None):
        norm, bias = self.norm, None if self.bias is None else self.bias.data
        settings = self.settings if self.tracks else {**self.settings, "momentum": 1.0}  # stay where they are
        mean, rstd = kernels.norm_statistics(x, norm.mean.data, norm.var.data, bias=bias, **settings)
        y = kernels.norm_add_relu_forward(x, norm.gamma.data, norm.beta.data, mean, rstd, shortcut, self.relu)
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
        return kernels.norm_add_relu_backward(
            dy, x, y, gamma.data, mean, rstd, dgamma=gamma.grad, dbeta=beta.grad, need_g=need_g
        )


class KernelFolded(Module):
    """In evaluation: relu(conv(x, w) + b + shortcut), the last two if asked for; weights of its own."""

    def __init__(self, conv: Conv2d, norm: BatchNorm, relu: bool):
        super().__init__(conv.name)
        self.check_input, self.window, self.relu = conv.check_input, {"stride": conv.stride, "pad": conv.pad}, relu
        self.w, self.b = folded(conv, norm)

    def forward(self, x, shortcut=None):
        self.check_input(x)
        return kernels.shift_add_relu(kernels.conv2d_forward(x, self.w, **self.window), self.b, shortcut, self.relu)


class KernelEvalNorm(Module):
    """Batch normalisation in evaluation where no convolution is before it, then ReLU if asked for."""

    def __init__(self, norm: BatchNorm, relu: bool):
        super().__init__(norm.name)
        self.relu = relu
        self.constants = (
            norm.gamma.data,
            norm.beta.data,
            norm.mean.data,
            1 / get_xp(norm.var.data).sqrt(norm.var.data + norm.epsilon),
        )

    def forward(self, x, shortcut=None):
        return kernels.norm_add_relu_forward(x, *self.constants, shortcut, self.relu)


class KernelDense(Module):
    """A fully connected layer."""

    def __init__(self, dense: Dense):
        super().__init__(dense.name)
        self.w, self.b = dense.w, dense.b

    def forward(self, x):
        self.save(x)
        return kernels.dense_forward(x, self.w.data, None if self.b is None else self.b.data)

    def backward(self, dy, need_dx=True):
        dx, _, db = kernels.dense_backward(dy, *self.saved(), self.w.data, need_dx=need_dx, dw=self.w.grad)
        if self.b is not None:
            self.b.write_grad(db)
        return dx


class KernelMaxPool(Module):
    """The largest value of each window."""

    def __init__(self, pool: MaxPool2d):
        super().__init__(pool.name)
        self.window = pool.window

    def forward(self, x):
        y, winner = kernels.maxpool_forward(x, **self.window)
        self.save(winner, x.shape)
        return y

    def backward(self, dy, need_dx=True):
        return kernels.maxpool_backward(dy, *self.saved(), **self.window)


class _Copier(Rewriter):
    """Kernels for the layers that have one."""

    def layer(self, module):
        if isinstance(module, Conv2d):
            return KernelConv(module, with_bias=True)
        if isinstance(module, Dense):
            return KernelDense(module)
        return KernelMaxPool(module) if isinstance(module, MaxPool2d) else super().layer(module)


class _Trainer(_Copier):
    def __init__(self, recompute):
        self.recompute = recompute
        self.idle: list[Param] = []  # biases that no gradient reaches

    def normalised(self, conv, norm, relu):
        if conv is None:
            return [KernelNorm(norm, relu, None)]
        self.idle += [conv.b] if conv.b is not None else []
        return [KernelConv(conv, with_bias=False), KernelNorm(norm, relu, conv.b)]


class _Folder(_Copier):
    def normalised(self, conv, norm, relu):
        return [KernelEvalNorm(norm, relu) if conv is None else KernelFolded(conv, norm, relu)]


class OnGpu:
    """`model` by kernels: forward and backward in training mode; its parameters' gradients are those of the batch.

    recompute: blocks keep their input alone and are computed again on the way back (fast/checkpointing.py).
    Make it anew after `.to` or `.astype`, and after an optimiser was made. A convolution's bias before a
    normalisation gets the gradient that it has in exact arithmetic, zero.
    """

    def __init__(self, model, *, recompute: bool = False):
        copier = _Trainer(recompute)
        self.net = FusedSequential(*copier.chain(model.layers), name=model.name)
        for param in model.params():
            if param.grad is None:
                param.grad = get_xp(param.data).zeros_like(param.data)
        for param in copier.idle:
            param.grad[...] = 0  # once: nothing here writes it
        self.forward = self.net.forward
        self.random = any(isinstance(m, Dropout) and m.rate for m in model.modules())  # draws masks on the host

    @staticmethod
    def fits(model) -> bool:
        """Whether this is a network of the library's own layers, on a GPU for which kernels can be compiled."""
        return kernels.available(model.params()[0].data) and rewritable(model) and hasattr(model, "layers")

    def backward(self, dy, need_dx=False):
        """Write every parameter's gradient; dx only if asked for."""
        return self.net.backward(dy, need_dx=need_dx)


class InferenceOnGpu:
    """A network as it is now, by kernels: logits (N, K) for x (N, H, W, C). Replayed as a graph unless told not to."""

    def __init__(self, model, *, graph=True):
        self.net = FusedSequential(*_Folder().chain(model.layers), name=model.name)
        for module in self.net.modules():
            module.training = module.keeps = False
        reason = "" if graph else "asked for none"
        self.replay = Replay(get_xp(model.params()[0].data), self.net.forward, reason)

    def __call__(self, x):
        logits = self.replay(x)
        return logits if self.replay.reason else logits.copy()
