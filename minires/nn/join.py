"""Where several paths become one. A join has several inputs: forward(*xs), backward(dy) -> (dx, ...)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minires import ops
from minires.backend import Array
from minires.errors import ShapeError
from minires.nn.module import Composite, Maths, Module

__all__ = [
    "Add",
    "Branches",
    "Concat",
    "Multiply",
]


class Add(Module):
    """The add node, where the two paths meet. Forward sums them; backward hands each the whole gradient."""

    maths = Maths(
        ("y = F(x) + shortcut", "Two paths become one: their values add up."),
        ("dF = dy,   dshortcut = dy", "The gradient splits: both paths receive all of it, copied and not halved."),
    )
    inputs = ("F(x)", "shortcut")
    smooth = True

    def forward(self, branch: Array, shortcut: Array) -> Array:
        self.output_shape(branch.shape[1:], shortcut.shape[1:])
        return ops.add_forward(branch, shortcut)

    def backward(self, dy: Array, need_dx: bool = True) -> tuple[Array, Array]:
        return ops.add_backward(dy)

    def output_shape(self, branch: tuple, shortcut: tuple) -> tuple:
        """The common shape; ShapeError naming both paths and the projection that would mend it."""
        if branch == shortcut:
            return branch
        stride = tuple(-(-s // max(b, 1)) for b, s in zip(branch[:2], shortcut[:2], strict=True))
        raise ShapeError(
            f"{self.name}: the branch gives {branch} but the shortcut {shortcut}, and only equal shapes add: "
            f"use a projection shortcut, a 1x1 convolution {shortcut[-1]} -> {branch[-1]} with stride {stride}"
        )

    def onnx(self, graph: Any, inputs: tuple[str, ...], shapes: tuple) -> str:
        return graph.node("Add", self.name, list(inputs))

    def look(self) -> tuple[str, str] | None:
        return "add", "+"


class Concat(Module):
    """The channels of every input, one after the other."""

    maths = Maths(
        ("y = [x₁, x₂, ...]", "The paths' channels are laid side by side."),
        ("[dx₁, dx₂, ...] = dy", "Each path receives the gradient of its own channels."),
    )
    smooth = True

    def forward(self, *xs: Array) -> Array:
        self.output_shape(*(x.shape[1:] for x in xs))
        self.save([x.shape[-1] for x in xs])
        return ops.concat_forward(*xs)

    def backward(self, dy: Array, need_dx: bool = True) -> tuple[Array, ...]:
        return ops.concat_backward(dy, *self.saved())

    def output_shape(self, *shapes: tuple[int, ...]) -> tuple[int, ...]:
        """(H, W, the sum of the channels); ShapeError where the paths' maps differ in size."""
        if len({shape[:-1] for shape in shapes}) > 1:
            raise ShapeError(
                f"{self.name}: the paths give {', '.join(map(str, shapes))}, and only maps of one size lie side by "
                "side: give every path the same strides and padding"
            )
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def onnx(self, graph: Any, inputs: tuple[str, ...], shapes: tuple) -> str:
        return graph.node("Concat", self.name, list(inputs), axis=1)

    def look(self) -> tuple[str, str] | None:
        return "add", "concat"


class Multiply(Module):
    """y = x * gate; a gate (C,) or (1, 1, C) holds for each channel's whole map."""

    maths = Maths(
        ("y = x · gate", "One path scales the other."),
        ("dx = dy · gate,   dgate = Σ dy · x", "Each path receives the gradient times the other's value."),
    )
    inputs = keeps = ("x", "gate")
    smooth = True

    def forward(self, x: Array, gate: Array) -> Array:
        self.output_shape(x.shape[1:], gate.shape[1:])
        self.save(x, gate)
        return ops.multiply_forward(x, gate)

    def backward(self, dy: Array, need_dx: bool = True) -> tuple[Array, Array]:
        return ops.multiply_backward(dy, *self.saved())

    def output_shape(self, x: tuple[int, ...], gate: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of x; ShapeError for a gate that is neither of that shape nor one factor a channel."""
        if gate not in (x, x[-1:], (*[1] * (len(x) - 1), *x[-1:])):
            raise ShapeError(f"{self.name}: expected a gate {x} or {x[-1:]} for a map {x}, got {gate}: one a channel")
        return x

    def onnx(self, graph: Any, inputs: tuple[str, ...], shapes: tuple) -> str:
        x, gate = inputs
        if len(shapes[0]) > len(shapes[1]):
            gate = graph.node(
                "Unsqueeze", f"{self.name}.gate", [gate, graph.constant(f"{self.name}.axes", np.array([2, 3]))]
            )
        return graph.node("Mul", self.name, [x, gate])

    def look(self) -> tuple[str, str] | None:
        return "add", "×"


class Branches(Composite):
    """Several paths from one input, joined: y = join(f_1(x), f_2(x), ...); of a path that is an `Identity` x itself.

    With `Concat` (the default) an Inception or Fire module, with `Multiply` a squeeze and excitation.

    >>> paths = minires.Conv2d("a", 8, 4, 1), minires.Conv2d("b", 8, 4, 3, pad=1)
    >>> minires.Branches("fire", *paths).output_shape((16, 16, 8))
    (16, 16, 8)
    """

    def __init__(self, name: str, *paths: Module, join: Module | None = None):
        super().__init__(name)
        self.paths, self.join = list(paths), join or Concat(f"{name}.concat")

    def flow(self, x: Any, visit: Callable) -> Any:
        return visit(self.join, *(visit(path, x) for path in self.paths))

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        back = [path.backward(d, need_dx) for path, d in zip(self.paths, self.join.backward(dy), strict=True)]
        return sum(back[1:], back[0]) if need_dx else None
