"""3x3 convolution with stride 1 in a quarter to half of the multiplications; reading this file is optional.

The map is cut into tiles of m x m outputs, each of which sees n x n inputs, n = m + 2. With three linear maps
over a tile, stated here as matrices over its cells laid out in a row,

    y = A^T [ (G w) * (B x) ]      summed over the input channels; * is cell by cell

takes n^2 multiplications where the plain sum takes 9 m^2: 2.25 times as many for m = 2, 4 times for m = 4.
All three are matrix products here, and so the backward pass is their transposes:

    dM = A dy,   d(Gw) = sum over tiles of (B x)^T dM,   dx = B^T (dM (Gw)^T),   dw = G^T d(Gw)

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv:1509.09308, sections 3 and 4;
S. Winograd, "Arithmetic Complexity of Computations", 1980. The points at which polynomials are evaluated are
0, +-1/sqrt(2), +-sqrt(2) and infinity, not the usual 0, +-1, +-2: rounding in float32 is then 3 to 5 times that
of the plain sum instead of 7 to 11 (tests/test_ops_winograd.py). B. Barabasz et al., arXiv:1803.10986, on points.
"""

from functools import cache
from math import isqrt

import numpy as np

from minires.backend import workspace
from minires.ops.conv import resolve_padding
from minires.ops.products import product, products

KERNEL = (3, 3)
POINTS = {2: (0, 1, -1), 4: (0, 2**-0.5, -(2**-0.5), 2**0.5, -(2**0.5))}
WORKSPACE = 2**19  # bytes of transformed tiles at a time: they and their products stay in the cache


@cache
def matrices(m: int, dtype) -> tuple:
    """A (n^2, m^2), G (n^2, 9), B (n^2, n^2).

    In one dimension: the product of two polynomials with 3 and m coefficients is their values at n points,
    multiplied, and interpolated: V_n^-1 [(V_3 g) * (V_m h)], where V_k holds the powers 0..k-1 of the points.
    The correlation with g is the transpose of that map in h: V_m^T [(V_3 g) * (V_n^-T d)].
    """

    def powers(k):
        at_infinity = np.arange(k) == k - 1
        return np.array([*(np.float64(p) ** np.arange(k) for p in POINTS[m]), at_infinity])

    line = powers(m), powers(3), np.linalg.inv(powers(m + 2)).T
    return tuple(np.kron(a, a).astype(dtype) for a in line)


def _sizes(U):
    """(n, m) of a transformed kernel."""
    n = isqrt(len(U))
    return n, n - 2


def kernel_forward(w, m, out=None):
    """U = G w: (3, 3, C, O) -> (n^2, C, O); written into `out` where one is given."""
    _, _, C, O = w.shape
    G = matrices(m, w.dtype)[1]
    U = np.empty((len(G), C, O), w.dtype) if out is None else out
    product(G, w.reshape(9, C * O), out=U.reshape(-1, C * O))
    return U


def kernel_backward(dU, dw=None):
    """dw = G^T dU: (n^2, C, O) -> (3, 3, C, O); written into `dw` where one is given."""
    n2, C, O = dU.shape
    G = matrices(_sizes(dU)[1], dU.dtype)[1]
    dw = np.empty((3, 3, C, O), dU.dtype) if dw is None else dw
    product(G.T, dU.reshape(n2, C * O), out=dw.reshape(9, C * O))
    return dw


def _windows(x, size, step, counts):
    """Windows of `size`, `step` cells apart, as a view: (N, H, W, C) -> (*size, N, *counts, C)."""
    n, h, w, c = x.strides
    shape = (*size, len(x), *counts, x.shape[-1])
    return np.lib.stride_tricks.as_strided(x, shape, (h, w, n, step * h, step * w, c))


