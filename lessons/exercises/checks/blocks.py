"""What the exercises on residual blocks share: the library's Block on the student's own layers is the truth."""

import copy

import numpy as np
from minires.lessons.exercises.grading import Wrong, equal, gradients, random, shaped, single, untouched

from minires import nn
from minires.geometry import resolve_padding
from minires.instruments.audit import audit
from minires.nn import Block

BY_HAND = "The way through the block is the exercise: write `{}` in the class itself."
CALLS = (
    "Every path that forward took, backward has to take once, through `module.backward`: that is where the "
    "parameters get their gradients."
)


DOTS = "Replace the dots by the layers, each with a name of its own."


def ready(block: Block, seed=0) -> Block:
    """In float64, with every parameter moved off the special point at which it starts."""
    for part in (block.branch, block.shortcut):
        if isinstance(part, nn.Sequential) and Ellipsis in part.layers:
            raise Wrong(f"{part.name}: the dots are still there", DOTS)
    block.astype(np.float64)
    for i, p in enumerate(block.params()):
        p.data = p.data + 0.3 * random(*p.data.shape, seed=seed + i)
    return block


def by_hand(block: Block) -> None:
    """Wrong unless the class has its own forward and backward."""
    for method in ("forward", "backward"):
        if getattr(type(block), method) is getattr(Block, method):
            name = type(block).__name__
            raise Wrong(f"{name} has no {method} of its own", BY_HAND.format(method))


