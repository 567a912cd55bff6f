"""The residual block: y = relu(F(x) + shortcut(x)), with the skip on or off.

K. He et al., "Deep Residual Learning", arXiv:1512.03385, sections 3.2 and 3.3 (post-activation), and
"Identity Mappings in Deep Residual Networks", arXiv:1603.05027 (pre-activation). The plain network is the
same code with no shortcut.
"""

from collections.abc import Callable
from typing import Any

from minires.backend import Array
from minires.nn.join import Add
from minires.nn.module import Composite, Module, Sequential

__all__ = [
    "Block",
]


class Block(Composite):
    """One residual unit. The shortcut is a module (projection), IDENTITY, or None for a plain block.

    Post-activation:  y = after(branch(x) + shortcut(x)), `after` being the last ReLU.
    Pre-activation:   h = before(x), the first BN and ReLU; y = branch(h) + (x or projection(h)).

    branch: F, mostly a Sequential; before, after: modules, or None. ShapeError, naming both, where paths do not add.

    >>> branch = minires.Sequential(minires.Conv2d("f.conv", 8, 8, 3, pad=1), minires.BatchNorm("f.bn", 8), name="f")
    >>> block = minires.Block("block", branch, minires.Block.IDENTITY, after=minires.ReLU("relu"))
    >>> x = numpy.random.default_rng(0).standard_normal((2, 6, 6, 8))
    >>> minires.gradcheck(block, x).ok
    True
    """

    IDENTITY = "identity"

    def __init__(
        self,
        name: str,
        branch: Sequential,
        shortcut: Module | str | None,
        *,
        before: Module | None = None,
        after: Module | None = None,
    ):
        super().__init__(name)
        self.before, self.branch, self.shortcut = before, branch, shortcut
        self.add = None if shortcut is None else Add(f"{name}.add")
        self.after = after

    def flow(self, x: Any, visit: Callable) -> Any:
        h = x if self.before is None else visit(self.before, x)
        y = visit(self.branch, h)
        if self.shortcut is not None:
            y = visit(self.add, y, x if self.shortcut == self.IDENTITY else visit(self.shortcut, h))
        return y if self.after is None else visit(self.after, y)

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        if self.after is not None:
            dy = self.after.backward(dy)
        if self.shortcut is None:
            dh = self.branch.backward(dy)
            return dh if self.before is None else self.before.backward(dh)
        dbranch, dshortcut = self.add.backward(dy)
        dh = self.branch.backward(dbranch)
        if self.shortcut != self.IDENTITY:
            dh = dh + self.shortcut.backward(dshortcut)
        dx = dh if self.before is None else self.before.backward(dh)
        return dx + dshortcut if self.shortcut == self.IDENTITY else dx
