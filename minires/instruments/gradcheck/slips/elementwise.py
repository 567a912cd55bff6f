"""Functions of each number by itself: the slope that forward has, the slope that backward takes."""

import numpy as np

SPREAD = 1e-4  # relative: a ratio that varies less is one number
MEASURED, EXACT = 1e-5, 1e-9  # how near a slope comes to differences, and to a gradient that was computed with it


def masks(e):
    """Slips of max(x, 0), of which the mask is the slope; and of dropout, of which it is the factor."""
    if len(e.subject.inputs) != 1 or e.name != e.subject.input_names[0]:
        return
    x, y, dy = e.subject.inputs[0], e.subject.y, e.subject.dy
    if x.shape != y.shape:
        return
    if np.array_equal(y, np.maximum(x, 0)):
        fix = "multiply dy by (x > 0), which is (y > 0): where forward let the number through"
        yield "mask", "the mask is turned: it passes where x < 0, forward where x > 0", fix, dy * (x < 0)
        yield "mask", "the mask is that of dy > 0, not of x > 0", fix, dy * (dy > 0)
        yield (
            "mask",
            "the mask is that of dy > 0 and x > 0: the gradient's sign does not matter",
            fix,
            dy * (dy > 0) * (x > 0),
        )
        yield "mask", "dx = x where x > 0: dy is not in it", fix, np.maximum(x, 0)
        yield "mask", "dx = dy x where x > 0: the slope there is 1", fix, dy * y
        yield "mask", "dx = 1 where x > 0: dy is not in it", fix, (x > 0) * 1.0
        yield "mask", "the mask is that of x > 1", fix, dy * (x > 1)
        yield "mask", "dx = |dy| where x > 0", fix, np.abs(dy) * (x > 0)
        return
    kept = y != 0
    scale = np.divide(y, x, out=np.zeros_like(y), where=x != 0)
    if kept.any() and not kept.all() and np.ptp(scale[kept]) <= SPREAD * abs(scale[kept][0]):
        c = float(scale[kept][0])
        fix = f"dx = dy * mask * {c:.4g}, with the mask that forward drew"
        yield "dropout's scale", f"what was kept is not scaled by {c:.4g}, as forward scales it", fix, dy * kept
        yield "mask", "the gradient passes where forward dropped the number", fix, dy * c
        yield "mask", "the mask is turned: it passes what forward dropped", fix, dy * c * ~kept


def _slopes(x, y) -> dict[str, np.ndarray]:
    """Slopes as people write them, of x and y."""
    with np.errstate(all="ignore"):
        s = 1 / (1 + np.exp(-x))
        return {
            "1": np.ones_like(x),
            "x": x,
            "y": y,
            "x²": x * x,
            "y²": y * y,
            "x³": x**3,
            "1 / x": 1 / x,
            "1 / y": 1 / y,
            "1 / x²": 1 / (x * x),
            "1 / y²": 1 / (y * y),
            "√x": np.sqrt(x),
            "1 / √x": 1 / np.sqrt(x),
            "1 / √y": 1 / np.sqrt(y),
            "√y": np.sqrt(y),
            "y / x": y / x,
            "y / x²": y / (x * x),
            "y x": y * x,
            "exp(x)": np.exp(x),
            "exp(-x)": np.exp(-x),
            "log(x)": np.log(x),
            "1 - y": 1 - y,
            "1 + y": 1 + y,
            "1 - x": 1 - x,
            "y (1 - y)": y * (1 - y),
            "x (1 - x)": x * (1 - x),
            "x (1 - y)": x * (1 - y),
            "y (1 - x)": y * (1 - x),
            "1 - y²": 1 - y * y,
            "1 - x²": 1 - x * x,
            "cos(x)": np.cos(x),
            "sin(x)": np.sin(x),
            "cosh(x)": np.cosh(x),
            "sinh(x)": np.sinh(x),
            "1 / cosh(x)²": 1 / np.cosh(x) ** 2,
            "1 / (1 + x²)": 1 / (1 + x * x),
            "sigmoid(x)": s,
            "sigmoid(x) (1 - sigmoid(x))": s * (1 - s),
            "sigmoid(x) (1 + x (1 - sigmoid(x)))": s * (1 + x * (1 - s)),
            "sigmoid(x) + x": s + x,
            "tanh(x)": np.tanh(x),
            "sign(x)": np.sign(x),
            "|x|": np.abs(x),
        }


def slope(e) -> tuple[str, str, str] | None:
    """The slope that forward has and the one that backward takes, of a function of each number by itself."""
    x, y, dy = e.tensor, e.subject.y, e.subject.dy
    if e.name not in e.subject.input_names or x.shape != y.shape or e.analytic.shape != x.shape:
        return None
    x, y, dy, ours = (a.ravel()[e.at].astype(np.float64) for a in (x, y, dy, e.analytic))
    slopes = _slopes(x, y)
    right = _named(slopes, dy, e.numeric, MEASURED)
    wrong = _named(slopes, dy, ours, EXACT)
    if right and wrong and right != wrong:
        fix = f"dx = dy · {right}" if right != "1" else "dx = dy"
        return "slope", f"backward takes the slope {wrong}, forward has the slope {right}", fix
    bare = _named(slopes, 1.0, ours, EXACT)
    if bare and right:
        return "dy left out", f"dx = {bare}, without dy", f"multiply by what arrives: dx = dy · {right}"
    with np.errstate(all="ignore"):
        ratio = ours / e.numeric
        for name, s in slopes.items():
            if name != "1" and (found := _multiple(name, s, ratio, MEASURED)):
                seen = f"analytic = {found} x numeric, everywhere"
                return "slope", seen, f"take the factor {found} out of backward, or put into forward what it is for"
    return None


def _named(slopes, dy, gradient, near) -> str | None:
    """The first slope that, times dy, is a multiple of the gradient."""
    with np.errstate(all="ignore"):
        found = (_multiple(name, dy * s, gradient, near) for name, s in slopes.items())
        return next((words for words in found if words), None)


def _multiple(name, a, b, near) -> str | None:
    """'c name' where b = c a throughout, else None."""
    if not np.isfinite(a).all() or not np.isfinite(b).all() or len(a) < 4 or not a.any():
        return None
    c = float(a @ b / (a @ a))
    if not c or np.linalg.norm(b - c * a) > near * np.linalg.norm(b):
        return None
    if abs(c - 1) < MEASURED:
        return name
    if abs(c + 1) < MEASURED:
        return f"-{name}" if name[0] not in "-" else f"-({name})"
    number = f"{c:.4g}"
    return number if name == "1" else f"{number} {name}" if not name.startswith("1 / ") else f"{number} · {name}"
