"""Bringing layers together: a network's convolutions, normalisations, adds and ReLUs as fewer, larger steps.

A fused network is made of the layers themselves, over the same parameters; what is new in it are the containers and
what takes the place of [convolution,] normalisation [, add] [, ReLU]. A `Fuser` says what that is: training.py and
inference.py have one each. Only layers whose meaning was proven are brought together: see `reason_against`.
"""

import copy
import inspect

from minires import nn, ops
from minires.fast import proven
from minires.nn.activation import ReLU
from minires.nn.blocks import Block
from minires.nn.conv import Conv2d
from minires.nn.join import Add
from minires.nn.module import Module, Sequential
from minires.nn.norm import BatchNorm

PROVEN = (
    *(Add, Block, Sequential, nn.Branches, nn.Concat, nn.Multiply, nn.Network, nn.ResNet),
    *(nn.AvgPool2d, BatchNorm, Conv2d, nn.Dense, nn.Dropout, nn.Flatten, nn.GlobalAvgPool2d, nn.MaxPool2d, ReLU),
    *(nn.GELU, nn.GroupNorm, nn.Identity, nn.LayerNorm, nn.LeakyReLU, nn.Sigmoid, nn.StochasticDepth, nn.ZeroPad2d),
    *(nn.SqueezeExcite, nn.Subsample),
)


def methods(cls) -> dict:
    """Name -> function of every method of a class, also of those above it."""
    return dict(inspect.getmembers(cls, inspect.isfunction))


# as they are written: a notebook may give a class another forward, or ops another function, at any time
WRITTEN = {cls: methods(cls) for cls in PROVEN}
OPS = {name: getattr(ops, name) for name in ops.__all__}


def replaced(written: dict) -> str:
    """'Conv2d.forward' where that is another function than `written` says, class by class; else ''."""
    for cls, methods in written.items():
        for name, method in methods.items():
            if getattr(cls, name, None) is not method:
                return f"{cls.__name__}.{name}"
    return ""


def own_methods(model: Module) -> str:
    """'conv1.forward' where one module, not its class, was given another method; else ''."""
    for module in model.modules():
        for name, value in vars(module).items():
            if callable(value) and callable(getattr(type(module), name, None)):
                return f"{module.name or type(module).__name__}.{name}"
    return ""


def reason_against(model: Module) -> str:
    """Why `model` must run as it stands, in words; "" where all of its parts are what was proven."""
    if files := proven.edited():
        return f"minires/{files[0]} was edited"
    for name, op in OPS.items():
        if getattr(ops, name) is not op:
            return f"ops.{name} was replaced"
    if method := replaced(WRITTEN):
        return f"{method} was replaced"
    for module in model.modules():
        if type(module) not in WRITTEN:
            return f"{module.name or 'the network'} is a {type(module).__name__} of your own"
    if method := own_methods(model):
        return f"{method} was replaced"
    return "" if hasattr(model, "layers") else f"{model.name} is no sequence of layers"


class FusedSequential(Sequential):
    """Layers one after the other; the last one may add a shortcut, and then sends a gradient into it."""

    def forward(self, x, shortcut=None):
        for layer in self.layers[:-1]:
            x = layer.forward(x)
        last = self.layers[-1]
        return last.forward(x) if shortcut is None else last.forward(x, shortcut)

    def backward_both(self, dy, onto=False, need_dx=True):
        """(dx, dshortcut); onto: dx with dshortcut added."""
        dy, dshortcut = self.layers[-1].backward_both(dy)
        return _backward(self.layers[:-1], dy, dshortcut if onto else None, need_dx), dshortcut

    def backward_onto(self, dy, add):
        """dx + add, into dx or where it is computed."""
        return _backward(self.layers, dy, add)


def _backward(layers, dy, add, need_dx=True):
    """dx of layers, plus `add` where it is given: by the first layer, if it can; None unless needed."""
    for layer in reversed(layers[1:]):
        dy = layer.backward(dy)
    if not need_dx:
        layers[0].backward(dy, need_dx=False)
        return None
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
            return self.branch.backward(dy, need_dx=need_dx)
        identity = self.shortcut == Block.IDENTITY
        dx, dshortcut = self.branch.backward_both(dy, onto=identity, need_dx=need_dx)
        if not need_dx and not identity:
            return self.shortcut.backward(dshortcut, need_dx=False)
        return dx if identity else self.shortcut.backward_onto(dshortcut, dx)


class Fuser:
    """Walks over a network and brings its layers together."""

    def normalised(self, conv: Conv2d | None, norm: BatchNorm, relu: bool) -> list[Module]:
        """What takes the place of [conv,] norm [, ReLU]."""
        raise NotImplementedError

    def layer(self, module: Module) -> Module:
        """What takes the place of any other layer."""
        return module

    def block(self, block: Module) -> Module:
        """What takes the place of a block that was brought together."""
        return block

    def network(self, model: Sequential) -> FusedSequential:
        return FusedSequential(*self.chain(model.layers), name=model.name)

    def chain(self, layers: list[Module]) -> list[Module]:
        """What takes the place of layers that follow one another."""
        result, rest = [], list(layers)
        while rest:
            conv = rest.pop(0) if isinstance(rest[0], Conv2d) else None
            if rest and isinstance(rest[0], BatchNorm):
                norm = rest.pop(0)
                relu = bool(rest) and isinstance(rest[0], ReLU)
                del rest[: int(relu)]
                result += self.normalised(conv, norm, relu)
            else:
                result.append(self._one(conv or rest.pop(0)))
        return result

    def _one(self, module: Module) -> Module:
        if isinstance(module, Sequential):
            return self.network(module)
        if isinstance(module, Block):
            return self.block(self._block(module))
        known = type(module) in WRITTEN
        return self._composite(module) if known and module.children() else self.layer(module)

    def _block(self, block: Block) -> Module:
        if block.before is None and block.after is not None and isinstance(block.branch.layers[-1], BatchNorm):
            shortcut = self._one(block.shortcut) if isinstance(block.shortcut, Module) else block.shortcut
            branch = FusedSequential(*self.chain([*block.branch.layers, block.after]), name=block.branch.name)
            return FusedBlock(block.name, branch, shortcut)
        return self._composite(block)

    def _composite(self, module: Module) -> Module:
        """The same module over its parts brought together."""
        same = copy.copy(module)
        for key, value in vars(module).items():
            if isinstance(value, Module):
                setattr(same, key, self._one(value))
            elif isinstance(value, list):
                setattr(same, key, [self._one(v) if isinstance(v, Module) else v for v in value])
        return same
