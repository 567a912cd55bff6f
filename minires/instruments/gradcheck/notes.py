"""What a gradient check notes beside wrong numbers: what forward has to be, writes in place, what is too sharp."""

import numpy as np

from minires import nn
from minires.instruments.findings import Finding
from minires.instruments.guard import label
from minires.nn.blocks import Block


def in_place(root: nn.Module, module: nn.Module, what: str) -> Finding:
    """For a module that changed the array ('x' or 'dy') that it was handed; a fault where a shortcut shares it."""
    shared = ""
    for block in (m for m in root.modules() if isinstance(m, Block) and m.shortcut is not None):
        if what == "dy" and module in block.branch.modules():
            shared = f"; the shortcut of {label(block)} receives that very array from the add node"
    step = "backward" if what == "dy" else "forward"
    detail = f"{label(module)}.{step} writes in place into the {what} that it was handed{shared}"
    fix = f"compute a new array, such as dx = dy * (y > 0), and leave {what} as it is"
    return Finding("in-place write", "fail" if shared else "warn", detail, fix)


def first_that_differs(one: dict, other: dict) -> str:
    """The first layer that gave two outputs for one input, of two passes' calls; nothing where none is seen."""
    for module, call in one.items():
        again = other.get(module)
        if module.children() or again is None or len(call.inputs) != len(again.inputs):
            continue
        alike = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(call.inputs, again.inputs, strict=True))
        if alike and not np.array_equal(call.y, again.y, equal_nan=True):
            return label(module)
    return ""


def moving(moved: list[str], drawing: list[str], where: str = "") -> Finding:
    """For an output that changed between two forwards of one input, with the buffers that moved and the layers
    that hold a generator; or with the layer `where` it did."""
    if drawing:
        detail = f"{', '.join(drawing[:3])} draws anew at each forward"
        return Finding("draws anew", "warn", detail, "nothing: its generator was put back before every evaluation")
    if moved:
        detail = f"the output depends on statistics that move between evaluations: {', '.join(moved[:3])}"
        fix = "normalise with the batch's statistics to train, and leave the running ones alone in evaluation"
        return Finding("moving statistics", "warn", f"{detail}; they were put back before every evaluation", fix)
    detail = "two forwards of one input give two outputs, though no buffer and no generator of its own moved"
    detail = f"{where}: {detail}" if where else detail
    fix = "keep what forward depends on in the input, Params and Buffers; draw from a Generator held in the module"
    return Finding("not a function", "fail", detail, fix)


def steps(moved: list[str], where: str) -> Finding:
    """For weights that forward or backward itself changed."""
    few = f"{', '.join(moved[:3])}{f' and {len(moved) - 3} more' if moved[3:] else ''}"
    detail = f"{where} changes {few}: it takes the optimiser's step itself. The gradient was checked before that step"
    fix = f"let {where} leave the weights as they are, and the optimiser change them"
    return Finding(f"step in {where}", "fail", detail, fix)


def other_shapes(calls: dict) -> list[Finding]:
    """For layers whose `output_shape` tells another shape than their forward gives."""
    found = []
    for module, call in calls.items():
        if module.children() or type(module).output_shape is nn.Module.output_shape or call.y.ndim == 0:
            continue
        shapes = [i.shape[1:] for i in call.inputs]
        try:
            told = module.output_shape(*shapes)
        except Exception as error:  # whatever a layer of somebody's raises: it is told, and the gradient judged
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        if told != call.y.shape[1:]:
            given = ", ".join(map(str, shapes))
            detail = f"{label(module)}: output_shape says {told!r:.80} for {given}, forward gives {call.y.shape[1:]}"
            found.append(Finding("output_shape", "warn", detail, "let output_shape and forward agree"))
    return found[:1]


def changed_by_backward(title: str) -> Finding:
    """For a forward that gives something else after a backward, though weights and buffers are as before."""
    detail = f"{title}: two forwards gave the same; after a backward a third gives something else, though no Param did"
    fix = "let backward change nothing that forward computes with: keep the state in Params and Buffers"
    return Finding("not a function", "fail", detail, fix)


def not_finite_forward(subject) -> Finding:
    """For an output that is not finite though weights and inputs are: the first layer in which it is not."""
    where, y, x = subject.title, subject.y, subject.inputs[0]
    for module, call in subject.calls.items():
        if not module.children() and not np.isfinite(call.y).all() and all(np.isfinite(i).all() for i in call.inputs):
            where, y, x = label(module), call.y, call.inputs[0]
            break
    index = tuple(map(int, np.argwhere(~np.isfinite(y))[0])) if y.ndim else ()
    count = int(y.size - np.isfinite(y).sum())
    detail = (
        f"{where}.forward gives {count} of {y.size} numbers that are not finite, the first {y[index]} at {index}, for "
        f"inputs from {x.min():.3g} to {x.max():.3g}: backward was not judged"
    )
    fix = "mend forward first: a logarithm or root of what may be 0 or less, a division by 0, an exp that overflows"
    return Finding("forward not finite", "fail", detail, fix)


def sharp(calls: dict, wrong: list, count: int) -> Finding:
    """For stencils of a chain of layers that fail at every epsilon though none of its `count` layers is wrong.

    Each layer was checked on the input and the gradient that it meets, so the chain rule vouches for the whole.
    """
    c = max(wrong, key=lambda c: c.error)
    few = [(m, m_values) for m, call in calls.items() if (m_values := _values(m, call)) == 2]
    why = "the network bends too sharply for a difference"
    if few:
        why = f"{label(few[0][0])} normalises 2 values a channel, which makes it a step from -1 to 1"
    detail = (
        f"the difference of {len(wrong)} tensors fails at every epsilon, as that of {c.tensor}: numeric "
        f"{c.numeric:.4g}, analytic {c.analytic:.4g}; but each of the {count} layers by itself is right: {why}"
    )
    return Finding("too sharp", "warn", detail, "nothing is wrong; to see it pass, take a larger batch or image")


def _values(module, call) -> int:
    """How many values of a channel a batch normalisation in training mode takes together; 0 for anything else."""
    x = call.inputs[0]
    return x.size // x.shape[-1] if isinstance(module, nn.BatchNorm) and module.training else 0
