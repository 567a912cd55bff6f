"""How the checks say what they saw: a failure is a line of facts, and a hint that leaves the thinking to its reader."""

from collections.abc import Callable, Iterable

import numpy as np

from minires.errors import StateError
from minires.instruments.gradcheck import gradcheck

NO_RETURN = "Does every way through the function end in a `return`?"
IN_PLACE = "`a[...] = `, `a += ` and `a *= ` write into the array that the caller still holds. Make a new one."
DTYPE = (
    "A float64 array made on the way (np.zeros without a dtype, an index range, a constant array) spreads to the end."
)


class Wrong(Exception):
    """A check that failed. seen: expected and got, in one line; hint: where to look, never the answer."""

    def __init__(self, seen: str, hint: str):
        super().__init__(seen)
        self.seen, self.hint = seen, hint


def random(*shape, seed=0, dtype=np.float64) -> np.ndarray:
    """Standard normal numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def call(function: Callable, *arrays, **options):
    """`function` on copies of the arrays: what it writes in place is judged by `untouched` alone."""
    return function(*(a.copy() if isinstance(a, np.ndarray) else a for a in arrays), **options)


def shaped(value, shape: tuple, what: str, hint: str) -> np.ndarray:
    """`value`, once it is an array of this shape."""
    if value is Ellipsis:
        raise Wrong(f"{what} is not written yet", f"Replace the dots of `{what}` by its formula.")
    if value is None:
        raise Wrong(f"{what}: expected an array, got None", NO_RETURN)
    if not isinstance(value, np.ndarray | np.generic):
        raise Wrong(f"{what}: expected an array, got {type(value).__name__}", "The result has to be a NumPy array.")
    if value.shape != shape:
        raise Wrong(f"{what}: expected shape {shape}, got {value.shape}", hint)
    return value


def close(a, b) -> bool:
    """Whether two arrays are equal up to rounding."""
    if a.shape != b.shape:
        return False
    rounding = 1e-4 if np.float32 in (a.dtype, b.dtype) else 1e-9
    return bool(np.abs(a - b).max() <= rounding * max(1.0, np.abs(b).max()))


def equal(value, expected, what: str, hint: str, mistakes: Iterable[tuple] = ()) -> None:
    """Wrong unless the array is the expected one. mistakes: (a function that gives what a known mistake would give,
    the hint for it)."""
    shaped(value, expected.shape, what, hint)
    if close(value, expected):
        return
    bad = np.abs(np.nan_to_num(value - expected, nan=np.inf)) > 1e-9 * max(1.0, np.abs(expected).max())
    at = tuple(map(int, np.argwhere(bad)[0]))
    seen = f"{what}{list(at)}: expected {expected[at]:.5g}, got {value[at]:.5g} ({bad.sum()} of {bad.size} differ)"
    if not np.isfinite(value).all():
        raise Wrong(seen, "Infinite, or not a number: look for a division by zero and for memory that nobody filled.")
    raise Wrong(seen, next((h for wrong, h in mistakes if close(value, wrong())), hint))


def several(value, names: tuple) -> dict:
    """The results of a function by name."""
    if value is None:
        raise Wrong(f"expected {', '.join(names)}, got None", NO_RETURN)
    if not isinstance(value, tuple | list) or len(value) != len(names):
        got = f"{len(value)} results" if isinstance(value, tuple | list) else f"one {type(value).__name__}"
        raise Wrong(f"expected {', '.join(names)}, got {got}", "Return all of them, in the order of the statement.")
    return dict(zip(names, value, strict=True))


def gradients(target, x, hint: str, hints: dict | None = None, **options) -> None:
    """Wrong unless the gradients agree with central differences (minires.instruments.gradcheck). hints: by the cause
    that the gradient check names."""
    try:
        report = gradcheck(target, x, **options)
    except StateError as error:  # the student's own exception, in the gradient check's words
        raise error.__cause__ or error from None
    faults = [f.name for f in report.findings if f.status == "fail"]
    if not faults:
        return
    if not report.checks:  # there was nothing to hold against a difference
        raise Wrong(next(f.detail for f in report.findings if f.status == "fail"), (hints or {}).get(faults[0], hint))
    worst = max(report.checks, key=lambda c: (not c.ok, c.error))
    at = "along a random direction" if worst.where == "direction" else f"at {worst.where}"
    seen = f"gradient of {worst.tensor} {at}: central difference {worst.numeric:.5g}, yours {worst.analytic:.5g}"
    raise Wrong(seen, (hints or {}).get(faults[0], hint))


def untouched(function: Callable, arrays: dict, hint: str = IN_PLACE, **options) -> None:
    """Wrong where the function changes what it is handed."""
    given = {name: a.copy() for name, a in arrays.items()}
    function(*given.values(), **options)
    for name, array in arrays.items():
        if not np.array_equal(given[name], array):
            raise Wrong(f"the caller's {name} was changed", hint)


def single(results: dict, hint: str = DTYPE) -> None:
    """Wrong unless what came of float32 arrays is float32."""
    for what, value in results.items():
        if value.dtype != np.float32:
            raise Wrong(f"{what}: float32 went in, {value.dtype} came out", hint)
