"""What a residual block's forward computes in place of its own sum: a ReLU elsewhere, a shortcut doubled or left out.

Told by recomputing the block's output from what its paths gave, for the instruments that see it run.
"""

import numpy as np

from minires import nn
from minires.nn.blocks import Block

NEAR = 1e-9  # outputs nearer than this, relative, are equal


def near(a, b) -> bool:
    return a.shape == b.shape and bool(np.linalg.norm(a - b) <= NEAR * max(np.linalg.norm(b), 1e-300))


def departure(module: nn.Module, calls: dict) -> tuple[str, str, str] | None:
    """(cause, what is seen, what to do) for a Block or Add that computes another sum than its own, of known ones.

    calls: what each module received and returned, by module.
    """
    if isinstance(module, nn.Add):
        return _of_add(module, calls)
    if isinstance(module, Block) and module.shortcut is not None:
        own = _of_add(module.add, calls) if module.add in calls else None
        return own or _of_block(module, calls)
    return None


def _of_add(add, calls):
    inputs, y = calls[add].inputs, calls[add].y
    if len(inputs) != 2 or any(i.shape != y.shape for i in inputs):
        return None
    return _sum(*inputs, y, "the add node gives")


def _sum(branch, shortcut, y, who):
    """Where y = a F + b shortcut with other factors than 1."""
    F, s, out = (a.ravel() for a in (branch, shortcut, y))
    both = np.stack([F, s], axis=1)
    (a, b), _, rank, _ = np.linalg.lstsq(both, out, rcond=1e-9)
    if rank < 2:
        return None  # of a path that gives zeros, or what the other gives, the factor cannot be told
    if np.linalg.norm(both @ [a, b] - out) > NEAR * max(np.linalg.norm(out), 1e-300) or np.allclose([a, b], 1):
        return None
    a, b = (float(f"{c:.9g}") + 0.0 for c in (a, b))
    seen = f"{who} {_term(a, 'F(x)')} + {_term(b, 'shortcut')}"
    fix = "y = F(x) + shortcut: each once"
    if abs(b) < 1e-9:
        return "shortcut left out", f"{seen}: it ignores the shortcut", fix
    if abs(a) < 1e-9:
        return "branch left out", f"{seen}: it ignores the branch", fix
    if np.isclose(b, 2) and np.isclose(a, 1):
        return "doubled shortcut", f"{seen}: the shortcut counts twice", fix
    return "scaled shortcut", f"{seen}, not F(x) + shortcut", fix


def _term(factor, what) -> str:
    if abs(factor) < 1e-9:
        return f"0 {what}"
    return what if np.isclose(factor, 1) else f"{factor:.4g} {what}"


def _of_block(block, calls):
    call, F = calls[block], _gave(block.branch, calls)
    x, y = call.inputs[0], call.y
    start = x if block.from_x or block.before is None else _gave(block.before, calls)
    s = start if block.shortcut == Block.IDENTITY else _gave(block.shortcut, calls)
    if F is None or s is None or F.shape != y.shape or s.shape != y.shape:
        return None

    def relu(a):
        return np.maximum(a, 0)

    last = isinstance(block.after, nn.ReLU)
    if near(y, relu(F + s) if last else F + s):
        return None
    put = "y = relu(F(x) + shortcut): one ReLU, after the sum" if last else "y = F(x) + shortcut, with no ReLU behind"
    forms = [
        ("misplaced ReLU", "relu(F(x)) + shortcut: the ReLU stands before the sum", relu(F) + s),
        ("misplaced ReLU", "F(x) + relu(shortcut): the ReLU is on the shortcut", F + relu(s)),
        ("misplaced ReLU", "relu(F(x)) + relu(shortcut): a ReLU on each path", relu(F) + relu(s)),
        ("misplaced ReLU", "relu(relu(F(x)) + shortcut): one ReLU too many, before the sum", relu(relu(F) + s)),
        ("misplaced ReLU", "relu(F(x) + relu(shortcut)): one ReLU too many, on the shortcut", relu(F + relu(s))),
        ("misplaced ReLU", "relu(F(x) + shortcut): one ReLU too many", relu(F + s)),
        ("misplaced ReLU", "F(x) + shortcut: the ReLU behind the sum is missing", F + s),
        ("misplaced ReLU", "relu(F(x)): the ReLU of the branch alone", relu(F)),
        ("shortcut left out", "F(x) alone: it ignores the shortcut", F),
        ("branch left out", "the shortcut alone", s),
        ("branch left out", "the shortcut alone, behind a ReLU", relu(s)),
        ("product for sum", "F(x) times the shortcut", F * s),
        ("doubled shortcut", "relu(F(x) + 2 shortcut): the shortcut counts twice", relu(F + 2 * s)),
        ("doubled shortcut", "F(x) + 2 shortcut: the shortcut counts twice", F + 2 * s),
        ("doubled shortcut", "relu(F(x) + shortcut) + shortcut: the shortcut is added again", relu(F + s) + s),
        ("scaled shortcut", "relu(F(x) - shortcut): the shortcut is subtracted", relu(F - s)),
        ("scaled shortcut", "relu((F(x) + shortcut) / 2): the sum is halved", relu((F + s) / 2)),
        ("branch counted twice", "relu(2 F(x) + shortcut): the branch counts twice", relu(2 * F + s)),
    ]
    for cause, words, form in forms:
        if near(y, form):
            return cause, f"forward gives {words}", put
    return _sum(F, s, y, "forward gives")


def _gave(path, calls):
    """What a path gave, also where a block walks its layers one by one."""
    leaves = [m for m in path.modules() if not m.children()]
    for module in (path, leaves[-1]):
        if module in calls:
            return calls[module].y
    return None
