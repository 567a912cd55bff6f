"""A strict stand-in for CuPy, so that a machine without a GPU can tell whether code would run on one.

`sys.modules["cupy"] = strict` (the fixture `pretend_cupy`) makes "gpu" mean this module. Its arrays compute
with NumPy but are none of NumPy's:
- they refuse to meet a NumPy array or scalar, in an operator, an argument, `out=`, an index or an assignment;
  only `asarray` brings one over, as a copy: `Mixed`
- they refuse to become one, or to be handed to a function of NumPy's: `Mixed`
- whatever makes the host wait for a GPU (`get`, `float`, `if`, `==` in an `if`, a boolean mask as an index,
  ...) is refused too: `Waited`, except inside `waiting()`
- the functions and methods are those that minires needs, each one CuPy 14's, with no keyword that CuPy lacks
- reductions give 0-d arrays, never scalars
- more particular than CuPy: float32 becomes float64 only where that is asked for, arrays that `empty` gives
  are full of NaN, `out=` has to fit exactly, every dtype is named
"""

import operator
import sys
import threading
from contextlib import contextmanager
from functools import wraps
from itertools import count
from types import EllipsisType, SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np

__version__ = "14 (strict stand-in)"

float32, float64, int64 = np.float32, np.float64, np.int64


class Mixed(TypeError):
    """Something of the host's where only the device's own will do, or the other way round."""


class Waited(RuntimeError):
    """The host would have had to wait for the device."""


_may_wait = [False]


@contextmanager
def waiting():
    """Inside, the host may wait for the device."""
    _may_wait.append(True)
    try:
        yield
    finally:
        _may_wait.pop()


def _wait(what: str) -> None:
    if not _may_wait[-1]:
        raise Waited(f"{what} makes the host wait for the GPU")


def _not_captured(what: str) -> None:
    if current_stream().capture:
        raise NotImplementedError(f"{what} during stream capture is currently unsupported")


def _host(array):
    """What is inside an array of ours."""
    if not isinstance(array, ndarray):
        raise Mixed(f"expected an array on the GPU, got {type(array).__name__}")
    return array._host


def _operand(value):
    """The same for an operand, which may be a number of Python's."""
    return value if type(value) in (bool, int, float) else _host(value)


def _device(result, *sources):
    """A result of NumPy's as an array of ours; `sources`: the operands, where the dtype was left to them."""
    result = np.asarray(result)
    if result.dtype == np.float64 and any(getattr(s, "dtype", None) == np.float32 for s in sources):
        raise Mixed("float32 became float64 unasked")
    return ndarray(result)


def _ufunc(function):
    @wraps(function)
    def compute(*operands, out=None, dtype=None):
        inside = [_operand(x) for x in operands]
        if out is not None and out.shape != np.broadcast_shapes(*(np.shape(x) for x in inside)):
            raise ValueError(f"out= has shape {out.shape}")
        with np.errstate(all="ignore"):  # CuPy never warns
            result = function(*inside, out=None if out is None else _host(out), dtype=dtype)
        return _device(result, *(() if dtype else inside)) if out is None else out

    return compute


def _method(name, *keywords):
    """A method of NumPy's array, with the keywords that CuPy's has (and that minires needs)."""

    def call(self, *args, **options):
        if unknown := set(options) - set(keywords):
            raise TypeError(f"{name}: no keyword {unknown.pop()!r} here")
        with np.errstate(all="ignore"):
            result = getattr(self._host, name)(*args, **options)
        return _device(result, *(() if name == "astype" or options.get("dtype") else (self,)))

    return call


def _conversion(what, convert):
    def call(self, *args):
        _wait(what)
        return convert(self._host, *args)

    return call


def _index(key):
    """An index for NumPy's array: integers, slices, None, ..., and arrays of ours."""
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        if type(part) is not int and not isinstance(part, (slice, EllipsisType, ndarray, type(None))):
            raise Mixed(f"an index may hold no {type(part).__name__}")
    parts = tuple(_host(p) if isinstance(p, ndarray) else p for p in parts)
    # the dots make x[0] of a vector a 0-d view, as in CuPy
    return parts if any(p is ... for p in parts) else (*parts, ...)


