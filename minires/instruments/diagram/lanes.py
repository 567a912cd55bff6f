"""A composition laid out in lanes: its layers as boxes from left to right, a lane for each path, joins where they meet.

What goes where is read off `flow`, by `nn.walk`: a box stands to the right of all that it takes.
"""

from dataclasses import dataclass

from minires.nn import Module, walk


@dataclass(eq=False)
class Node:
    """A layer, or the input (None): its column, its lane, and what it takes."""

    layer: Module | None
    column: int
    lane: int
    inputs: tuple["Node", ...]


@dataclass(frozen=True)
class Wire:
    """From a node to one that takes its output; channel: the place, from the top, of one that passes over boxes."""

    start: Node
    end: Node
    channel: int | None = None


def lanes(module: Module) -> tuple[list[Node], list[Wire], Node]:
    """(the nodes in forward order, the first being the input; the wires; the node that gives the output)."""
    start = Node(None, 0, 0, ())
    nodes, followed = [start], set()

    def visit(layer, *inputs):
        if layer.look() is None:
            return inputs[0]
        lane = min(x.lane for x in inputs)
        if len(inputs) == 1 and inputs[0] in followed:  # another path begins here
            lane = 1 + max(node.lane for node in nodes)
        followed.update(inputs if len(inputs) == 1 else ())
        nodes.append(Node(layer, 1 + max(x.column for x in inputs), lane, inputs))
        return nodes[-1]

    end = walk(module, visit, start)
    pairs = sorted(((x, node) for node in nodes for x in node.inputs), key=lambda p: p[0].column - p[1].column)
    over = [
        (x, y) for x, y in pairs if any(n.lane == x.lane == y.lane and x.column < n.column < y.column for n in nodes)
    ]
    wires = [Wire(x, y, over.index((x, y)) if (x, y) in over else None) for x, y in pairs]
    return nodes, wires, end
