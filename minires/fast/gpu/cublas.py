"""Matrix products by cuBLAS, called directly: CuPy refuses its own while a CUDA graph is being captured.

A handle and a workspace for each thread and device, so that nothing is allocated inside a captured step.
The names and numbers are those of the cuBLAS manual, sections 2.2, 2.4 and 2.7.
"""

import ctypes
import sys
import threading
from contextlib import contextmanager

from minires.backend import get_xp

WORKSPACE = 32 * 2**20  # bytes; what the manual advises for Hopper
IEEE, TF32 = 0, 3  # math modes: float32 as it is, or rounded to 10 bits for the tensor cores
_local = threading.local()


def matmul(a, b, out):
    """out = a b, for matrices of one dtype that are contiguous as they are or transposed; out as it is."""
    xp = get_xp(out)
    cuda = xp.cuda
    if not hasattr(cuda, "cublas"):  # what only pretends to be CuPy
        return xp.matmul(a, b, out=out)
    # row by row, out is the transposed of what cuBLAS writes column by column: out^T = b^T a^T
    (m, k), n = a.shape, b.shape[1]
    handle = _handle(xp)
    kind = out.dtype.char
    one, zero = _CONSTANTS[kind]
    (trans_b, ldb), (trans_a, lda) = map(_layout, (b, a))
    _check(
        handle.gemm[kind](
            *(handle.pointer, trans_b, trans_a, n, m, k, one),
            *(b.data.ptr, ldb, a.data.ptr, lda, zero, out.data.ptr, n),
        )
    )
    return out


def _layout(x):
    """(transposed?, the length of what lies together in memory)."""
    if x.flags.c_contiguous:
        return 0, x.shape[1]
    if not x.flags.f_contiguous:
        raise ValueError(f"a product needs contiguous matrices, got shape {x.shape} with strides {x.strides}")
    return 1, x.shape[0]


@contextmanager
def tensor_cores(on: bool):
    """Inside, products of float32 matrices in this thread use the tensor cores in TF32, if `on`."""
    before, _local.mode = getattr(_local, "mode", IEEE), TF32 if on else IEEE
    try:
        yield
    finally:
        _local.mode = before


class _Handle:
    def __init__(self, xp):
        cuda = xp.cuda
        major = cuda.runtime.runtimeGetVersion() // 1000
        cuda.device.get_cublas_handle()  # CuPy knows where the library lies, and has loaded it now
        library = ctypes.CDLL(f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}")
        self.library, self.pointer = library, ctypes.c_void_p()
        _check(library.cublasCreate_v2(ctypes.byref(self.pointer)))
        self.workspace = xp.empty(WORKSPACE, "u1")
        self.stream = self.mode = None
        number, address = ctypes.c_int, ctypes.c_void_p
        self.gemm = {"f": library.cublasSgemm_v2, "d": library.cublasDgemm_v2}
        for gemm in self.gemm.values():
            gemm.argtypes = [address, *[number] * 5, address, *[address, number] * 2, address, address, number]


def _handle(xp):
    """This thread's, on the stream of now."""
    handles = _local.__dict__.setdefault("handles", {})
    cuda = xp.cuda
    device = cuda.runtime.getDevice()
    handle = handles.get(device)
    if handle is None:
        handle = handles[device] = _Handle(xp)
    stream, mode = cuda.get_current_stream().ptr, getattr(_local, "mode", IEEE)
    if stream != handle.stream:
        _check(handle.library.cublasSetStream_v2(handle.pointer, ctypes.c_void_p(stream)))
        # which has put cuBLAS's own workspace back
        workspace = ctypes.c_void_p(handle.workspace.data.ptr), ctypes.c_size_t(WORKSPACE)
        _check(handle.library.cublasSetWorkspace_v2(handle.pointer, *workspace))
        handle.stream = stream
    if mode != handle.mode:
        _check(handle.library.cublasSetMathMode(handle.pointer, mode))
        handle.mode = mode
    return handle


def _check(status):
    if status:
        raise RuntimeError(f"cuBLAS: status {status}")


_NUMBERS = {"f": [ctypes.c_float(v) for v in (1, 0)], "d": [ctypes.c_double(v) for v in (1, 0)]}
_CONSTANTS = {kind: [ctypes.addressof(v) for v in values] for kind, values in _NUMBERS.items()}
