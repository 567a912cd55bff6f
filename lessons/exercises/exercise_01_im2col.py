"""Exercise 1: im2col, a convolution as one matrix product

Copy every receptive field of a batch of images into a row of a matrix. A convolution is then a single product,

    y = im2col(x, (R, S), stride) @ w.reshape(R * S * C, O)          one row of y for each place of the window

and the processor spends its time where it is fastest. Write

    im2col(x, kernel, stride) -> columns

    x         (N, H, W, C); not to be changed
    kernel    (R, S), the window's rows and columns
    stride    (sv, sh), how far it moves downwards and to the right
    columns   (N * P * Q, R * S * C), in the dtype of x

    P = floor((H - R) / sv) + 1,    Q = floor((W - S) / sh) + 1          no padding
    columns[(n * P + p) * Q + q, (r * S + s) * C + c] = x[n, p * sv + r, q * sh + s, c]

Read: K. Chellapilla, S. Puri, P. Simard, "High Performance Convolutional Neural Networks for Document
Processing", 2006, section 3; sizes and strides: V. Dumoulin, F. Visin, arXiv:1603.07285, sections 2 and 3;
in the library: conv2d_forward in minires/ops/naive.py, the loops that this replaces.
"""

import numpy as np


def im2col(x: np.ndarray, kernel: tuple, stride: tuple) -> np.ndarray:
    """Every receptive field of x as a row."""
    raise NotImplementedError("im2col")
