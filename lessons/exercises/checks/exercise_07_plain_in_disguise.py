"""Exercise 7: the audit finds the dead skip; then both ways through the block, and the sizes that raised an error."""

from minires.lessons.exercises.checks import blocks
from minires.lessons.exercises.grading import Wrong, close, equal, random, shaped

NEEDS = ("ConvolutionalBlock",)
HINTS = (
    "Take the odd thing seriously: the fault brings it about. Try it, and ask which lines of forward could.",
    "Give every array of forward a name of its own, and draw an arrow from each name to where it is used.",
    "Ask the instrument: make an nn.Sequential of a Conv2d and one block, and read "
    "minires.instruments.audit.audit(network, input_shape=(8, 8, 3)).findings.",
)
AFTERWARDS = (
    "No gradient check could find this: the gradients of the wrong network were right. What finds it is moving an "
    "input and asking who answers. `minires audit resnet50` does so for every block."
)
X = random(3, 4, 4, 8)


def block(student, channels=8, stride=1):
    made = student.ConvolutionalBlock("block", channels, (5, 8), stride)
    return blocks.ready(made)


def shape(student):
    shaped(
        block(student).forward(X.copy()), X.shape, "y", "With stride 1 and 8 channels out, y has the shape of x here."
    )


def skip(student):
    held = "with the branch held fixed, x is moved: y "
    hints = {
        "dead skip": (f"{held}does not move", "Nobody answers. Follow x through forward, name by name."),
        "misrouted skip": (
            f"{held}moves, but not as the projection does",
            "Between x and the add node lie two layers, and nothing else.",
        ),
        "scaled skip": (f"{held}moves, but not by as much", "The two paths are added as they are."),
        "unused layer": ("the shortcut's layers are never run", "What is it that meets the branch at the add node?"),
    }
    blocks.sound(block(student), (6, 6), hints)


def dx(student):
    made, dy = block(student), random(*X.shape, seed=7)
    right = blocks.twin(made)
    g = dy * (right.forward(X) > 0)
    old = right.branch.backward(g + right.shortcut.backward(g))
    if close(blocks.backward(made, X, dy), old):
        seen = "dx is that of the block as it came"
        raise Wrong(seen, "Forward has a new arrow, from x to the shortcut. Where does backward walk it?")
    blocks.dx(block(student), X)


def other_sizes(student):
    x = random(3, 6, 6, 4)
    made = block(student, channels=4, stride=2)
    right = blocks.twin(made).forward(x)
    equal(
        made.forward(x.copy()),
        right,
        "y for 4 channels and stride 2",
        "Does each path read what its first layer expects?",
    )
    blocks.dx(block(student, channels=4, stride=2), x)


check = blocks.on(block, X)
CHECKS = {
    "shape": shape,
    "skip": skip,
    "values": check(blocks.values),
    "dx": dx,
    "parameters": check(blocks.parameters),
    "central differences": check(blocks.differences),
    "4 to 8 channels": other_sizes,
    "in place": check(blocks.in_place),
    "dtype": check(blocks.dtype),
}
