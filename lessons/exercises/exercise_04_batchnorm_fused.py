"""Exercise 4: batch normalisation backward in one formula

Exercise 3 walked back over eight nodes and made five arrays of x's size on the way. Put the lines into each other,
on paper: nearly everything cancels, and dx needs x and dy once. Write

    batchnorm_backward(dy, x, gamma, mean, rstd) -> dx, dgamma, dbeta

    dy, x, dx                  (N, H, W, C); dy and x are not to be changed
    gamma, mean, rstd          (C,), where rstd = 1 / sqrt(var + epsilon), mean and var being those of this x
    dgamma, dbeta              (C,)

    y = gamma * x_hat + beta,     x_hat = (x - mean) * rstd,     m = N * H * W

What to expect of the result: dx sums to 0 over each channel, for a shift of x changes no y; and, but for epsilon,
it is orthogonal to x_hat, for a scale changes none either. The formula subtracts from dy exactly what breaks these
two rules.

Read: S. Ioffe, C. Szegedy, arXiv:1502.03167, section 3; in the library: batchnorm_backward in
minires/ops/naive.py, the staged way in loops.
"""


def batchnorm_backward(dy, x, gamma, mean, rstd):
    """dx, dgamma and dbeta in training mode."""
    raise NotImplementedError("batchnorm_backward")
