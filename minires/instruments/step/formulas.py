"""What a step of the tape computes and hands back: the formula, a sentence, and the op that does it.

A layer's stand in its class (`Module.maths`); here are those of the loss and of a fork.
"""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from minires import nn, ops


@dataclass(frozen=True)
class Maths:
    """One direction of one kind of step."""

    formula: str
    says: str
    ops: tuple[Callable, ...]

    def sources(self) -> dict[str, str]:
        """Name -> source code of each op."""
        return {op.__qualname__: textwrap.dedent(inspect.getsource(op)).removeprefix("@compiled\n") for op in self.ops}


LOSS = {
    "forward": Maths(
        "L = −mean log p[label],   p = softmax(logits)",
        "The scores become probabilities; the loss is the surprise at the right answer.",
        (ops.softmax_cross_entropy_forward,),
    ),
    "backward": Maths(
        "dlogits = (p − one-hot(label)) / N",
        "The gradient starts here: probability minus truth, over the batch size.",
        (ops.softmax_cross_entropy_backward,),
    ),
}


def fork(kind: type[nn.Module], paths: tuple[str, ...]) -> Maths:
    """Where x went several ways through a block of this class: what comes back adds up. paths: "via branch", ..."""
    says = "x went both ways, so what comes back through the two paths adds up."
    if len(paths) != 2:
        says = f"x went {len(paths)} ways, so what comes back through all of them adds up."
    return Maths("dx = " + " + ".join(f"dx {path}" for path in paths), says, (kind.backward,))


def maths(layer: nn.Module, direction: str) -> Maths:
    """What the layer's class says of itself, and the ops that its method calls; of a silent one the method itself."""
    method = getattr(type(layer), direction)
    names = getattr(getattr(method, "__code__", None), "co_names", ())
    called = tuple(getattr(ops, name) for name in names if name in ops.__all__)
    if layer.maths is not None:
        return Maths(*getattr(layer.maths, direction), called or (method,))
    text = (inspect.getdoc(type(layer)) or "").partition("\n")[0]
    return Maths("", text, (method,))
