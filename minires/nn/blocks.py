"""The residual block: y = relu(F(x) + shortcut(x)), with the skip on or off.

K. He et al., "Deep Residual Learning", arXiv:1512.03385, sections 3.2 and 3.3 (post-activation), and
"Identity Mappings in Deep Residual Networks", arXiv:1603.05027 (pre-activation). The plain network is the
same code with no shortcut. `SqueezeExcite` weighs the channels at the end of a branch.
"""

from collections.abc import Callable
from typing import Any

from minires.backend import Array
from minires.nn.activation import Identity, ReLU, Sigmoid
from minires.nn.conv import Conv2d
from minires.nn.dense import Flatten
from minires.nn.join import Add, Branches, Multiply
from minires.nn.module import Composite, Module, Sequential
from minires.nn.pool import GlobalAvgPool2d

__all__ = [
    "Block",
    "SqueezeExcite",
]


class Block(Composite):
    """One residual unit. The shortcut is a module (projection), IDENTITY, or None for a plain block.

    Post-activation:  y = after(branch(x) + shortcut(x)), `after` being the last ReLU.
    Pre-activation:   h = before(x), the first BN and ReLU; y = branch(h) + (x or projection(h)).

    branch: F, mostly a Sequential; before, after: modules, or None. ShapeError, naming both, where paths do not add.
    clean: the shortcut starts at x in a pre-activation block too, as one without parameters should.

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
        clean: bool = False,
    ):
        super().__init__(name)
        self.before, self.branch, self.shortcut = before, branch, shortcut
        self.add = None if shortcut is None else Add(f"{name}.add")
        self.after, self.clean = after, clean

    @property
    def from_x(self) -> bool:
        """Whether the shortcut starts at x, and not at h."""
        return self.clean or self.shortcut == self.IDENTITY

    def flow(self, x: Any, visit: Callable) -> Any:
        h = x if self.before is None else visit(self.before, x)
        y = visit(self.branch, h)
        if self.shortcut is not None:
            start = x if self.from_x else h
            y = visit(self.add, y, start if self.shortcut == self.IDENTITY else visit(self.shortcut, start))
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
            dshortcut = self.shortcut.backward(dshortcut)
        if not self.from_x:
            dh = dh + dshortcut
        dx = dh if self.before is None else self.before.backward(dh)
        return dx + dshortcut if self.from_x else dx


class SqueezeExcite(Branches):
    """Squeeze and excitation: y = x * sigmoid(w2 relu(w1 mean(x) + b1) + b2), a factor for each channel of each image.

    w1 leads to 1 / reduction of the channels. J. Hu et al., arXiv:1709.01507, section 3. The two matrices are 1x1
    convolutions `fc1` and `fc2`, as in timm.
    """

    def __init__(self, name: str, channels: int, reduction: int = 16, *, init: str = "he", seed: int = 0):
        settings, few = {"bias": True, "init": init, "seed": seed}, max(1, channels // reduction)
        gate = Sequential(
            GlobalAvgPool2d(f"{name}.squeeze", keep=True),
            Conv2d(f"{name}.fc1", channels, few, 1, **settings),
            ReLU(f"{name}.relu"),
            Conv2d(f"{name}.fc2", few, channels, 1, **settings),
            Sigmoid(f"{name}.sigmoid"),
            Flatten(f"{name}.flatten"),
            name=f"{name}.gate",
        )
        super().__init__(name, Identity(f"{name}.x"), gate, join=Multiply(f"{name}.scale"))

    def look(self) -> tuple[str, str] | None:
        return "other", "SE"
