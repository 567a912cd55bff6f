"""Ops that follow one another, as one: in C a single walk over memory; reading this file is optional.

Each says what it is made of, and without a compiler runs just so.
"""

from minires.fast.cpu import compiled
from minires.ops.activation import add_forward, relu_backward, relu_forward
from minires.ops.conv import conv2d_backward, conv2d_forward
from minires.ops.norm import batchnorm_backward, batchnorm_forward


@compiled
def norm_add_relu_forward(x, gamma, beta, mean, rstd, shortcut=None, relu=True):
    """y = relu(gamma * x_hat + beta + shortcut), the last two if asked for."""
    y = batchnorm_forward(x, gamma, beta, mean, rstd)
    if shortcut is not None:
        y = add_forward(y, shortcut)
    return relu_forward(y) if relu else y


@compiled
def norm_add_relu_backward(dy, x, y, gamma, mean, rstd, *, relu=True, need_g=True):
    """(dx, g, dgamma, dbeta); g = dy where y > 0, else 0, is the gradient of the shortcut. None unless needed."""
    g = relu_backward(dy, y) if relu else dy
    dx, dgamma, dbeta = batchnorm_backward(g, x, gamma, mean, rstd)
    return dx, g if need_g else None, dgamma, dbeta


@compiled
def conv2d_backward_add(dy, x, w, add, *, stride=1, pad=0, dw=None):
    """(dx + add, dw, None): where two paths part, their gradients meet."""
    dx, dw, _ = conv2d_backward(dy, x, w, stride=stride, pad=pad, need_db=False, dw=dw)
    return add_forward(dx, add), dw, None


@compiled
def conv2d_add_relu(x, weights, b=None, shortcut=None, relu=True, *, stride=1, pad=0):
    """y = relu(conv(x, w) + b + shortcut), the last two if asked for; weights: a `Weights` of w, which it may pack."""
    y = conv2d_forward(x, weights.plain(), b, stride=stride, pad=pad)
    if shortcut is not None:
        y = add_forward(y, shortcut)
    return relu_forward(y) if relu else y
