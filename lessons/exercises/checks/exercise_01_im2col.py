"""Exercise 1: every order in which the six indices can be laid out wrongly has its hint."""

import numpy as np
from minires.lessons.exercises.grading import Wrong, call, equal, random, shaped, single, untouched

from minires.ops import naive

NEEDS = ("im2col",)
HINTS = (
    "Write out by hand, on paper, the columns of a 3x3 image with one channel and a 2x2 window: four rows of four.",
    "Rows are places of the window (n, p, q), columns are cells in it (r, s, c). Build an array with all six axes, in "
    "that order, and flatten it at the end.",
    "Six loops are right but slow. For one cell (r, s), which pixels lie under it over all places of the window? They "
    "are a slice of x with a step.",
)
AFTERWARDS = (
    "The library's own im2col (minires/ops/conv.py) has no loop: it makes the six axes by strides alone and copies "
    "once. There is no im2col for a 1x1 kernel at all: x.reshape(-1, C) is its matrix of columns."
)
X, KERNEL = random(2, 6, 5, 3), (3, 2)


def fields(x, kernel=KERNEL, stride=(1, 1)):
    """(N, P, Q, R, S, C): the truth, before it is flattened."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))  # (N, ., ., C, R, S)
    return windows[:, :: stride[0], :: stride[1]].transpose(0, 1, 2, 4, 5, 3)


def flat(array):
    return array.reshape(-1, array.shape[-3] * array.shape[-2] * array.shape[-1])


def shape(student):
    got, expected = call(student.im2col, X, KERNEL, (1, 1)), flat(fields(X))
    hint = "Count the places of a 3x2 window on a 6x5 image: how many rows of places, how many columns of them?"
    if isinstance(got, np.ndarray):
        if got.shape == expected.shape[::-1]:
            hint = "This is the matrix lying on its side: a place of the window is to be a row."
        elif got.ndim != 2:
            hint = "All the numbers may be there, but not yet as a matrix: some axes are still to be merged."
    shaped(got, expected.shape, "columns", hint)


def one_image(student):
    x = np.arange(9.0).reshape(1, 3, 3, 1)
    got, expected = call(student.im2col, x, (2, 2), (1, 1)), flat(fields(x, (2, 2)))
    shaped(got, expected.shape, "columns of a 3x3 image", "A 2x2 window has 2 x 2 places on a 3x3 image.")
    for i, (row, right) in enumerate(zip(got, expected, strict=True)):
        if not np.array_equal(row, right):
            seen = f"image [[0 1 2] [3 4 5] [6 7 8]], window 2x2: row {i} expected {right}, got {row}"
            raise Wrong(seen, "Which pixels lie under the window at this place, read line by line?")


def order(student):
    six = fields(X)
    mistakes = (
        (
            lambda: flat(six.transpose(0, 1, 2, 5, 3, 4)),
            "Right pixels, wrong order in the row: which index runs fastest?",
        ),
        (lambda: flat(six.transpose(0, 1, 2, 4, 3, 5)), "Within a row the window is read column by column. And w?"),
        (lambda: flat(six.transpose(0, 2, 1, 3, 4, 5)), "The places are visited downwards first. And y is stored how?"),
        (
            lambda: flat(six.transpose(1, 2, 0, 3, 4, 5)),
            "With one image all is well: where do the rows of the second image begin?",
        ),
        (lambda: flat(six[:, :, :, ::-1, ::-1]), "The window is turned round: that is the convolution of textbooks."),
    )
    got = call(student.im2col, X, KERNEL, (1, 1))
    equal(got, flat(six), "columns", "Compare the numbers of one row with its receptive field in x.", mistakes)


def strides(student):
    stride = (2, 3)
    x = random(2, 8, 10, 2)
    P, Q = fields(x, KERNEL, stride).shape[1:3]
    mistakes = (
        (
            lambda: flat(fields(x)[:, :P, :Q]),
            "As many places as there should be, but one pixel apart: the stride also says where each begins.",
        ),
    )
    got = call(student.im2col, x, KERNEL, stride)
    hint = "Is the vertical stride used for rows and the horizontal one for columns, in P and Q too?"
    equal(got, flat(fields(x, KERNEL, stride)), f"columns with stride {stride}", hint, mistakes)


def views(student):
    x = random(2, 5, 12, 3)[:, :, ::2].transpose(0, 2, 1, 3)
    hint = (
        "x may be a view, whose pixels are not side by side in memory: strides have to be read from it, or it copied."
    )
    equal(student.im2col(x, KERNEL, (1, 1)), flat(fields(x)), "columns of an x that is a view", hint)


def convolution(student):
    w = random(3, 2, 3, 4)
    y = call(student.im2col, X, KERNEL, (1, 1)) @ w.reshape(-1, 4)
    hint = "The rows of w.reshape(R * S * C, O) have to meet the columns in the same order."
    equal(y, naive.conv2d_forward(X, w).reshape(-1, 4), "columns @ w", hint)


def in_place(student):
    untouched(lambda x: student.im2col(x, KERNEL, (1, 1)), {"x": X})


def dtype(student):
    single({"columns": call(student.im2col, X.astype(np.float32), KERNEL, (1, 1))})


CHECKS = {
    "shape": shape,
    "one image": one_image,
    "order": order,
    "strides": strides,
    "views": views,
    "convolution": convolution,
    "in place": in_place,
    "dtype": dtype,
}
