"""Matrix products in pieces, for the fast paths; reading this file is optional.

A BLAS copies its operands into panels before it multiplies. Where one operand is small that copy is most of the
work; OpenBLAS's AVX-512 kernels leave it out for products of at most a million multiplications, and then run
at their peak. So a long product is handed over in pieces of that size: the same sums in the same order.
benchmarks/bench_ops.py --pieces measures it.
"""

import numpy as np

from minires.backend import unpacked_product

FEWEST_ROWS = 8  # with fewer rows or columns a piece costs more than it saves


def product(a, b, out=None):
    """a (M, K) @ b (K, O), NumPy arrays; `out` may be a view."""
    (M, K), O = a.shape, b.shape[1]
    out = np.empty((M, O), np.result_type(a, b)) if out is None else out
    if M >= O:
        _rows(a, b, out, unpacked_product() // (K * O))
    else:
        _rows(b.T, a.T, out.T, unpacked_product() // (K * M))
    return out


def _rows(a, b, out, most):
    """The product, `most` rows of `a` at a time if that is worth it; the rest in one."""
    M = len(a)
    size = min(most, M)
    count = M // size if size >= FEWEST_ROWS else 0
    if count:
        whole = size * count
        np.matmul(_stacked(a[:whole], count), b, out=_stacked(out[:whole], count))
        a, out = a[whole:], out[whole:]
    if len(a):
        np.matmul(a, b, out=out)


def _stacked(a, count):
    """(count * size, K) seen as (count, size, K), whatever the strides."""
    rows, columns = a.strides
    size = len(a) // count
    return np.lib.stride_tricks.as_strided(a, (count, size, a.shape[1]), (size * rows, rows, columns))