def conv(size, C, O, stride=1) -> dict:
    """What `facts` says of a convolution that keeps the map's size but for its stride."""
    return {"layer": "Conv2d", "window": (size, size), "channels": (C, O), "stride": stride, "padding": size // 2}


def norm(C) -> dict:
    """What `facts` says of a batch normalisation."""
    return {"layer": "BatchNorm", "channels": C}


RELU = {"layer": "ReLU"}


def facts(layer) -> dict:
    """A layer's kind and sizes."""
    if isinstance(layer, nn.Conv2d):
        R, S, C, O = layer.w.data.shape
        (padding, _), _ = resolve_padding(layer.pad, (8, 8), (R, S), (1, 1))
        sizes = {"window": (R, S), "channels": (C, O), "stride": layer.stride[0], "padding": padding}
        return {"layer": "Conv2d", **sizes}
    if isinstance(layer, nn.BatchNorm):
        return norm(layer.gamma.data.size)
    return {"layer": type(layer).__name__}


LAYER_HINTS = {
    "layer": "Each convolution is followed by a normalisation, and each of these but the last by something that bends.",
    "window": "1x1 to make it narrow, 3x3 to look around, 1x1 to make it wide.",
    "channels": "With how many channels does the layer before go on, and with how many the statement?",
    "padding": "A 3x3 window has no place at the border of the map, unless something lies around it.",
    "stride": "The map changes its size where the statement says so, and nowhere else.",
}


def bottleneck(channels, filters, stride) -> list[dict]:
    """The facts of a bottleneck's branch."""
    F1, F2, F3 = filters
    first, second = [conv(1, channels, F1, stride), norm(F1), RELU], [conv(3, F1, F2), norm(F2), RELU]
    return [*first, *second, conv(1, F2, F3), norm(F3)]


def layers(path: nn.Sequential, expected: list[dict], what: str, hints: dict = LAYER_HINTS) -> None:
    """Wrong at the first layer that differs; it names what is wrong, not what is right. hints: by that word."""
    if Ellipsis in path.layers:
        raise Wrong(f"{path.name}: the dots are still there", DOTS)
    found = [facts(layer) for layer in path.layers] + [{"layer": "nothing"}] * (len(expected) - len(path.layers))
    for i, (got, right) in enumerate(zip(found, expected, strict=False), 1):
        word = next((w for w in right if got.get(w) != right[w]), None)
        if word:
            sizes = ", ".join(f"{w} {v}" for w, v in got.items() if w != "layer")
            seen = f"{what}, layer {i}: {got['layer']}" + (f" with {sizes}" if sizes else "")
            told = "this kind of layer is not what comes here" if word == "layer" else f"the {word} cannot be right"
            raise Wrong(f"{seen}: {told}", hints.get(word, "Compare the list with the statement."))
    if len(found) > len(expected):
        seen = f"{what}: expected {len(expected)} layers, then comes {found[len(expected)]['layer']}"
        raise Wrong(seen, "What follows the last BatchNorm has to wait until the shortcut has been added.")


def twin(block: Block) -> Block:
    """The library's own block on copies of the same layers."""
    fresh = copy.deepcopy(block)
    fresh.release()
    return Block("right", fresh.branch, fresh.shortcut, after=fresh.after)


def paths(block: Block, x):
    """(F(x), shortcut(x)) of the student's layers."""
    right = twin(block)
    return right.branch.forward(x), x if right.shortcut == Block.IDENTITY else right.shortcut.forward(x)


def shape(block: Block, x) -> None:
    expected = twin(block).forward(x).shape
    shaped(block.forward(x.copy()), expected, "y", "y has the shape in which both paths meet.")


def values(block: Block, x) -> None:
    """forward against the library's, with the mistakes that one makes at the add node."""
    F, s = paths(block, x)
    relu = np.maximum
    mistakes = (
        (lambda: F + s, "A negative number came out of the block: what is the last thing that happens in it?"),
        (lambda: relu(F, 0), "This is the plain network's block: x plays no part beside the branch."),
        (lambda: relu(F, 0) + s, "The last ReLU came too early: it should see the sum, not one of its terms."),
        (lambda: relu(F + relu(s, 0), 0), "Something was done to the shortcut on its way to the add node."),
        (lambda: relu((F + s) / 2, 0), "The two paths are added, nothing more."),
        (lambda: relu(F + F, 0), "One array meets itself at the add node: both its inputs come from the branch."),
    )
    hint = "Follow x along both paths: what meets what at the add node?"
    equal(block.forward(x.copy()), relu(F + s, 0), "y", hint, mistakes)


def backward(block: Block, x, dy):
    """The student's dx, with every parameter's gradient written."""
    for p in block.params():
        p.grad = None
    block.forward(x.copy())
    return block.backward(dy.copy())


def dx(block: Block, x) -> None:
    """dx against the library's, with the mistakes that one makes on the way back."""
    y = twin(block).forward(x)
    dy = random(*y.shape, seed=7)
    g = dy * (y > 0)
    branch, shortcut = back(block, x, g)
    wide, wide_shortcut = back(block, x, dy)
    mistakes = (
        (lambda: branch, "What comes back through the shortcut is missing. Nudge x: does y move along it?"),
        (lambda: shortcut, "What comes back through the branch is missing."),
        (
            lambda: (branch + shortcut) / 2,
            "Half of the truth, everywhere. Which number of backward has no counterpart in forward?",
        ),
        (
            lambda: (branch + shortcut) / np.sqrt(2),
            "It keeps the size of the gradient well, but nobody asked it to. What is the derivative of a + b?",
        ),
        (lambda: branch + wide_shortcut, "One path goes round the last ReLU. Which did it pass in forward?"),
        (lambda: wide + wide_shortcut, "Where y is 0 the last ReLU lets nothing back."),
    )
    hint = "Walk forward's lines from the last to the first: each array that was used twice collects two gradients."
    equal(backward(block, x, dy), branch + shortcut, "dx", hint, mistakes)


def back(block: Block, x, g):
    """What each path hands back to x when g arrives at the add node."""
    right = twin(block)
    right.forward(x)
    return right.branch.backward(g), g if right.shortcut == Block.IDENTITY else right.shortcut.backward(g)


def parameters(block: Block, x) -> None:
    """Every parameter's gradient against the library's."""
    right = twin(block)
    dy = random(*right.forward(x).shape, seed=7)
    backward(block, x, dy)
    for p in right.params():
        p.grad = None
    right.backward(dy)
    for mine, true in zip(block.params(), right.params(), strict=True):
        if mine.grad is None:
            raise Wrong(f"{mine.name} has no gradient after backward", CALLS)
        halved = "dx comes out right, but what arrived at this layer is half of what should have: who learns from it?"
        what = f"gradient of {mine.name}"
        equal(
            mine.grad,
            true.grad,
            what,
            "What did this layer receive on the way back?",
            [(lambda t=true: t.grad / 2, halved)],
        )


def differences(block: Block, x) -> None:
    gradients(block, x, CALLS, coordinates=2)


def sound(block: Block, size: tuple, hints: dict) -> None:
    """What the architecture audit of a stem and the block says. hints: finding -> (what is seen, hint), in the order
    of their weight; backward is judged elsewhere."""
    C = block.branch.layers[0].w.data.shape[2]
    model = nn.Sequential(nn.Conv2d("stem", 3, C, 3, pad=1), copy.deepcopy(block), name="network")
    report = audit(model, input_shape=(*size, 3))
    if report.blocks[0].shortcut == "none":
        raise Wrong("the block has no shortcut", "That would be a plain network: the skip is to work, not to go.")
    found = {f.name for f in report.findings}
    if fault := next((name for name in hints if name in found), None):
        raise Wrong(*hints[fault])


def in_place(block: Block, x) -> None:
    untouched(block.forward, {"x": x})
    dy = random(*block.forward(x.copy()).shape, seed=7)
    untouched(block.backward, {"dy": dy})


def dtype(block: Block, x) -> None:
    block.astype(np.float32)
    x = x.astype(np.float32)
    y = block.forward(x)
    found = {"y": y, "dx": block.backward(np.ones_like(y))}
    single(found | {f"the gradient of {p.name}": p.grad for p in block.params() if p.grad is not None})


def on(block, x):
    """judge -> a check of the student's file: `judge` of what `block(student)` makes, on x."""
    return lambda judge: lambda student: judge(block(student), x)
