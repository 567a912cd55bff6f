"""Arrays out of a pickle, without what makes pickles dangerous: nothing in the file is ever called.

Python's own unpickler calls whatever a file names. This one, of the same operations, knows a handful of names, those of
which NumPy's arrays are made, and puts stand-ins in their place; all others are refused, by name.
"""

import io
import math
import pickle
from pathlib import Path

import numpy as np

from minires.data.rows import understood
from minires.errors import DataError

MAX_BYTES = 2**31  # of a file
_KINDS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "b1")


class _Type:
    """Stands in for a numpy.dtype: its name, and the byte order that its state tells."""

    def __init__(self, name, *_):
        self.name, self.order = (name.decode("ascii") if isinstance(name, bytes) else str(name)).lstrip("<>|="), "<"

    def build(self, state):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"

    def array(self, shape, order, content) -> np.ndarray:
        if self.name not in _KINDS:
            raise ValueError(f"an array of {self.name[:40]!r}")
        dtype = np.dtype(self.order + self.name)
        content = content.encode("latin1") if isinstance(content, str) else content
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"an array {shape} of {self.name} in {len(content):,} bytes")
        return np.frombuffer(content, dtype).reshape(shape, order=order)


class _Array:
    """Stands in for an array that is being made; `value` once its state came."""

    value = None

    def __init__(self, *_):
        pass

    def build(self, state):
        _, shape, kind, fortran, content = state
        self.value = kind.array(shape, "F" if fortran else "C", content)


def _from_buffer(content, kind, shape, order="C"):
    made = _Array()
    made.value = kind.array(shape, order, content)
    return made


_NAMES = {
    "_reconstruct": _Array,
    "ndarray": _Array,
    "dtype": _Type,
    "_frombuffer": _from_buffer,
    "encode": lambda text, encoding="latin1": text.encode("latin1"),
}
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


class _Unpickler(pickle._Unpickler):  # the one in Python: the one in C asks for memory as the file says
    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012

    def find_class(self, module, name):
        if name in _NAMES and (module in _MODULES or (module, name) == ("_codecs", "encode")):
            return _NAMES[name]
        raise DataError(f"{module}.{name}"[:80])

    def load_reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        if function not in _NAMES.values():
            raise ValueError("a call of what is no function")
        self.stack.append(function(*arguments))

    def load_build(self):
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Array | _Type):
            raise ValueError("a state of what has none")
        made.build(state)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = pickle._Unpickler.load_binbytes8
    for code in (pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.PERSID, pickle.BINPERSID,
                 pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):  # fmt: skip
        del dispatch[code[0]]


def read_pickle(path: Path, what: str) -> dict:
    """The dictionary {text: array, list, text ...} in a pickle; DataError for anything else, or a name that is refused.

    Texts of Python 2 come as bytes, except the keys.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path}: expected {what} of at most {MAX_BYTES:,} bytes, got {size:,}: give another file")
    with understood(path, what):
        try:
            found = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        except DataError as error:
            problem = f"its pickle asks for {error}, and a pickle may name numbers only"
            raise DataError(f"{path}: expected {what}, but {problem}: do not open it") from None
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
        return {
            key.decode() if isinstance(key, bytes) else str(key): value.value if isinstance(value, _Array) else value
            for key, value in found.items()
        }
