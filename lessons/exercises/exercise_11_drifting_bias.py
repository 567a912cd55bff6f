"""Exercise 11: bug hunt, the bias that drifts

The backward pass of batch normalisation below follows the paper line by line, or so it seems. Networks that use it
do learn, a little worse than others. One observation: the bias of the convolution before the normalisation wanders
off, further with each step, although no output depends on it (the mean is subtracted right after it is added).

    dy, x, dx                  (N, H, W, C)
    gamma, mean, rstd          (C,), rstd = 1 / sqrt(var + epsilon)
    dgamma, dbeta              (C,)

Find the fault in batchnorm_backward and mend it.

Read: S. Ioffe, C. Szegedy, arXiv:1502.03167, section 3, the gradients below algorithm 1, all six of them, with a
pencil. The instrument is minires.instruments.gradcheck, which takes a pair of functions.
"""

AXES = (0, 1, 2)


def batchnorm_backward(dy, x, gamma, mean, rstd):
    """dx, dgamma and dbeta in training mode, as in section 3 of the paper."""
    m = x.size // x.shape[-1]
    centred = x - mean
    dx_hat = dy * gamma
    dvar = (dx_hat * centred).sum(axis=AXES) * -0.5 * rstd**3
    dmean = dvar * -2 * centred.sum(axis=AXES) / m
    dx = dx_hat * rstd + dvar * 2 * centred / m + dmean / m
    dgamma = (dy * centred * rstd).sum(axis=AXES)
    dbeta = dy.sum(axis=AXES)
    return dx, dgamma, dbeta
