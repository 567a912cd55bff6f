"""Rewriting a network for speed: its copy, with each convolution, normalisation, add and ReLU brought together.

A `Rewriter` walks over the module tree and asks its subclass for what takes the place of a run of layers
[convolution,] normalisation [, ReLU]; nn/parallel.py does so for training, fast/inference.py for inference.
"""

import copy

from minires.backend import get_xp
from minires.fast.checkpointing import Recomputed
from minires.nn.blocks import Block
from minires.nn.layers import BatchNorm, Conv2d, ReLU
from minires.nn.module import Module, Param, Sequential


def rewritable(model: Module) -> bool:
    """Whether every part is the library's own: of one that somebody wrote or changed, nobody knows what it computes."""
    return all(
        type(m).__module__.startswith("minires.nn.") and not {"forward", "backward"} & vars(m).keys()
        for m in model.modules()
    )


def folded(conv: Conv2d, norm: BatchNorm) -> tuple:
    """(w', b') of the convolution that does what conv and then norm do in evaluation.

    w' = w * gamma * rstd, o by o, and b' = beta + (b - mean) * gamma * rstd. B. Jacob et al., arXiv:1712.05877,
    section 3.2.
    """
    slope = norm.gamma.data / get_xp(norm.var.data).sqrt(norm.var.data + norm.epsilon)
    bias = -norm.mean.data if conv.b is None else conv.b.data - norm.mean.data
    return conv.w.data * slope, norm.beta.data + bias * slope


class FusedSequential(Sequential):
    """Layers one after the other; the last one may add a shortcut, and then sends a gradient into it."""

    def forward(self, x, shortcut=None):
        for layer in self.layers[:-1]:
            x = layer.forward(x)
        last = self.layers[-1]
        return last.forward(x) if shortcut is None else last.forward(x, shortcut)

    def backward_both(self, dy, onto=False):
        """(dx, dshortcut); onto: dx with dshortcut added."""
        dy, dshortcut = self.layers[-1].backward_both(dy)
        return _backward(self.layers[:-1], dy, dshortcut if onto else None), dshortcut

    def backward_onto(self, dy, add):
        """dx + add, into dx or where it is computed."""
        return _backward(self.layers, dy, add)


def _backward(layers, dy, add):
    """dx of layers, plus `add` where it is given: by the first layer, if it can."""
    for layer in reversed(layers[1:]):
        dy = layer.backward(dy)
    if add is not None and hasattr(layers[0], "backward_onto"):
        return layers[0].backward_onto(dy, add)
    dx = layers[0].backward(dy)
    if add is not None:
        dx += add
    return dx


class FusedBlock(Module):
    """A post-activation block whose last layer adds the shortcut and applies ReLU."""

    def __init__(self, name, branch: FusedSequential, shortcut):
        super().__init__(name)
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x):
        if self.shortcut is None:
            return self.branch.forward(x)
        return self.branch.forward(x, x if self.shortcut == Block.IDENTITY else self.shortcut.forward(x))

    def backward(self, dy, need_dx=True):
        if self.shortcut is None:
            return self.branch.backward(dy)
        identity = self.shortcut == Block.IDENTITY
        dx, dshortcut = self.branch.backward_both(dy, onto=identity)
        return dx if identity else self.shortcut.backward_onto(dshortcut, dx)


class Rewriter:
    """Copies a module tree; subclasses say what becomes of parameters and of normalised runs.

    recompute: blocks keep their input alone (fast/checkpointing.py).
    """

    recompute = False

    def normalised(self, conv: Conv2d | None, norm: BatchNorm, relu: bool) -> list[Module]:
        """What takes the place of [conv,] norm [, ReLU]."""
        raise NotImplementedError

    def param(self, param: Param) -> Param:
        return param

    def copy(self, module: Module) -> Module:
        """The copy of a module and of all below it."""
        if isinstance(module, Sequential):
            return FusedSequential(*self.chain(module.layers), name=module.name)
        if isinstance(module, Block):
            block = self.fused(module) if _ends_in_norm(module) else self.layer(module)
            return Recomputed(block) if self.recompute else block
        return self.layer(module)

    def fused(self, block: Block) -> Module:
        """The copy of a block that ends in normalisation, add and ReLU."""
        branch = FusedSequential(*self.chain([*block.branch.layers, block.after]), name=block.branch.name)
        shortcut = block.shortcut
        return FusedBlock(block.name, branch, self.copy(shortcut) if isinstance(shortcut, Module) else shortcut)

    def layer(self, module: Module) -> Module:
        """A copy of one layer, or of a block that cannot be fused."""
        twin = copy.copy(module)
        twin.release()
        for key, value in vars(module).items():
            if isinstance(value, Module):
                setattr(twin, key, self.copy(value))
            elif isinstance(value, Param):
                setattr(twin, key, self.param(value))
        return twin

    def chain(self, layers: list[Module]) -> list[Module]:
        """The copies of layers that follow one another."""
        result, rest = [], list(layers)
        while rest:
            conv = rest.pop(0) if isinstance(rest[0], Conv2d) else None
            if rest and isinstance(rest[0], BatchNorm):
                norm = rest.pop(0)
                relu = bool(rest) and isinstance(rest[0], ReLU)
                del rest[: int(relu)]
                result += self.normalised(conv, norm, relu)
            else:
                result.append(self.copy(conv or rest.pop(0)))
        return result


class LayerByLayer(Rewriter):
    """Copies a network as it is."""

    def chain(self, layers):
        return [self.copy(layer) for layer in layers]

    def fused(self, block: Block):
        return self.layer(block)


class AsItIs(LayerByLayer):
    """Copies a network layer by layer, with its blocks recomputed; parameters and buffers are shared."""

    recompute = True


def _ends_in_norm(block: Block) -> bool:
    return block.before is None and block.after is not None and isinstance(block.branch.layers[-1], BatchNorm)
