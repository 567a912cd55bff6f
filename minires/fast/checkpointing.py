"""Gradient checkpointing, memory for time: blocks that keep their input alone and compute the rest again backwards.

T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, section 3,
with one segment a residual block. A second forward pass of the same numbers gives the same numbers, so gradients are
those of the network as it was, to the bit.
"""

import copy
from contextlib import contextmanager

from minires.nn.blocks import Block
from minires.nn.module import Module, Sequential


class Checkpointed(Module):
    """`block`, which forgets what it saved as soon as its output is there."""

    def __init__(self, block: Module):
        super().__init__(block.name)
        self.block = block

    def forward(self, x):
        y = self.block.forward(x)
        self.block.release()
        self.save(x)
        return y

    def backward(self, dy, need_dx=True):
        (x,) = self.saved()
        with self._statistics_at_rest():
            self.block.forward(x)
        return self.block.backward(dy, need_dx=need_dx)

    @contextmanager
    def _statistics_at_rest(self):
        """The running ones saw this batch in the first forward pass."""
        following = [m for m in self.block.modules() if getattr(m, "update_running_stats", False)]
        for module in following:
            module.update_running_stats = False
        try:
            yield
        finally:
            for module in following:
                module.update_running_stats = True

    def output_shape(self, shape):
        return self.block.output_shape(shape)


def checkpointed(module: Module) -> Module:
    """`module` as it stands, but for its blocks, each of which is checkpointed."""
    if isinstance(module, Block):
        return Checkpointed(module)
    if not isinstance(module, Sequential):
        return module
    same = copy.copy(module)
    same.layers = [checkpointed(layer) for layer in module.layers]
    return same
