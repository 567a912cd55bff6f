"""The stand-in for CuPy (strict.py): it has what minires asks for, CuPy has it too, and it refuses what it should."""

import ast
import functools
import math
import operator
from pathlib import Path

import numpy as np
import pytest
import strict

import minires
from minires import backend


def asked() -> set[str]:
    """Every `xp.NAME` of minires's source, the lines that no test runs included."""
    found = set()

    class Finder(ast.NodeVisitor):
        def visit_Attribute(self, node):
            names, base = [], node
            while isinstance(base, ast.Attribute):
                names, base = [base.attr, *names], base.value
            made = isinstance(base, ast.Call) and getattr(base.func, "id", "") in ("get_xp", "_cupy")
            if made or getattr(base, "id", "") in ("xp", "cupy"):
                found.add(".".join(names))
            self.generic_visit(base)

    for file in Path(minires.__file__).parent.rglob("*.py"):
        Finder().visit(ast.parse(file.read_text()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["strict", "cupy"])
def test_there_is_all_that_minires_asks_for(name):
    module = pytest.importorskip(name, reason="CuPy is not installed")
    assert {"einsum", "lib.stride_tricks.as_strided", "cuda.Event"} <= asked()
    kernels = {"RawModule"} if name == "strict" else set()  # cuda_on_cpu.py has it
    for path in asked() - kernels:
        functools.reduce(getattr, path.split("."), module)
    assert {name for name in vars(strict.ndarray) if name[0] != "_"} <= set(dir(module.ndarray))


HERE = np.ones((2, 2), np.float32)
REFUSED = {
    "NumPy on the right": (TypeError, lambda d: d + HERE),
    "NumPy on the left": (TypeError, lambda d: HERE + d),
    "NumPy in place": (TypeError, lambda d: operator.iadd(d, HERE)),
    "in place into NumPy": (TypeError, lambda d: operator.iadd(HERE.copy(), d)),
    "a scalar of NumPy's": (TypeError, lambda d: d * np.float64(2)),
    "a comparison": (TypeError, lambda d: d > HERE),
    "a matrix product": (TypeError, lambda d: d @ HERE),
    "a matrix product, NumPy's on the left": (TypeError, lambda d: HERE @ d),
    "an argument": (TypeError, lambda d: strict.maximum(d, HERE)),
    "an argument of einsum": (TypeError, lambda d: strict.einsum("ij,ij->j", d, HERE)),
    "in a list of arguments": (TypeError, lambda d: strict.concatenate([d, HERE])),
    "a list for an argument": (TypeError, lambda d: strict.maximum(d, [1.0, 2.0])),
    "out=": (TypeError, lambda d: strict.exp(d, out=HERE)),
    "out= of NumPy's": (TypeError, lambda d: np.exp(HERE, out=d)),
    "an array of NumPy's as an index": (TypeError, lambda d: d[np.array([0, 1])]),
    "a list as an index": (TypeError, lambda d: d[[0, 1]]),
    "assignment": (TypeError, lambda d: operator.setitem(d, 0, HERE[0])),
    "assignment into NumPy's": (TypeError, lambda d: operator.setitem(HERE.copy(), 0, d[0])),
    "numpy.asarray": (TypeError, lambda d: np.asarray(d)),
    "numpy.sum": (TypeError, lambda d: np.sum(d)),
    "numpy.exp": (TypeError, lambda d: np.exp(d)),
    "numpy.concatenate": (TypeError, lambda d: np.concatenate([d, d])),
    "numpy.linalg.norm": (TypeError, lambda d: np.linalg.norm(d)),
    "an index of a list": (TypeError, lambda d: [1, 2][d[0, 0]]),
    "range": (TypeError, lambda d: range(strict.asarray(3))),
    "float64 by an array": (TypeError, lambda d: d * strict.asarray(HERE.astype(np.float64))),
    "float64 by integers": (TypeError, lambda d: d * strict.arange(2)),
    "random numbers": (AttributeError, lambda d: strict.random),
    "setflags": (AttributeError, lambda d: d.setflags(write=False)),
    "writeable=": (
        TypeError,
        lambda d: strict.lib.stride_tricks.as_strided(d, (2,), (4,), writeable=False),
    ),
    "einsum(out=)": (TypeError, lambda d: strict.einsum("ij->j", d, out=d[0])),
    "an out= that is too large": (ValueError, lambda d: strict.exp(d[0], out=d)),
    "a product into a transpose": (ValueError, lambda d: strict.matmul(d, d, out=strict.zeros_like(d).T)),
    "float": (strict.Waited, lambda d: float(d[0, 0])),
    "int": (strict.Waited, lambda d: int(d[0, 0])),
    "if": (strict.Waited, lambda d: bool(d.all())),
    "comparing in an if": (strict.Waited, lambda d: 1 if d[0, 0] == 1 else 2),
    "max of Python's": (strict.Waited, lambda d: max(d[0])),
    "in": (strict.Waited, lambda d: 2 in d[0]),
    "isfinite of Python's": (strict.Waited, lambda d: math.isfinite(d.sum())),
    "get": (strict.Waited, lambda d: d.get()),
    "item": (strict.Waited, lambda d: d[0, 0].item()),
    "tolist": (strict.Waited, lambda d: d.tolist()),
    "printing": (strict.Waited, lambda d: f"{d.sum():.3f}"),
    "str": (strict.Waited, lambda d: str(d)),
    "a mask as an index": (strict.Waited, lambda d: d[d > 0]),
    "synchronising": (strict.Waited, lambda d: backend.synchronize(d)),
    "to_numpy": (strict.Waited, lambda d: backend.to_numpy(d)),
    "an event": (strict.Waited, lambda d: strict.cuda.Event().synchronize()),
}


@pytest.mark.parametrize("act", REFUSED)
def test_the_stand_in_refuses(act):
    error, do = REFUSED[act]
    with pytest.raises(error):
        do(strict.asarray(HERE))
    if error is strict.Waited:
        with strict.waiting():
            do(strict.asarray(HERE))


def test_the_stand_in_behaves_as_cupy():
    d = strict.asarray(HERE)
    for reduced in (d.sum(), d.max(), d.argmax(), d.mean(), strict.count_nonzero(d), d[0] @ d[1], d[0, 0]):
        assert isinstance(reduced, strict.ndarray)
        assert reduced.shape == ()
    assert {(d * 2.0).dtype, (1 / d).dtype, d.mean().dtype, (d > 0).astype(np.float32).dtype} == {np.dtype("float32")}
    assert d.mean(dtype=strict.float64).dtype == np.float64
    d[0] += d[1]  # a view: the array itself changes, the host's does not
    d[d > 1] = 5.0  # assigning by a mask needs no answer from the device
    assert backend.get_xp(d) is strict
    with strict.waiting():
        assert d.get().tolist() == [[5, 5], [1, 1]]
        assert np.isnan(strict.empty(3, np.float32).get()).all()
    assert HERE.tolist() == [[1, 1], [1, 1]]
