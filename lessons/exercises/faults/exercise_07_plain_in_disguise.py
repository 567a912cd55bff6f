"""Exercise 7: skips that bring nothing, too little, or what is not theirs."""

SAID = "A network of the blocks below trains no better than the plain network of its depth."
ODD = "One thing is odd: the block runs with 8 channels in and 8 out, but with 4 in and 8 out it raises an error."
FORWARD = """        for layer in self.branch.layers:
            x = layer.forward(x)
        shortcut = self.shortcut.forward(x)
        x = self.add.forward(x, shortcut)
        return self.after.forward(x)
"""
BACKWARD = """        dx, dshortcut = self.add.backward(self.after.backward(dy))
        dx = dx + self.shortcut.backward(dshortcut)
        for layer in reversed(self.branch.layers):
            dx = layer.backward(dx)
        return dx
"""
IMPORT = "from minires import nn\n"


def window(size):
    """The first convolution's, which has nothing to do with the fault."""
    if size == 3:
        return []
    return [
        ("channels, F1, 3, stride=stride, pad=1", f"channels, F1, {size}, stride=stride, pad={size // 2}"),
        ("Two 3x3 convolutions beside", f"A {size}x{size} and a 3x3 convolution beside"),
    ]


def ways(odd, shortcut, back, more=""):
    """The block with this on its shortcut, forward and back."""
    forward = f"        y = self.branch.forward(x)\n{more}        y = self.add.forward(y, {shortcut})\n"
    backward = "        dbranch, dshortcut = self.add.backward(self.after.backward(dy))\n"
    return [
        (ODD, f"One thing is odd: {odd}"),
        (FORWARD, f"{forward}        return self.after.forward(y)\n"),
        (BACKWARD, f"{backward}        return {back}\n"),
    ]


def one_name(size):
    return window(size)


def twice(size):
    odd = "the projection's kernel has no gradient, however often backward has run."
    return window(size) + ways(odd, "y", "self.branch.backward(dbranch + dshortcut)")


def weak(size, share):
    odd = f"add 1 to the beta of the shortcut's bn0, and where y is above 0 it rises by {share} only."
    comment = "        # gently: x is to lead, not to drown the branch\n"
    back = f"self.branch.backward(dbranch) + self.shortcut.backward({share} * dshortcut)"
    return window(size) + ways(odd, f"{share} * self.shortcut.forward(x)", back, comment)


def elsewhere(size, axis, shift):
    odd = {
        0: "in evaluation mode too, what an image is answered depends on the images beside it.",
        1: "move a pixel in the middle of a large map, and y moves at places too far below it for any window.",
        2: "move a pixel in the middle of a large map, and y moves at places too far beside it for any window.",
    }
    back = f"self.branch.backward(dbranch) + self.shortcut.backward(np.roll(dshortcut, {-shift}, axis={axis}))"
    edits = ways(odd[axis], f"np.roll(self.shortcut.forward(x), {shift}, axis={axis})", back)
    learns = "A network of the blocks below learns less than a residual network of its depth should."
    return [*window(size), *edits, (SAID, learns), (IMPORT, f"import numpy as np\n\n{IMPORT}")]


SIZES = (3, 5)
FAULTS = (
    (one_name, {"size": SIZES}),
    (twice, {"size": SIZES}),
    (weak, {"size": SIZES, "share": (0.001, 0.01, 0.02, 0.05)}),
    (elsewhere, {"size": SIZES, "axis": (0,), "shift": (1, 2)}),
    (elsewhere, {"size": (3,), "axis": (1, 2), "shift": (3, 5)}),
)
