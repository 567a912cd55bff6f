"""From stencils that fail to the layer in which the fault arises, and to the mistake that explains it."""

import copy

import numpy as np

from minires.instruments.findings import Finding
from minires.instruments.gradcheck.causes import Evidence, explain
from minires.instruments.gradcheck.shapes import explain_shape
from minires.instruments.gradcheck.stencil import Checker, unit
from minires.instruments.gradcheck.subject import ModuleSubject
from minires.instruments.gradcheck.watch import copies
from minires.instruments.guard import label

SAMPLE = 96  # coordinates at which a wrong gradient is measured to find its cause, of one layer or block
FEW = 8  # the same where a whole network has to be run for each


def without_numbers(subject) -> dict[str, Finding]:
    """The tensors whose gradient has another shape than they, or is not finite, each with its finding."""
    found = {name: explain_shape(subject, name) for name in subject.misshapen}
    bad = [n for n, g in subject.grads.items() if g is not None and n in subject.tensors and not np.isfinite(g).all()]
    if bad:
        finding = _first_not_finite(subject, bad)
        found |= dict.fromkeys(bad, finding)
    return found


def _first_not_finite(subject, bad) -> Finding:
    """Where, on the way back, a gradient stops being finite."""
    what, grad = bad[-1], subject.grads[bad[-1]]
    where = subject.title
    for module, call in reversed(subject.calls.items()):
        own = [p for p in module.params() if p.name in bad]
        sends = [d for d in call.dx if d is not None and not np.isfinite(d).all()]
        if module.children() or call.dy is None or not np.isfinite(call.dy).all() or not (own or sends):
            continue
        where = label(module)
        what, grad = (own[0].name, subject.grads[own[0].name]) if own else ("its input", sends[0])
        break
    index = tuple(map(int, np.argwhere(~np.isfinite(grad))[0]))
    detail = (
        f"{where}.backward: {int(grad.size - np.isfinite(grad).sum())} of {grad.size} numbers of the gradient of "
        f"{what} are not finite, the first {grad[index]} at {index}, though forward is finite"
    )
    fix = "look for a division by what may be 0, the root's slope at 0, 0 times infinity"
    return Finding("gradient not finite", "fail", detail, fix)


def locate(subject, checker, *, everything: bool):
    """([(subject, wrong tensors)] of the innermost layers that are wrong by themselves, in forward order; how many
    layers were checked). Each is checked on what it received; everything: blocks too, not only leaves."""
    if subject.module is None:
        return [], 0
    culprits, guilty, count = [], set(), 0
    pairs = list(zip(subject.modules, subject.pristine.modules(), strict=True))
    for module, pristine in reversed(pairs):  # what is inside comes before what holds it
        call = subject.calls.get(module)
        if pristine is subject.pristine or call is None or call.dy is None:
            continue
        if (module.children() and not everything) or guilty.intersection(module.modules()):
            continue
        if not np.isfinite(call.dy).all():
            continue
        inputs = dict(enumerate(copies(call.inputs)))
        local = ModuleSubject(copy.deepcopy(pristine), inputs, call.dy, 0, whole=subject)
        if local.stopped:
            continue  # the whole's findings have said it
        judge = Checker(local, checker.epsilon, max(checker.tolerance, 1e-6), False, 0)
        missing = without_numbers(local)
        for name in local.tensors:
            if name not in missing:
                judge.check_tensor(name, 0)
        count += 1
        if wrong := [c.tensor for c in judge.checks if not c.ok]:
            guilty.add(module)
            culprits.append((local, wrong))
    return culprits[::-1], count


def faults(culprits, seed) -> list[Finding]:
    """One finding a cause, with the layers that share it."""
    rng = np.random.default_rng(seed)
    found: dict[tuple, list] = {}
    for local, wrong in culprits:
        if any(note.name == "in-place write" for note in local.notes):
            continue  # a finding of its own
        if moved := next((note for note in local.notes if note.name == "moving statistics"), None):
            detail = f"{moved.detail}; backward takes them for constants"
            found[moved.name, detail, moved.fix] = []
            continue
        few = local.pristine is not None and len(local.modules) > 20
        for name in wrong[: FEW if few else None]:
            tensor, grad = local.tensors[name], local.grads.get(name)
            at = rng.permutation(tensor.size)[: FEW if few else SAMPLE]
            numeric = np.array([local.slope({name: unit(tensor.shape, i)}, 1e-6, "hold")[0] for i in at])
            evidence = Evidence(local, name, grad, at, numeric)
            cause, seen, fix = explain(evidence)
            ours = np.zeros(len(at)) if grad is None else grad.ravel()[at]
            worst = int(np.abs(ours - numeric).argmax())
            index = tuple(map(int, np.unravel_index(at[worst], tensor.shape)))
            place = local.title if name in local.input_names else name
            found.setdefault((cause, seen, fix), []).append((place, name, index, numeric[worst], ours[worst]))
    findings = []
    for (cause, seen, fix), cases in found.items():
        if not cases:
            findings.append(Finding(cause, "fail", seen, fix))
            continue
        place, name, index, numeric, ours = cases[0]
        others = list(dict.fromkeys(case[0] for case in cases[1:] if case[0] != place))
        more = f"; the same in {', '.join(others[:3])}" + (f" and {len(others) - 3} more" if others[3:] else "")
        owner = "" if place == name else f"{place}: "
        values = f"At {index}: numeric {numeric:.6g}, analytic {ours:.6g}"
        detail = f"{owner}the gradient of {name} is wrong: {seen}. {values}"
        findings.append(Finding(cause, "fail", detail + (more if others else ""), fix))
    return findings
