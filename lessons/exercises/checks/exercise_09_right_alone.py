"""Exercise 9: the functions alone, the block, and what the caller gets back."""

import numpy as np
from minires.lessons.exercises.grading import call, equal, gradients, random, several, shaped, single, untouched

from minires import ops

NEEDS = ("relu_backward", "block_forward", "block_backward")
HINTS = (
    "Print dy, dbranch and dshortcut behind each line of block_backward.",
    "ops.add_backward(dy) returns a pair. How many arrays are in it? `a is b` tells.",
    "`dout[...] = 0` changes an array; `dout = ...` gives the name to another one. Which of the two does a caller "
    "notice?",
)
AFTERWARDS = (
    "`minires gradcheck` and `minires audit` name such a write, and the shortcut that shares the array. The library's "
    "tests hand every op read-only arrays, so that none can do it."
)
X, W, DY = random(2, 4, 5, 3), random(3, 3, 3, 3) / 3, random(2, 4, 5, 3, seed=1)
NAMES = ("dx", "dw")
Z = ops.conv2d_forward(X, W, pad=1)


def found(student):
    _, cache = call(student.block_forward, X, W)
    return several(student.block_backward(DY.copy(), cache), NAMES)


def dx_of(dz, dshortcut=DY):
    """dx where these arrive at the convolution and at the shortcut."""
    return ops.conv2d_backward(dz, X, W, pad=1)[0] + dshortcut


def shape(student):
    for name, value in found(student).items():
        shaped(
            value, X.shape if name == "dx" else W.shape, name, "A gradient has the shape of what it is the gradient of."
        )


def forward(student):
    y, _ = call(student.block_forward, X, W)
    equal(y, X + np.maximum(Z, 0), "y", "Forward was right as it came.")


def relu(student):
    mistakes = (
        (lambda: DY * (Z < 0), "It lets through what it should stop."),
        (lambda: DY, "Nothing is stopped where the input was negative."),
    )
    hint = "relu passes the gradient on where its input was positive."
    equal(call(student.relu_backward, DY, Z), np.where(Z > 0, DY, 0), "relu_backward", hint, mistakes)


def dw(student):
    right = ops.conv2d_backward(DY * (Z > 0), X, W, pad=1)[1]
    mistakes = (
        (
            lambda: ops.conv2d_backward(DY * (X > 0), X, W, pad=1)[1],
            "Whose sign decides: the block's input, or relu's?",
        ),
        (
            lambda: ops.conv2d_backward(DY, X, W, pad=1)[1],
            "The gradient reaches the convolution as if there were no relu.",
        ),
    )
    equal(found(student)["dw"], right, "dw", "What arrives at the convolution is dy after relu_backward.", mistakes)


def dx(student):
    passed = DY * (Z > 0)
    mistakes = (
        (lambda: dx_of(passed, passed), "Where z < 0 nothing came back along the shortcut. Who set it to 0?"),
        (lambda: dx_of(passed, 0 * DY), "The way back along the shortcut is lost."),
        (lambda: dx_of(DY), "The gradient reaches the convolution as if there were no relu."),
    )
    equal(found(student)["dx"], dx_of(passed), "dx", "Two arrays arrive at x: look at each by itself.", mistakes)


def differences(student):
    def y(x, w):
        return student.block_forward(x, w)[0]

    def backward(dy, x, w):
        return student.block_backward(dy, student.block_forward(x, w)[1])

    gradients(
        (y, backward),
        {"x": X, "w": W},
        "The instrument asks twice, with one and the same dy. Is it still the same the second time?",
    )


def caller(student):
    _, cache = call(student.block_forward, X, W)
    hint = "Whatever the block makes of it, dy belongs to the caller, who may need it once more."
    untouched(lambda dy: student.block_backward(dy, cache), {"dy": DY}, hint)
    alone = "The block protects its caller, but relu_backward by itself still writes into what it is handed."
    untouched(student.relu_backward, {"dout": DY, "x": Z}, alone)


def dtype(student):
    x, w, dy = (a.astype(np.float32) for a in (X, W, DY))
    y, cache = student.block_forward(x, w)
    single({"y": y} | several(student.block_backward(dy, cache), NAMES))


CHECKS = {
    "shape": shape,
    "forward": forward,
    "relu alone": relu,
    "dw": dw,
    "dx": dx,
    "central differences": differences,
    "in place": caller,
    "dtype": dtype,
}
