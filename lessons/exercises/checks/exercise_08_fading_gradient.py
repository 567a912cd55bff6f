"""Exercise 8: one block, then eight of them, then what the parameters receive."""

import numpy as np
from minires.lessons.exercises.checks import blocks
from minires.lessons.exercises.grading import Wrong, random, shaped

from minires import nn

NEEDS = ("ResidualBlock",)
HINTS = (
    "Let the branch give 0 everywhere. Then y = relu(x). What is dy/dx where x is positive, and what does backward "
    "say?",
    "x influences the loss in two ways. Write the chain rule for a function of two arguments that are both x.",
    "Ask the instrument: print(minires.instruments.gradcheck.gradcheck(ResidualBlock('b', 3), x).findings) for an x of "
    "shape (2, 6, 6, 3).",
)
AFTERWARDS = (
    "That gradients are averaged at the add node was the accepted answer in a course's forum. `minires lesson 1` shows "
    "to the bit that they add, and `minires lesson 3` how fast a residual network's gradient really grows."
)
X = random(3, 4, 4, 5)


def block(student, index=0):
    made = student.ResidualBlock(f"block{index}", 5)
    return blocks.ready(made, seed=index)


def shape(student):
    made = block(student)
    dx = blocks.backward(made, X, np.ones_like(made.forward(X)))
    shaped(dx, X.shape, "dx", "A gradient has the shape of what it is the gradient of.")


def depth(student):
    made = nn.Sequential(*(block(student, i) for i in range(8)))
    right = nn.Sequential(*(blocks.twin(b) for b in made.layers))
    sizes = []
    for network in (made, right):
        network.forward(X)
        sizes.append(np.linalg.norm(network.backward(random(*X.shape, seed=7))))
    share = sizes[0] / sizes[1]
    if abs(share - 1) > 1e-6:
        seen = f"back through 8 blocks, the gradient is {share:.3g} of what it should be (0.5 ** 8 is {0.5**8:.3g})"
        raise Wrong(seen, "What happens eight times, with which factor?")


check = blocks.on(block, X)
CHECKS = {
    "shape": shape,
    "values": check(blocks.values),
    "dx": check(blocks.dx),
    "eight blocks": depth,
    "parameters": check(blocks.parameters),
    "central differences": check(blocks.differences),
    "in place": check(blocks.in_place),
    "dtype": check(blocks.dtype),
}
