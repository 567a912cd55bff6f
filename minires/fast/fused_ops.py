"""Ops that follow one another, as one: in C and in CUDA a single walk over memory.

Each says what it is made of, and without a kernel runs just so.
"""

from minires.backend import get_xp
from minires.fast.dispatch import compiled
from minires.ops.activation import relu_backward, relu_forward
from minires.ops.conv import conv2d_backward, conv2d_forward
from minires.ops.join import add_forward
from minires.ops.norm import (
    batchnorm_backward,
    batchnorm_dx,
    batchnorm_eval_backward,
    batchnorm_forward,
    batchnorm_running,
    batchnorm_statistics,
    batchnorm_sums,
)


@compiled
def norm_statistics(x, running_mean, running_var, *, epsilon, momentum, unbiased=False, bias=None):
    """(mean, rstd) of each channel; the running statistics move on, as in nn.BatchNorm.

    bias: of the convolution before, where it was left out: it moves the running mean and nothing else.
    """
    mean, var = batchnorm_statistics(x)
    moved = mean if bias is None else mean + bias
    settings = {"momentum": momentum, "unbiased": unbiased}
    running = batchnorm_running(running_mean, running_var, moved, var, x.size // x.shape[-1], **settings)
    running_mean[...], running_var[...] = running
    return mean, 1 / get_xp(x).sqrt(var + epsilon)


@compiled
def norm_add_relu_forward(x, gamma, beta, mean, rstd, shortcut=None, relu=True):
    """y = relu(gamma * x_hat + beta + shortcut), the last two if asked for."""
    y = batchnorm_forward(x, gamma, beta, mean, rstd)
    if shortcut is not None:
        y = add_forward(y, shortcut)
    return relu_forward(y) if relu else y


@compiled
def norm_add_relu_backward(
    dy, x, y, gamma, mean, rstd, *, need_g=True, dgamma=None, dbeta=None, training=True, beta=None, over=False
):
    """(dx, g, dgamma, dbeta); g = dy where y > 0, else 0, is the gradient of the shortcut: None unless needed.

    y: None where there was no ReLU, and g is dy. beta: given where there was no shortcut; a kernel may then find from x
    where y > 0, instead of reading y. dgamma and dbeta are written where they are given. training: False where mean
    and rstd do not depend on x. over: nobody else needs dy, which may have dx or g written over it.
    """
    g = dy if y is None else relu_backward(dy, y)
    dx, *sums = (batchnorm_backward if training else batchnorm_eval_backward)(g, x, gamma, mean, rstd)
    for out, value in zip((dgamma, dbeta), sums, strict=True):
        if out is not None:
            out[...] = value
    return dx, g if need_g else None, *sums


@compiled
def relu_norm_sums(dy, x, y, mean, rstd):
    """(g, dgamma, dbeta): g = dy where y > 0, else 0, and the sums over it of `batchnorm_sums`."""
    g = relu_backward(dy, y)
    return g, *batchnorm_sums(g, x, mean, rstd)


@compiled
def batchnorm_dx_over(g, x, gamma, mean, rstd, dgamma, dbeta, m):
    """`batchnorm_dx`, written over g."""
    g[...] = batchnorm_dx(g, x, gamma, mean, rstd, dgamma, dbeta, m)
    return g


@compiled
def conv2d_backward_add(dy, x, w, add, *, stride=1, pad=0, dilation=1, groups=1, need_dw=True, dw=None):
    """(dx + add, dw, None): where two paths part, their gradients meet."""
    window = {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups}
    dx, dw, _ = conv2d_backward(dy, x, w, **window, need_dw=need_dw, need_db=False, dw=dw)
    return add_forward(dx, add), dw, None


@compiled
def conv2d_add_relu(x, weights, b=None, shortcut=None, relu=True, *, stride=1, pad=0, dilation=1, groups=1):
    """y = relu(conv(x, w) + b + shortcut), the last two if asked for; weights: a `Weights` of w, which it may pack."""
    y = conv2d_forward(x, weights.plain(), b, stride=stride, pad=pad, dilation=dilation, groups=groups)
    if shortcut is not None:
        y = add_forward(y, shortcut)
    return relu_forward(y) if relu else y
