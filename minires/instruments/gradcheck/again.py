"""What an earlier pass left: gradients that are added to, arrays of another batch that backward still uses.

A check of one pass cannot see it. So a second pass, of another input, is run on the copy that has seen the first and
on one that has not, and what differs is the fault.
"""

import copy

import numpy as np

from minires.errors import MiniresError
from minires.instruments.findings import Finding
from minires.instruments.gradcheck.subject import ModuleSubject
from minires.instruments.gradcheck.watch import copies
from minires.instruments.guard import label


def left_from_before(subject) -> Finding | None:
    """The finding, where a second pass is not what it is by itself."""
    if not isinstance(subject, ModuleSubject) or subject.drew:
        return None
    rng = np.random.default_rng(1)
    moved = {  # the same numbers, each elsewhere: where x may lie, they may
        name: rng.permuted(x.ravel()).reshape(x.shape) if x.dtype.kind == "f" else x
        for name, x in zip(subject.input_names, subject.inputs, strict=True)
    }
    fresh = ModuleSubject(copy.deepcopy(subject.pristine), moved, subject.dy, 0, whole=subject)
    if fresh.stopped or fresh.y.shape != subject.y.shape:
        return None
    first = dict(subject.grads)
    try:
        second = subject.another(subject.dy.copy(), inputs=copies(moved.values()), keep=True)
    except MiniresError as error:
        detail = f"a second pass, of another batch, fails where a pass by itself does not: {error}"
        fix = "let every forward save its arrays anew, and backward take those"
        return Finding("earlier batch", "fail", detail, fix)
    calls = subject.last_calls
    for name, grad in second.items():
        own = fresh.grads.get(name)
        if grad is None or own is None or grad.shape != own.shape or np.allclose(grad, own, rtol=1e-6, atol=1e-9):
            continue
        before = None if name in subject.input_names else first.get(name)
        if before is not None and np.allclose(grad, own + before, rtol=1e-6, atol=1e-9):
            detail = f"the gradient of {name} is the sum of two backward passes: the second is added to the first"
            fix = "replace it: Param.write_grad keeps that of the last backward, which is what the optimiser expects"
            return Finding("accumulated", "fail", detail, fix)
    of_fresh = dict(zip(subject.modules, fresh.modules, strict=True))
    for module, call in reversed(calls.items()):
        own = fresh.calls.get(of_fresh[module])
        if own is None or module.children() or own.dy is None or call.dy is None:
            continue
        if not all(np.allclose(a, b) for a, b in zip((*call.inputs, call.dy), (*own.inputs, own.dy), strict=True)):
            continue
        wrong = [p.name for p in module.params() if _differ(second.get(p.name), fresh.grads.get(p.name))]
        if any(_differ(a, b) for a, b in zip(call.dx, own.dx, strict=True)):
            wrong.append("its input")
        if wrong:
            detail = (
                f"{label(module)}: in a second pass, of another batch, the gradient of {wrong[0]} is not what it is in "
                "a pass by itself: backward uses what an earlier forward left"
            )
            fix = "let every forward save its arrays anew (self.save(x)), and backward take those (self.saved())"
            return Finding("earlier batch", "fail", detail, fix)
    return None


def _differ(a, b) -> bool:
    return a is not None and b is not None and a.shape == b.shape and not np.allclose(a, b, rtol=1e-6, atol=1e-9)