class ndarray:
    """An array on the pretended GPU."""

    __slots__ = ("_host",)
    __hash__ = None
    __array_ufunc__ = None  # NumPy's operators leave the answer to ours

    def __init__(self, host: np.ndarray):
        self._host = host

    def __array_namespace__(self):
        return sys.modules[__name__]

    def __array_function__(self, function, types, args, kwargs):
        raise Mixed(f"numpy.{function.__name__} was called with an array on the GPU")

    def __array__(self, *args, **kwargs):
        raise Mixed("an array on the GPU does not turn into NumPy's by itself: use to_numpy")

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"<{self.dtype} {self.shape} on the pretended GPU>"  # without the numbers, for which one waits

    def __getitem__(self, key):
        if any(isinstance(k, ndarray) and k.dtype == bool for k in (key if isinstance(key, tuple) else (key,))):
            _wait("a boolean mask as an index")  # the result's size depends on the numbers
        return ndarray(self._host[_index(key)])

    def __setitem__(self, key, value):
        self._host[_index(key)] = _operand(value)

    @property
    def T(self):
        return ndarray(self._host.T)

    @property
    def data(self):
        owner = self._host
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        address = self._host.ctypes.data
        memory[address] = owner
        return SimpleNamespace(ptr=address)

    get = _conversion(".get()", np.copy)
    item, tolist = _conversion(".item()", np.ndarray.item), _conversion(".tolist()", np.ndarray.tolist)
    __float__, __int__ = _conversion("float()", float), _conversion("int()", int)
    __bool__, __str__ = _conversion("the truth of an array", bool), _conversion("printing", str)
    __format__ = _conversion("printing", lambda host, spec: format(host.item(), spec))

    sum, mean = _method("sum", "axis", "dtype", "keepdims"), _method("mean", "axis", "dtype", "keepdims")
    std, max = _method("std", "axis", "dtype", "keepdims"), _method("max", "axis", "keepdims")
    argmax, all = _method("argmax", "axis"), _method("all", "axis")
    reshape, ravel, transpose = _method("reshape"), _method("ravel"), _method("transpose")
    astype, copy = _method("astype", "copy"), _method("copy")


for _name in ("dtype", "flags", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
    setattr(ndarray, _name, property(operator.attrgetter(f"_host.{_name}")))


def _give_operators(**functions) -> None:
    for name, function in functions.items():
        compute = _ufunc(function)
        setattr(ndarray, f"__{name}__", compute)
        if function.nin == 2 and name not in ("eq", "ne", "lt", "le", "gt", "ge"):
            setattr(ndarray, f"__r{name}__", lambda self, other, compute=compute: compute(other, self))
            setattr(ndarray, f"__i{name}__", lambda self, other, compute=compute: compute(self, other, out=self))


_give_operators(add=np.add, sub=np.subtract, mul=np.multiply, truediv=np.divide, pow=np.power)
_give_operators(neg=np.negative, abs=np.absolute, invert=np.invert)
_give_operators(lt=np.less, le=np.less_equal, gt=np.greater, ge=np.greater_equal, eq=np.equal, ne=np.not_equal)
_give_operators(**{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor})

add, subtract, multiply, divide = map(_ufunc, (np.add, np.subtract, np.multiply, np.divide))
maximum, minimum, isfinite, square = map(_ufunc, (np.maximum, np.minimum, np.isfinite, np.square))
abs, exp, log, sqrt = map(_ufunc, (np.absolute, np.exp, np.log, np.sqrt))


def matmul(x1, x2, out=None):
    if out is None:  # with it, in the place of fast/gpu/cublas.py
        _not_captured("calling cuBLAS API")
    if out is not None and not (_host(out).flags.c_contiguous and x1.dtype == x2.dtype == out.dtype):
        raise ValueError("matmul: out= has to be contiguous and of the operands' dtype, or CuPy computes in a copy")
    return _device(np.matmul(_host(x1), _host(x2), out=None if out is None else out._host), x1, x2)


ndarray.__matmul__ = lambda self, other: matmul(self, other)
ndarray.__rmatmul__ = lambda self, other: matmul(other, self)


def einsum(subscripts, *operands):
    if len(operands) > 1:
        _not_captured("calling cuBLAS API")  # CuPy's goes by matmul
    return _device(np.einsum(subscripts, *map(_host, operands)), *operands)


def stack(arrays, axis=0):
    return _device(np.stack([_host(a) for a in arrays], axis), *arrays)


def concatenate(tup, axis=0):
    return _device(np.concatenate([_host(a) for a in tup], axis), *tup)


def tile(A, reps):
    return ndarray(np.tile(_host(A), reps))


def broadcast_to(array, shape):
    return ndarray(np.broadcast_to(_host(array), shape))


def count_nonzero(a, axis=None):
    return _device(np.count_nonzero(_host(a), axis))


def ascontiguousarray(a):
    return ndarray(np.ascontiguousarray(_host(a)))


def result_type(*arrays_and_dtypes):
    return np.result_type(*(a.dtype if isinstance(a, ndarray) else a for a in arrays_and_dtypes))


def asarray(a, dtype=None):
    """The way onto the device: NumPy's arrays and numbers are copied, those of the device are themselves."""
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) else a.astype(dtype)
    _not_captured("a copy from the host")
    return ndarray(np.array(a, dtype))


