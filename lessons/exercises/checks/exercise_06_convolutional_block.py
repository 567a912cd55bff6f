"""Exercise 6: the layers of both paths, and both ways through the block."""

from minires.lessons.exercises.checks import blocks
from minires.lessons.exercises.grading import random

from minires.nn import Block

NEEDS = ("ConvolutionalBlock",)
ANSWERS = Block.flow, Block.backward  # its forward is what every composite has
HINTS = (
    "Exercise 5 has all but the shortcut. What shape must the shortcut's output have, so that it can be added?",
    "The branch changes two things: the map's size and the channels. One 1x1 convolution can change both.",
    "In backward x collects two gradients once more. The one from the shortcut has to come back through its layers, "
    "in the shape of x.",
)
AFTERWARDS = (
    "`minires audit resnet50 --variant v1.5` shows where torchvision puts the stride, and `minires summary resnet50` "
    "what the projections cost. Exercises 7 and 10 are this block with a fault."
)
X = random(3, 6, 8, 4)
FILTERS = (3, 5, 8)


def block(student, stride=2):
    made = student.ConvolutionalBlock("block", 4, FILTERS, stride)
    blocks.by_hand(made)
    return blocks.ready(made)


def layers(student):
    for stride in (2, 1):
        made = student.ConvolutionalBlock("block", 4, FILTERS, stride)
        blocks.layers(made.branch, blocks.bottleneck(4, FILTERS, stride), f"branch for stride {stride}")
        projection = [blocks.conv(1, 4, FILTERS[-1], stride), blocks.norm(FILTERS[-1])]
        shortcut = {
            "layer": "The projection, too, is a convolution, and what follows each convolution here?",
            "window": "A projection mixes channels: it need not look around.",
            "channels": "It reads the block's input, and has to put out what the branch does.",
            "stride": "On a map of which size do the two paths meet?",
        }
        blocks.layers(made.shortcut, projection, f"shortcut for stride {stride}", shortcut)


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
