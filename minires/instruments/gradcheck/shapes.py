"""A gradient of another shape than what it is for: whether an axis was not summed over, or the axes come in another
order, so that the right gradient is in it."""

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np

from minires.instruments.findings import Finding
from minires.instruments.gradcheck.subject import ModuleSubject
from minires.instruments.gradcheck.watch import copies
from minires.instruments.guard import label

PLACES = 48  # coordinates at which a repaired gradient is held against differences
NEAR = 1e-4


def explain_shape(subject, name: str | None = None) -> Finding | None:
    """What is wrong with the gradient of tensor `name`; None: with the dx for which the subject was stopped, if that
    had another shape."""
    if name is None:
        return _of_dx(subject)
    grad, tensor = subject.misshapen[name], subject.all_tensors[name]
    seen = f"the gradient of {name} has shape {grad.shape}, expected {tensor.shape}, that of {name}"
    detail, fix = _why(subject, name, grad)
    return Finding("gradient's shape", "fail", f"{_owner(subject, name)}{seen}{detail}", fix)


def _owner(subject, name) -> str:
    """The layer, unless the tensor's name tells it."""
    if name in subject.input_names:
        return f"{subject.title}: "
    owners = [m for m in subject.modules if any(p.name == name for p in m.params()) and not m.children()]
    return f"{label(owners[0])}: " if owners and not name.startswith(label(owners[0])) else ""


def _of_dx(subject) -> Finding | None:
    module, dx = getattr(subject.error, "module", None), getattr(subject.error, "dx", None)
    if module is None or len(subject.calls[module].inputs) != 1:
        return None
    call = subject.calls[module]
    pristine = dict(zip(subject.modules, subject.pristine.modules(), strict=True))[module]
    local = ModuleSubject(pristine, dict(enumerate(copies(call.inputs))), call.dy, 0)
    if local.y is None or local.dy is None:
        return None
    detail, fix = _why(local, local.input_names[0], dx)
    found = subject.error.finding
    return replace(found, detail=found.detail + detail, fix=fix) if detail else None


def _why(subject, name, grad) -> tuple[str, str]:
    tensor = subject.all_tensors[name]
    rng = np.random.default_rng(0)
    at = rng.permutation(tensor.size)[:PLACES]
    numeric = np.array([_slope(subject, tensor, i) for i in at])

    def fits(repaired):
        return np.linalg.norm(repaired.ravel()[at] - numeric) <= NEAR * np.linalg.norm(numeric)

    for seen, fix, repaired in _repairs(grad, tensor.shape):
        if fits(repaired):
            return f": {seen}", fix
    return "", "a gradient has the shape of what it is for: look at its axes, and at what is summed over"


def _repairs(grad, shape):
    """What may have been forgotten: (what is seen, what to do, the gradient with it)."""
    if sorted(grad.shape) == sorted(shape) and grad.ndim > 1:
        for order in permutations(range(grad.ndim)):
            if tuple(grad.shape[i] for i in order) == shape:
                what = "it is transposed" if grad.ndim == 2 else f"its axes come in another order: transpose{order}"
                yield what, "exchange the factors of the product, or transpose it", grad.transpose(order)
    if grad.size == np.prod(shape, dtype=int):
        yield "the right numbers in another shape", "reshape it, or sum with keepdims", grad.reshape(shape)
    for count in range(1, grad.ndim + 1):
        for axes in combinations(range(grad.ndim), count):
            total = grad.sum(axes)
            if total.size == np.prod(shape, dtype=int):
                which = f"axis {axes[0]}" if count == 1 else f"axes {axes}"
                yield (
                    f"it was not summed over {which}",
                    f"sum it over {which}: what forward broadcast, backward sums",
                    total.reshape(shape),
                )
                yield (
                    f"neither summed nor divided rightly over {which}: its mean there is right",
                    f"take the mean over {which}",
                    total.reshape(shape) / max(1, grad.size // max(1, total.size)),
                )
    try:
        whole = np.broadcast_to(grad, shape)
    except ValueError:
        return
    yield "the right numbers, but not spread over all that they are for", "broadcast it to the shape of x", whole
    yield (
        "it is the sum of all that it should be spread over",
        "spread it evenly: divide by how many share it",
        whole / (np.prod(shape, dtype=int) / max(1, grad.size)),
    )


def _slope(subject, tensor, position) -> float:
    """The central difference at one coordinate."""
    epsilon, before = 1e-6, tensor.flat[position]
    ends = []
    for sign in (1, -1):
        tensor.flat[position] = before + sign * epsilon
        ends.append(np.array(subject.forward("off"), np.float64))
    tensor.flat[position] = before
    return float(np.sum((ends[0] - ends[1]) * subject.dy)) / (2 * epsilon)
