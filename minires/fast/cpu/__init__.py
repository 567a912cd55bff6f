"""The ops in C (kernels.c): what `minires.ops` runs on NumPy arrays of float32 or float64 where it was compiled.

convolution.py and passes.py hold for each op a function of its name, with its arguments and results: it sees to shapes
and contiguity and chooses the algorithm. `compiled` puts it in front of the op.
"""

from functools import wraps

from minires.fast.cpu import convolution, passes
from minires.fast.cpu.convolution import ALGORITHMS, Weights, algorithm
from minires.fast.cpu.engine import (
    VECTOR_BYTES,
    _kernels,
    _State,
    as_read,
    description,
    enabled,
    takes,
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
    "compiled",
    "description",
    "enabled",
    "threads",
    "use_threads",
]


def compiled(op):
    """`op` by its kernel where all its arrays are of NumPy and one floating type, else as it reads; `op.as_read`."""
    kernel = getattr(convolution, op.__name__, None) or getattr(passes, op.__name__)

    @wraps(op)
    def run(*args, **options):
        if enabled() and takes((*args, *options.values())):
            result = kernel(*args, **options)
            if result is not NotImplemented:
                return result
        return op(*args, **options)

    run.as_read = op
    return run
