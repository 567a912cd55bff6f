"""From an op to its kernel: the decorator that `minires.ops` puts in front of what has one.

The arrays decide: NumPy's go to fast/cpu, CuPy's to fast/gpu, whatever these do not take to the op as it reads. An op
whose file was edited has no kernel any more (proven.py).
"""

from functools import wraps

import numpy as np

from minires.fast import proven
from minires.fast.cpu import convolution, passes
from minires.fast.cpu.engine import enabled, reading, takes
from minires.fast.gpu import kernels as cuda


def compiled(op):
    """`op` by its kernel where there is one for its arrays, else as it reads; `op.as_read` is the op alone."""
    op.as_read = op
    if not proven.stands(op):
        return op
    on_cpu = getattr(convolution, op.__name__, None) or getattr(passes, op.__name__, None)
    on_gpu = getattr(cuda, op.__name__, None)

    @wraps(op)
    def run(*args, **options):
        if type(args[0]) is np.ndarray:
            kernel = on_cpu if on_cpu and enabled() and takes((*args, *options.values())) else None
        else:
            kernel = on_gpu if on_gpu and not reading() and cuda.takes((*args, *options.values())) else None
        result = kernel(*args, **options) if kernel else NotImplemented
        return op(*args, **options) if result is NotImplemented else result

    return run
