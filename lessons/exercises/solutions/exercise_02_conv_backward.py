"""Exercise 2: for each cell (r, s) of the window, two matrix products."""

import numpy as np


def conv2d_backward(dy, x, w, *, stride=1, pad=0):
    """The gradients of x, w and b."""
    (_, H, W, C), (R, S, _, O) = x.shape, w.shape
    _, P, Q, _ = dy.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    rows = dy.reshape(-1, O)
    for r in range(R):
        for s in range(S):
            cell = slice(None), slice(r, r + stride * P, stride), slice(s, s + stride * Q, stride)
            dw[r, s] = padded[cell].reshape(-1, C).T @ rows
            dpadded[cell] += dy @ w[r, s].T
    return dpadded[:, pad : pad + H, pad : pad + W], dw, dy.sum(axis=(0, 1, 2))
