"""Exercise 9: bug hunt, right alone and wrong together

Each function below passes its own gradient check. The block that is made of them fails:

    y = x + relu(z),     z = x * w     (a 3x3 convolution)

    x, y, dx, dy    (N, H, W, C)          w, dw    (3, 3, C, C)

dw is right, dx is wrong, and stranger still: whoever calls block_backward(dy, cache) finds another dy afterwards.
Find the fault and mend it, so that block and functions are right and nothing that was handed in is changed.

Read: minires/ops/activation.py, five lines on relu and three on the add node; minires/README.md, "Conventions". The
instrument is minires.instruments.audit, for blocks that are modules; here your eyes must do.
"""

from minires import ops


def relu_backward(dout, x):
    """dx of relu at x."""
    dout[x < 0] = 0
    return dout


def block_forward(x, w):
    """y, with what backward needs."""
    z = ops.conv2d_forward(x, w, pad=1)
    y = x + ops.relu_forward(z)
    return y, (x, w, z)


def block_backward(dy, cache):
    """dx, dw."""
    x, w, z = cache
    dbranch, dshortcut = ops.add_backward(dy)
    dz = relu_backward(dbranch, z)
    dx, dw, _ = ops.conv2d_backward(dz, x, w, pad=1)
    return dx + dshortcut, dw
