"""Exercise 3: batch normalisation backward, one node of the graph at a time

Batch normalisation is a chain of small steps, and the gradient walks back over each of them. The forward pass
stands below, a line a step. Write the backward pass, a line for each:

    batchnorm_backward(dy, cache) -> a dict of gradients

    dy                       (m, C); not to be changed, and neither is the cache
    dbeta, dgamma            (C,)      of the parameters
    dx_hat                   (m, C)    of the normalised x
    drstd, dvar              (C,)      of 1 / sqrt(var + epsilon), and of the variance
    dcentred                 (m, C)    of x - mean, which is used twice
    dmean                    (C,)      of the mean
    dx                       (m, C)    of x, which is used twice too

m counts the values of a channel: N * H * W for images, N for vectors. Two rules are all it takes:
where an array was used several times, its gradients add up; where a vector (C,) was spread over the m rows, its
gradient is the sum over these rows.

Read: S. Ioffe, C. Szegedy, "Batch Normalization", arXiv:1502.03167, section 3, the six gradients below
algorithm 1 (they go through the same nodes, with mean and variance in one step each);
in the library: batchnorm_statistics and batchnorm_forward in minires/ops/norm.py.
"""

import numpy as np


def batchnorm_forward(x, gamma, beta, epsilon=1e-5):
    """y (m, C) for x (m, C), with what backward needs."""
    mean = x.mean(axis=0)  # (C,)
    centred = x - mean  # (m, C)
    var = (centred**2).mean(axis=0)  # (C,)
    rstd = 1 / np.sqrt(var + epsilon)  # (C,)
    x_hat = centred * rstd  # (m, C)
    y = gamma * x_hat + beta  # (m, C)
    return y, {"centred": centred, "rstd": rstd, "x_hat": x_hat, "gamma": gamma}


def batchnorm_backward(dy, cache):
    """The gradient of every node, last node first."""
    # cache["centred"], cache["rstd"], cache["x_hat"], cache["gamma"]
    # y = gamma * x_hat + beta
    dbeta = ...
    dgamma = ...
    dx_hat = ...
    # x_hat = centred * rstd: two factors
    drstd = ...
    # rstd = (var + epsilon) ** (-1 / 2)
    dvar = ...
    # centred is used in x_hat and in var = sum centred ** 2 / m
    dcentred = ...
    # centred = x - mean
    dmean = ...
    # x is used in centred and in mean = sum x / m
    dx = ...
    grads = {"dbeta": dbeta, "dgamma": dgamma, "dx_hat": dx_hat, "drstd": drstd}
    return grads | {"dvar": dvar, "dcentred": dcentred, "dmean": dmean, "dx": dx}
