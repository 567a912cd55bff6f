"""Exercise 2: the backward pass of a convolution

The forward pass is given (minires.ops.conv2d_forward):

    y[n, p, q, o] = b[o] + sum over r, s, c of  x[n, p * stride + r - pad, q * stride + s - pad, c] * w[r, s, c, o]

where x counts as 0 outside the image. The loss L depends on x, w and b through y alone, and dy = dL/dy arrives
from above. Write

    conv2d_backward(dy, x, w, *, stride=1, pad=0) -> dx, dw, db

    dy   (N, P, Q, O); not to be changed, and neither are x and w
    x    (N, H, W, C)                    dx  the same shape
    w    (R, S, C, O)                    dw  the same shape
    stride, pad   one number each, for both directions
    db   (O,), the gradient of the bias, which itself is not needed

    the chain rule:   dx[i] = sum over all outputs j of  dy[j] * dy_j/dx_i,   and dw, db alike

Read: minires/ops/naive.py, whose opening text says a convolution in one line with three readings;
V. Dumoulin, F. Visin, arXiv:1603.07285, section 4, for the shapes of the way back.
"""

import numpy as np


def conv2d_backward(dy: np.ndarray, x: np.ndarray, w: np.ndarray, *, stride=1, pad=0) -> tuple:
    """The gradients of x, w and b."""
    raise NotImplementedError("conv2d_backward")
