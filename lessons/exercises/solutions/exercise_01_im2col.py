"""Exercise 1: one strided slice of x for each cell of the window."""

import numpy as np


def im2col(x, kernel, stride):
    """Every receptive field of x as a row."""
    (R, S), (sv, sh) = kernel, stride
    N, H, W, C = x.shape
    P, Q = (H - R) // sv + 1, (W - S) // sh + 1
    fields = np.empty((N, P, Q, R, S, C), x.dtype)
    for r in range(R):
        for s in range(S):
            fields[:, :, :, r, s] = x[:, r : r + sv * P : sv, s : s + sh * Q : sh]
    return fields.reshape(N * P * Q, R * S * C)
