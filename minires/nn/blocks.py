"""The residual block: y = relu(F(x) + shortcut(x)), with the skip on or off.

K. He et al., "Deep Residual Learning", arXiv:1512.03385, sections 3.2 and 3.3 (post-activation), and
"Identity Mappings in Deep Residual Networks", arXiv:1603.05027 (pre-activation). The plain network is the
same code with no shortcut.
"""

from minires import ops
from minires.errors import ShapeError
from minires.nn.module import Module, Sequential


class Add(Module):
    """The add node, where the two paths meet. Forward sums them; backward hands each the whole gradient."""

    def forward(self, branch, shortcut):
        self.join_shapes(branch.shape[1:], shortcut.shape[1:])
        return ops.add_forward(branch, shortcut)

    def backward(self, dy, need_dx=True):
        return ops.add_backward(dy)

    def join_shapes(self, branch: tuple, shortcut: tuple) -> tuple:
        """The common shape; ShapeError naming both paths and the projection that would mend it."""
        if branch == shortcut:
            return branch
        stride = tuple(-(-s // max(b, 1)) for b, s in zip(branch[:2], shortcut[:2], strict=True))
        raise ShapeError(
            f"{self.name}: the branch gives {branch} but the shortcut {shortcut}, and only equal shapes add: "
            f"use a projection shortcut, a 1x1 convolution {shortcut[-1]} -> {branch[-1]} with stride {stride}"
        )


class Block(Module):
    """One residual unit. The shortcut is a module (projection), IDENTITY, or None for a plain block.

    Post-activation:  y = after(branch(x) + shortcut(x)), `after` being the last ReLU.
    Pre-activation:   h = before(x), the first BN and ReLU; y = branch(h) + (x or projection(h)).
    """

    IDENTITY = "identity"

    def __init__(self, name, branch: Sequential, shortcut, *, before=None, after=None):
        super().__init__(name)
        self.before, self.branch, self.shortcut = before, branch, shortcut
        self.add = None if shortcut is None else Add(f"{name}.add")
        self.after = after

    def forward(self, x):
        h = x if self.before is None else self.before.forward(x)
        y = self.branch.forward(h)
        if self.shortcut is not None:
            y = self.add.forward(y, x if self.shortcut == self.IDENTITY else self.shortcut.forward(h))
        return y if self.after is None else self.after.forward(y)

    def backward(self, dy, need_dx=True):
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

    def output_shape(self, shape):
        inner = shape if self.before is None else self.before.output_shape(shape)
        out = self.branch.output_shape(inner)
        if self.shortcut is not None:
            identity = self.shortcut == self.IDENTITY
            out = self.add.join_shapes(out, shape if identity else self.shortcut.output_shape(inner))
        return out if self.after is None else self.after.output_shape(out)
