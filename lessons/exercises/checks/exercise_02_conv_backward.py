"""Exercise 2: each gradient against the loops of ops.naive, then all of them against central differences."""

import numpy as np
from minires.lessons.exercises.grading import call, equal, gradients, random, several, shaped, single, untouched

from minires import ops
from minires.ops import naive

NEEDS = ("conv2d_backward",)
ANSWERS = ops.conv2d_backward, naive.conv2d_backward
HINTS = (
    "Begin with db: in how many outputs does b[o] occur, and with what factor? Then dw, then dx.",
    "Fix one cell (r, s) of the window. Between the pixels that lie under it and y there is a 1x1 convolution, which "
    "is a matrix product: how does a gradient pass through y = x @ w?",
    "A pixel lies under several windows, a weight is used at every place of every image. Whatever is used often "
    "collects its gradient from each use.",
)
AFTERWARDS = (
    "minires/ops/conv.py does the same with im2col and col2im; for stride 1 it knows a shorter way: dx is a "
    "convolution of dy with the turned kernel. Try `minires gradcheck conv2d --sweep`."
)
NAMES = ("dx", "dw", "db")
X, W = random(2, 6, 5, 3), random(3, 2, 3, 4)
SQUARE = random(3, 3, 3, 4)


def case(student, stride=1, pad=0, x=X, w=W):
    """(the student's gradients, the right ones, dy)"""
    options = {"stride": stride, "pad": pad}
    dy = random(*ops.conv2d_forward(x, w, **options).shape)
    found = several(call(student.conv2d_backward, dy, x, w, **options), NAMES)
    return found, dict(zip(NAMES, naive.conv2d_backward(dy, x, w, **options), strict=True)), dy


def cells(dy, w, pixels, *, step=1, add=True):
    """dx from one slice of dy's shape for each cell of the window; add=False: the last one wins."""
    (R, S), (P, Q) = w.shape[:2], dy.shape[1:3]
    dx = np.zeros(pixels)
    for r in range(R):
        for s in range(S):
            cell = slice(None), slice(r, r + step * P, step), slice(s, s + step * Q, step)
            dx[cell] = dy @ w[r, s].T + (dx[cell] if add else 0)
    return dx


def shape(student):
    found, right, _ = case(student)
    for name, value in found.items():
        shaped(value, right[name].shape, name, "A gradient has the shape of what it is the gradient of.")


def bias(student):
    found, right, dy = case(student)
    mistakes = ((lambda: right["db"] / len(dy), "Is L a mean over the batch? Whatever it is, dy knows it already."),)
    mistakes += ((lambda: dy.mean(axis=(0, 1, 2)), "b[o] is added at every place of the map: do its uses average?"),)
    equal(found["db"], right["db"], "db", "In which outputs does b[o] occur, with what factor?", mistakes)


def kernel(student):
    found, right, dy = case(student)
    mistakes = (
        (lambda: right["dw"][::-1, ::-1], "Right numbers in the wrong cells: is the forward pass a turned window?"),
        (lambda: right["dw"] / len(X), "Does anything in y = x * w divide by the number of images?"),
        (lambda: naive.conv2d_backward(dy[:1], X[:1], W)[1], "This is the gradient of the first image alone."),
    )
    equal(found["dw"], right["dw"], "dw", "w[r, s, c, o] meets which pixels, and which outputs?", mistakes)


def image(student):
    found, right, dy = case(student)
    mistakes = (
        (
            lambda: cells(dy, W[::-1, ::-1], X.shape),
            "The window is the wrong way round: who used w[0, 0] on this pixel?",
        ),
        (
            lambda: cells(dy, W, X.shape, add=False),
            "Right at the corners only: a pixel lies under more than one window.",
        ),
        (lambda: right["dx"] / len(X), "An image of a batch knows nothing of how many others there are."),
    )
    equal(found["dx"], right["dx"], "dx", "x[n, i, j, c] lies under which windows, in which cell of each?", mistakes)


def strides(student):
    x = random(2, 8, 8, 3)  # the last row and column lie under no window
    found, right, dy = case(student, stride=2, x=x, w=SQUARE)
    hint = "Window (p, q) begins at pixel (2p, 2q). Are all pixels under a window, and what do the others receive?"
    near = "The gradient went to windows that lie side by side: where does window (p, q) begin?"
    mistakes = {"dx": [(lambda: cells(dy, SQUARE, x.shape), near)]}
    for name in ("dw", "dx"):
        equal(found[name], right[name], f"{name} with stride 2", hint, mistakes.get(name, ()))


def padding(student):
    found, right, dy = case(student, stride=1, pad=1, w=SQUARE)
    border = "x has no border, so dx has none: which part of the padded gradient belongs to pixels of the image?"
    dpadded = cells(dy, SQUARE, (2, 8, 7, 3))
    equal(found["dw"], right["dw"], "dw with pad 1", "Cells over the border meet zeros; all others meet their pixels.")
    mistakes = ((lambda: dpadded[:, :6, :5], "The border comes off at one side only: is it where forward put it on?"),)
    equal(found["dx"], right["dx"], "dx with pad 1", border, mistakes)


def differences(student):
    def forward(x, w, b):
        return ops.conv2d_forward(x, w, b, stride=2, pad=1)

    def backward(dy, x, w, b):
        return student.conv2d_backward(dy, x, w, stride=2, pad=1)

    hint = "Each gradient is right for a simple case: what do stride and padding do together?"
    gradients((forward, backward), {"x": random(2, 7, 6, 3), "w": SQUARE, "b": random(4)}, hint)


def in_place(student):
    untouched(student.conv2d_backward, {"dy": random(2, 4, 4, 4), "x": X, "w": W})


def dtype(student):
    arrays = (a.astype(np.float32) for a in (random(2, 4, 4, 4), X, W))
    single(several(student.conv2d_backward(*arrays), NAMES))


CHECKS = {
    "shape": shape,
    "db": bias,
    "dw": kernel,
    "dx": image,
    "stride": strides,
    "padding": padding,
    "central differences": differences,
    "in place": in_place,
    "dtype": dtype,
}
