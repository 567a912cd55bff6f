"""What the audit calls a fault of a block's shortcut, of its add node, of a parameter."""

import copy

import numpy as np

from minires.instruments.dead import revived
from minires.instruments.departure import departure
from minires.instruments.findings import Finding
from minires.instruments.guard import label

SAME = 1e-6  # float64 gradients and answers nearer than this, relative, are equal


def skip_faults(plan, answer, share, twin, calls) -> list[Finding]:
    """What the shortcut's answer to the block's input tells. share: of the add's gradient that it receives."""
    if answer == 1:
        found = departure(twin, calls)
        return [] if found is None else [Finding(found[0], "fail", f"{plan.name}: {found[1]}", found[2])]
    found = departure(twin, calls)
    if answer == 0:
        seen = (
            f"{plan.name}: the shortcut does not depend on the block's input: with the branch held fixed, nothing moves"
        )
        if found is not None and found[0] == "shortcut left out":
            return [Finding("dead skip", "fail", f"{seen}. {found[1]}", "add the shortcut: y = F(x) + shortcut(x)")]
        if _starts_from_branch(twin, calls):
            detail = f"{seen}. It starts from the main path, so the block has no skip"
            return [Finding("dead skip", "fail", detail, "take the shortcut from the block's input x")]
        detail = f"{seen}. The block has no skip; where the shortcut starts, or is dropped, was not seen"
        return [Finding("dead skip", "fail", detail, "take the shortcut from the block's input x, and add it")]
    if answer is None:
        if found is not None:
            return [Finding(found[0], "fail", f"{plan.name}: {found[1]}", found[2])]
        detail = f"{plan.name}: the shortcut follows the block's input, but not as its {plan.shortcut} map does"
        return [Finding("misrouted skip", "fail", detail, "add shortcut(x) of the block's own input, no other")]
    if abs(answer - 1) <= SAME:
        return []
    detail = f"{plan.name}: the shortcut is scaled by {answer:.4g}: over n blocks its signal scales by the nth power"
    if share == 1:
        detail += ". Backward takes it as it is: forward and backward are of two blocks"
        return [Finding("scaled skip", "fail", detail, "add it once, as it is: y = F(x) + shortcut(x)")]
    return [Finding("scaled skip", "warn", detail, "add it as it is, unless the scale is the experiment")]


def _starts_from_branch(twin, calls) -> bool:
    """Whether what is added as the shortcut, or goes into its layers, comes out of the branch."""
    leaves = [m for m in twin.branch.modules() if not m.children()]
    gave = [calls[m].y for m in leaves if m in calls]
    side = calls.get(None if isinstance(twin.shortcut, str) else twin.shortcut)
    add = calls.get(twin.add)
    taken = [side.inputs[0]] if side else [add.inputs[1]] if add and len(add.inputs) == 2 else []
    if not taken and twin in calls:  # a block that adds by hand: y = F(x) + what?
        y, last = calls[twin].y, gave[-1] if gave else None
        taken = [y - last] if last is not None and last.shape == y.shape else []
    return any(t.shape == g.shape and np.allclose(t, g) for t in taken for g in gave)


def add_faults(name, watch, twin, answer, branch, shortcut) -> list[Finding]:
    """What the add node's backward gives to each path, where it is not what forward took from it."""
    after = watch.calls.get(twin.after)
    at_add = after.dx[0] if after and after.dx else watch.calls[twin].dy
    if at_add is None or not at_add.any():
        return []
    shares = {"branch": (branch, 1.0), "shortcut": (shortcut, answer)}  # forward's scale is backward's too
    wrong = {path: share for path, (share, due) in shares.items() if share is None or abs(share - due) > SAME}
    if answer != 1 and shortcut == 1:
        return []  # backward is that of a shortcut as it is: forward is to blame, and was
    inside = set(twin.modules())
    if not wrong or any(module in inside and what == "dy" for module, what in watch.written):
        return []  # a write in place is a finding of its own
    fix = "y = F(x) + x has slope 1 in both: hand each path the whole dy, and sum what comes back"
    if all(share is not None and abs(share - 0.5) < SAME for share in wrong.values()):
        paths = " and the ".join(wrong)
        detail = f"{name}: half of the gradient at the add node reaches the {paths}: it is averaged, not copied"
        return [Finding("averaged at the add", "fail", detail, fix)]
    path, share = next(iter(wrong.items()))
    seen = "something else than" if share is None else "nothing of" if share == 0 else f"{share:.4g} times"
    detail = f"{name}: the {path} receives {seen} the gradient at the add node"
    return [Finding("gradient at the add", "fail", detail, fix)]


def multiple(a, b) -> float | None:
    """c where a = c b, 0 for no a; None where there is no such c."""
    if a is None or np.linalg.norm(a) <= SAME * np.linalg.norm(b):
        return 0.0
    if a.shape != b.shape:
        return None
    c = float(np.vdot(a, b) / np.vdot(b, b)) if b.any() else 0.0
    return round(c, 9) if np.linalg.norm(a - c * b) <= SAME * np.linalg.norm(a) else None


def parameters(pristine, watched, watch, relus, rng) -> list[Finding]:
    """Parameters that do nothing, and parameters that backward forgets."""
    findings = []
    for module in watched.modules():
        if module.params() and not module.children() and module not in watch.calls:
            detail = f"{label(module)} is never used: {sum(p.data.size for p in module.params())} idle parameters"
            findings.append(Finding("unused layer", "fail", detail, "call it in forward, or remove it"))
    called = {id(p) for module in watch.calls if not module.children() for p in module.params()}
    twins = zip(pristine.params(), watched.params(), strict=True)
    for p, seen in twins:
        if id(seen) not in called or (seen.grad is not None and seen.grad.any()):
            continue
        used = {training: _matters(pristine, p, watch, watched, training, rng) for training in (True, False)}
        if used[True]:
            detail = f"{p.name} receives no gradient, yet the output depends on it: it is never trained"
            findings.append(Finding("no gradient", "fail", detail, "write its gradient in backward"))
        elif not used[False] and not _matters_if_revived(pristine, p, watch, watched, relus, rng):
            detail = f"{p.name} has no influence on the output"
            findings.append(Finding("no use", "fail", detail, "use it in forward, or remove it"))
    return findings


def _matters(pristine, p, watch, watched, training, rng) -> bool:
    before, outputs = p.data.copy(), []
    for change in (0, 1):
        p.data = before + change * rng.standard_normal(before.shape)
        model = copy.deepcopy(pristine)
        for module in model.modules():
            module.training &= training
        outputs.append(model.forward(watch.calls[next(iter(watched.modules()))].inputs[0]))
    p.data = before
    return not np.allclose(*outputs, rtol=1e-9, atol=1e-9)


def _matters_if_revived(pristine, p, watch, watched, relus, rng) -> bool:
    """Whether a parameter matters once ReLUs let a little through: what a dead one hides is no idle parameter."""
    if not any(r.zeros == 1 for r in relus.values()):
        return False
    with revived(relus):  # all of them: what one lets through, the next would stop
        return any(_matters(pristine, p, watch, watched, training, rng) for training in (True, False))
