"""The ops in C (kernels.c): what `minires.ops` runs on NumPy arrays of float32 or float64 where it was compiled.

convolution.py and passes.py hold for each op a function of its name, with its arguments and results: it sees to shapes
and contiguity and chooses the algorithm. fast/dispatch.py puts it in front of the op.
"""

from minires.fast.cpu.convolution import ALGORITHMS, Weights, algorithm
from minires.fast.cpu.engine import (
    VECTOR_BYTES,
    _kernels,
    _State,
    as_read,
    description,
    enabled,
    threads,
    use_threads,
)

__all__ = [
    "ALGORITHMS",
    "VECTOR_BYTES",
    "Weights",
    "_State",
    "_kernels",
    "algorithm",
    "as_read",
    "description",
    "enabled",
    "threads",
    "use_threads",
]
