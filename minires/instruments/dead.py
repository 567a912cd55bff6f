"""Dead ReLUs: layers whose outputs are all 0, past which no gradient gets. Told by what a layer does, not by its type.

One place for the instruments: a network that has them looks to each like another fault.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from minires.backend import Array, get_xp
from minires.instruments.findings import Finding
from minires.instruments.guard import label
from minires.nn import Module
from minires.nn.probe import untouched

DEAD = 0.99  # share of a ReLU's outputs that are zero, from which on it is called dead
SLOPE = 0.1  # of what stands in for a ReLU where it is revived


@dataclass(frozen=True)
class Rectifier:
    """A layer that gives max(x, 0): the share of its outputs that are 0, and the largest of its inputs."""

    name: str
    zeros: float
    largest: float


def rectifies(x: Array, y: Array) -> bool:
    """Whether y is max(x, 0), for an x that shows it."""
    if getattr(x, "shape", None) != getattr(y, "shape", None) or not x.size or not bool((x < 0).any()):
        return False
    return bool((y == get_xp(x).maximum(x, 0)).all())


def rectifiers(model: Module, x: Array) -> dict[Module, Rectifier]:
    """The layers that rectify, as x goes through in the model's present mode; the model is left as it was."""
    found = {}

    def watch(module, forward):
        def watched(*inputs):
            y = forward(*inputs)
            if len(inputs) == 1 and rectifies(inputs[0], y):
                found[module] = Rectifier(label(module), float((y == 0).mean()), float(inputs[0].max()))
            return y

        return watched

    leaves = [m for m in model.modules() if not m.children()]
    with untouched(model), replaced(leaves, watch), np.errstate(all="ignore"):
        model.forward(x)
    return found


def dead_relus(found: dict[Module, Rectifier], share: float = DEAD, status: str = "fail") -> list[Finding]:
    """One finding for all that are dead."""
    dead = [r for r in found.values() if r.zeros >= share]
    if not dead:
        return []
    first = dead[0]
    more = f" (and {len(dead) - 1} more)" if dead[1:] else ""
    detail = (
        f"{first.name}{more}: {first.zeros:.1%} of its outputs are 0 (its largest input is {first.largest:.3g}), and "
        "where it is 0 no gradient passes"
    )
    fix = "look at the bias or beta before it: a large rate or a wrong start pushed it below zero"
    return [Finding("dead ReLUs", status, detail, fix)]


@contextmanager
def revived(found: dict[Module, Rectifier]):
    """Inside, the layers that rectify let a tenth of what is negative through."""
    with replaced(list(found), lambda *_: lambda x: get_xp(x).where(x > 0, x, SLOPE * x)):
        yield


@contextmanager
def replaced(modules: list[Module], other):
    """Inside, each module's forward is other(module, forward)."""
    before = {m: vars(m).get("forward") for m in modules}
    try:
        for module in before:
            module.forward = other(module, module.forward)
        yield
    finally:
        for module, forward in before.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