class _Tiling:
    """How the images of a convolution are cut into tiles."""

    def __init__(self, x, U, pad):
        self.n, self.m = _sizes(U)
        N, H, W, _ = x.shape
        (self.top, bottom), (self.left, right) = resolve_padding(pad, (H, W), KERNEL, (1, 1))
        self.output = H + self.top + bottom - 2, W + self.left + right - 2
        self.counts = tuple(-(-size // self.m) for size in self.output)
        self.A, _, self.B = matrices(self.m, x.dtype)
        tile_bytes = len(U) * max(U.shape[1:]) * x.itemsize
        step = max(1, workspace(max(WORKSPACE, U.nbytes // 4)) // (tile_bytes * self.counts[0] * self.counts[1]))
        self.pieces = [slice(i, min(i + step, N)) for i in range(0, N, step)]

    def transformed(self, x):
        """B x: (N, H, W, C) -> (n^2, tiles, C)."""
        N, H, W, C = x.shape
        th, tw = self.counts
        padded = np.zeros((N, th * self.m + 2, tw * self.m + 2, C), x.dtype)
        padded[:, self.top : self.top + H, self.left : self.left + W] = x
        patches = _windows(padded, (self.n, self.n), self.m, self.counts).reshape(self.n**2, -1)
        return product(self.B, patches).reshape(self.n**2, -1, C)

    def transformed_backward(self, dV, shape):
        """The adjoint: (n^2, tiles, C) -> dx (N, H, W, C). Where tiles overlap, their gradients add up."""
        N, H, W, C = shape
        n, m, (th, tw) = self.n, self.m, self.counts
        d = product(self.B.T, dV.reshape(n * n, -1)).reshape(n, n, N, th, tw, C)
        d[:2, :, :, 1:] += d[m:, :, :, :-1]
        d[:, :2, :, :, 1:] += d[:, m:, :, :, :-1]
        dpadded = np.empty((N, th * m + 2, tw * m + 2, C), dV.dtype)
        every, last = slice(None), slice(-1, None)
        for rows, i in ((slice(0, m), every), (slice(m, n), last)):
            for columns, j in ((slice(0, m), every), (slice(m, n), last)):
                part = d[rows, columns, :, i, j]
                corner = dpadded[:, th * m if i is last else 0 :, tw * m if j is last else 0 :]
                _windows(corner, part.shape[:2], m, part.shape[3:5])[...] = part
        return dpadded[:, self.top : self.top + H, self.left : self.left + W]

    def assembled(self, Y, y):
        """Write A^T's (m^2, tiles * O) into y (N, P, Q, O)."""
        N, P, Q, O = y.shape
        th, tw = self.counts
        whole = y if (th * self.m, tw * self.m) == (P, Q) else np.empty((N, th * self.m, tw * self.m, O), y.dtype)
        _windows(whole, (self.m, self.m), self.m, self.counts)[...] = Y.reshape(self.m, self.m, N, th, tw, O)
        if whole is not y:
            y[...] = whole[:, :P, :Q]

    def assembled_backward(self, dy):
        """A dy: (N, P, Q, O) -> (n^2, tiles, O)."""
        N, P, Q, O = dy.shape
        th, tw = self.counts
        if (th * self.m, tw * self.m) != (P, Q):
            whole = np.zeros((N, th * self.m, tw * self.m, O), dy.dtype)
            whole[:, :P, :Q] = dy
            dy = whole
        tiles = _windows(dy, (self.m, self.m), self.m, self.counts).reshape(self.m**2, -1)
        return product(self.A, tiles).reshape(self.n**2, -1, O)


def winograd_forward(x, U, pad):
    """y (N, P, Q, O) of a convolution of x (N, H, W, C) with stride 1; U (n^2, C, O) from `kernel_forward`."""
    tiling = _Tiling(x, U, pad)
    y = np.empty((len(x), *tiling.output, U.shape[2]), x.dtype)
    for images in tiling.pieces:
        M = products(tiling.transformed(x[images]), U)  # (n^2, tiles, O)
        tiling.assembled(product(tiling.A.T, M.reshape(len(U), -1)), y[images])
    return y


def winograd_backward(dy, x, U, pad, need_dx=True):
    """(dx, dU) of `winograd_forward`; dx is None unless needed."""
    tiling = _Tiling(x, U, pad)
    dU, dx = np.empty_like(U), np.empty_like(x) if need_dx else None
    Ut = U.transpose(0, 2, 1)
    if U[0].size <= 64**2:  # worth the copy
        Ut = np.ascontiguousarray(Ut)
    for images in tiling.pieces:
        V, dM = tiling.transformed(x[images]).transpose(0, 2, 1), tiling.assembled_backward(dy[images])
        if images.start == 0:
            np.matmul(V, dM, out=dU)
        else:
            dU += np.matmul(V, dM)
        if need_dx:
            dx[images] = tiling.transformed_backward(products(dM, Ut), x[images].shape)
    return dx, dU
