"""Matrix products in pieces, for the fast paths; reading this file is optional.

A BLAS copies its operands into panels before it multiplies. Where one operand is small that copy is most of the
work; OpenBLAS's AVX-512 kernels leave it out for products of at most a million multiplications, and then run
at their peak. So a long product is handed over in pieces of that size: the same sums in the same order.
`minires bench ways` measures it.
"""

import numpy as np

from minires.backend import unpacked_product

FEWEST_ROWS, FEWEST_COLUMNS = 8, 64  # in a smaller piece the start costs more than the copy


def product(a, b, out=None):
    """a (M, K) @ b (K, O), NumPy arrays; `out` may be a view."""
    (M, K), O = a.shape, b.shape[1]
    out = np.empty((M, O), np.result_type(a, b)) if out is None else out
    rows, columns = unpacked_product() // (K * O), unpacked_product() // (K * M)
    if M >= O and rows >= FEWEST_ROWS:
        _rows(a, b, out, rows - rows % FEWEST_ROWS)
    elif M < O and columns >= FEWEST_COLUMNS:
        _rows(b.T, a.T, out.T, columns - columns % FEWEST_COLUMNS)
    else:
        np.matmul(a, b, out=out)
    return out


def products(a, b):
    """a (B, M, K) @ b (B, K, O), B products side by side; b may be transposed in memory."""
    (B, M, K), O = a.shape, b.shape[2]
    most = unpacked_product(turned=not b.flags.c_contiguous) // (K * O)
    rows = next((r for r in range(min(most, M), 3, -1) if M % r == 0), M)
    return np.matmul(a.reshape(B, M // rows, rows, K), b[:, None]).reshape(B, M, O)


def _rows(a, b, out, most):
    """The product, `most` rows of `a` at a time, then the rest."""
    count, rest = divmod(len(a), most)
    whole = len(a) - rest
    if count:  # to split an axis never copies, whatever the strides
        np.matmul(a[:whole].reshape(count, most, -1), b, out=out[:whole].reshape(count, most, -1))
    if rest:
        np.matmul(a[whole:], b, out=out[whole:])
