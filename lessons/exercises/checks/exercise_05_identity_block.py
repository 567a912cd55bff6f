"""Exercise 5: the layers, and both ways through the block."""

from minires.lessons.exercises.checks import blocks
from minires.lessons.exercises.grading import random

from minires.nn import Block

NEEDS = ("IdentityBlock",)
ANSWERS = Block.flow, Block.backward  # its forward is what every composite has
HINTS = (
    "Write the layers first and run the check: it names the first one that differs. Then forward, three lines.",
    "In forward x is used twice: by the branch, and by the add node. Only the branch changes it.",
    "backward is forward read from below: the last ReLU, the add node, the branch. self.add.backward returns a pair, "
    "and x was used twice, so two gradients arrive at it.",
)
AFTERWARDS = (
    "Set gamma and beta of the last BatchNorm to 0, and y is relu(x): the block starts as the identity, which is what "
    "'zero-gamma' means. minires/nn/blocks.py has one class for this block, the next one, and the plain one."
)
X = random(3, 5, 4, 6)


def block(student):
    made = student.IdentityBlock("block", 6, (3, 4))
    blocks.by_hand(made)
    return blocks.ready(made)


def layers(student):
    made = student.IdentityBlock("block", 6, (3, 4))
    blocks.layers(made.branch, blocks.bottleneck(6, (3, 4, 6), 1), "branch")


check = blocks.on(block, X)
CHECKS = {
    "layers": layers,
    "shape": check(blocks.shape),
    "values": check(blocks.values),
    "dx": check(blocks.dx),
    "parameters": check(blocks.parameters),
    "central differences": check(blocks.differences),
    "in place": check(blocks.in_place),
    "dtype": check(blocks.dtype),
}
