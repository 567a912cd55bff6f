"""Exercise 10: which pixels the shortcut listens to, then both ways through the block."""

import numpy as np
from minires.lessons.exercises.checks import blocks
from minires.lessons.exercises.grading import Wrong, random, shaped

from minires import nn

NEEDS = ("DownBlock",)
HINTS = (
    "Take an 8x8 map. Which pixels of it reach the add node along the shortcut, and which along the branch?",
    "The branch gets from 8x8 to 4x4 by looking at places that are spread over the whole map. How?",
    "Two of the four numbers that a convolution takes beside its channels decide the size of its map. Print them for "
    "every Conv2d of both paths.",
)
AFTERWARDS = (
    "When shapes disagree, the error of minires' add node names the projection that mends it. Making shapes fit by a "
    "slice silences the only witness. `minires summary resnet50` shows the four projections of the real network."
)
X = random(3, 8, 8, 4)
BRANCH = [blocks.conv(3, 4, 8, 2), blocks.norm(8), blocks.RELU, blocks.conv(3, 8, 8), blocks.norm(8)]


def block(student):
    made = student.DownBlock("block", 4)
    return blocks.ready(made)


def shape(student):
    hint = "The block is to halve the map and to double the channels, as its branch did when it came."
    shaped(block(student).forward(X.copy()), (3, 4, 4, 8), "y", hint)


def branch(student):
    right = "The branch was right as it came."
    blocks.layers(block(student).branch, BRANCH, "branch", dict.fromkeys(("layer", *BRANCH[0]), right))


def listens(made):
    """(8, 8) True where moving a pixel of x moves what the shortcut brings to the add node.

    The branch is held at zero and batch normalisation at fixed statistics, so that no pixel answers for another."""
    y = made.eval().branch.forward(X)
    made.branch.forward = lambda x: np.zeros_like(y)
    for layer in made.branch.layers:
        layer.forward = lambda x: np.zeros_like(y)
    made.after.forward = lambda z: z
    still, heard = made.forward(X.copy()), np.zeros((8, 8), bool)
    for i, j in np.ndindex(8, 8):
        moved = X.copy()
        moved[:, i, j] += 1
        heard[i, j] = not np.array_equal(made.forward(moved), still)
    return heard


def reach(student):
    heard = listens(block(student))
    rows, columns = np.flatnonzero(heard.any(axis=1)), np.flatnonzero(heard.any(axis=0))
    if not heard.any():
        raise Wrong(
            "the shortcut listens to no pixel of x at all", "The skip is to work, not to go: does it start at x?"
        )
    seen = (
        f"of an 8x8 map, the shortcut hears rows {rows[0]} to {rows[-1]} and columns {columns[0]} to {columns[-1]} only"
    )
    if rows[-1] < 4 and columns[-1] < 4:
        raise Wrong(
            seen, "Does the pixel that meets y[p, q] at the add node lie where window (p, q) of the branch looks?"
        )
    if rows[-1] - rows[0] < 5 or columns[-1] - columns[0] < 5:
        raise Wrong(seen, "Another part of the map is still a part: what does the branch see at its first place?")


def layers(student):
    made = block(student)
    kinds = [type(layer) for layer in made.shortcut.layers]
    if kinds != [nn.Conv2d, nn.BatchNorm]:
        seen = f"the shortcut's layers are {', '.join(k.__name__ for k in kinds)}"
        raise Wrong(seen, "One 1x1 convolution and one normalisation can do it: the convolution has a number to spare.")
    places = made.shortcut.layers[0].forward(X).shape[1:3]
    waste = "What is computed and then thrown away still counts in the batch's mean and variance. Must it be computed?"
    if places != (4, 4):
        raise Wrong(f"the projection is computed at {places[0] * places[1]} places of the map, and 16 are used", waste)
    hint = "One pixel for each place of the branch, and both channel numbers as they were."
    projection = [blocks.conv(1, 4, 8, 2), blocks.norm(8)]
    blocks.layers(made.shortcut, projection, "shortcut", dict.fromkeys(projection[0], hint))
    blocks.sound(made, (8, 8), {"stride on one path": ("the two paths take different strides", hint)})


check = blocks.on(block, X)
CHECKS = {
    "shape": shape,
    "branch": branch,
    "reach": reach,
    "shortcut": layers,
    "values": check(blocks.values),
    "dx": check(blocks.dx),
    "parameters": check(blocks.parameters),
    "central differences": check(blocks.differences),
    "in place": check(blocks.in_place),
    "dtype": check(blocks.dtype),
}