def where(condition, x, y):
    return _device(np.where(*(_host(a) if isinstance(a, ndarray) else a for a in (condition, x, y))), condition)


def full(shape, fill_value, dtype):
    return ndarray(np.full(shape, fill_value, dtype))


def empty(shape, dtype):
    return full(shape, np.nan if np.dtype(dtype).kind == "f" else 0, dtype)


def zeros(shape, dtype):
    return full(shape, 0, dtype)


def ones(shape, dtype):
    return full(shape, 1, dtype)


def empty_like(prototype):
    return empty(prototype.shape, _host(prototype).dtype)


def zeros_like(a):
    return zeros(a.shape, _host(a).dtype)


def arange(stop, dtype=int64):
    return ndarray(np.arange(stop, dtype=dtype))


def _as_strided(x, shape, strides):
    return ndarray(np.lib.stride_tricks.as_strided(_host(x), shape, strides))


memory = WeakValueDictionary()  # address -> who owns what lies there, of what was asked for it
streams = WeakValueDictionary()  # the same for streams
_addresses = count(1)
_here = threading.local()  # the stack of this thread's streams


class _Event:
    """A mark in a stream: what it had to do then, and which capture that is part of."""

    def record(self, stream=None):
        self.stream = stream or current_stream()
        self.before, self.capture, self.at = [*self.stream.pending], self.stream.capture, self.stream.length

    def synchronize(self):
        _wait("Event.synchronize")


class _Stream:
    """Work in order. Kernels are done at once; what is `pending` (nccl_on_cpu.py), when another stream waits for it.

    As CUDA's, a stream that waits for one that is captured is captured too, until the capture ends, which all streams
    must have been joined to; and what is captured must not wait for what is not.
    """

    def __init__(self, null=False, non_blocking=False):
        self.ptr = 0 if null else next(_addresses)
        self.pending, self.capture, self.length = [], None, 0
        streams[self.ptr] = self

    def __enter__(self):
        _stack().append(self)
        return self

    def __exit__(self, *error):
        _stack().pop()

    def record(self, event=None):
        event = event or _Event()
        event.record(self)
        return event

    def wait_event(self, event):
        if self.capture and not event.capture:
            raise RuntimeError("cudaErrorStreamCaptureIsolation: a dependency on work outside of the capture")
        if event.capture and event.capture["open"]:
            self.capture = event.capture
            joined = self.capture["joined"]
            joined.setdefault(self, 0)
            if self is self.capture["origin"]:
                joined[event.stream] = max(joined[event.stream], event.at)
        self.length += 1
        for work in event.before:
            work()
        event.stream.pending = [work for work in event.stream.pending if work not in event.before]

    def begin_capture(self, mode=None):
        if not self.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.capture = {"origin": self, "joined": {}, "open": True}

    def end_capture(self):
        capture, self.capture["open"] = self.capture, False
        for stream in [self, *capture["joined"]]:
            stream.capture, stream.pending = None, []
        if any(stream.length != at for stream, at in capture["joined"].items() if stream is not self):
            raise RuntimeError("cudaErrorStreamCaptureUnjoined: a stream was not brought back")
        return cuda.Graph()

    def synchronize(self):
        _wait("Stream.synchronize")


def _stack():
    return _here.__dict__.setdefault("streams", [_Stream(null=True)])


def current_stream():
    return _stack()[-1]


def _elapsed(start, end):
    _wait("get_elapsed_time")
    return 1.0


lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_as_strided))
cuda = SimpleNamespace(
    Event=_Event,
    Stream=_Stream,
    Device=lambda: SimpleNamespace(id=0),
    get_current_stream=current_stream,
    get_elapsed_time=_elapsed,
    runtime=SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"Pretended GPU"}, memGetInfo=lambda: (2**30, 2**31)
    ),
)
