"""The convolution layer of the fast copies of a network: the same result by the way that suits its shape."""

import threading

import numpy as np

from minires import ops
from minires.backend import device_of
from minires.nn.layers import Conv2d
from minires.nn.module import Param
from minires.ops import fastconv, winograd
from minires.ops.conv import output_size, pair, resolve_padding
from minires.ops.norm import channel_sum

# What the ways cost, in multiplications, as measured on an AVX-512 machine (`minires bench ways`)
DIRECT = 1.04  # im2col's copies
WEIGHTS = 13  # for each number of a transformed kernel: it is made, its gradient summed and turned back
FEW_ROWS = 16  # a product of so many rows runs at half speed


class Kernel:
    """A 3x3 kernel's Winograd transforms, made when first asked for and shared by all parts of a batch."""

    def __init__(self, w):
        self.w, self._made, self._lock = w, {}, threading.Lock()

    def transformed(self, m):
        """(U, U^T) for tiles of m x m outputs, of the weights as they were at the first call since `forget`."""
        with self._lock:
            if m not in self._made:
                U = winograd.kernel_forward(self.w.data, m)
                Ut = U.transpose(0, 2, 1)
                # in memory of its own where that is worth the copy
                self._made[m] = U, np.ascontiguousarray(Ut) if U[0].size <= 2**15 else Ut
            return self._made[m]

    @property
    def nbytes(self) -> int:
        return sum(U.nbytes * (1 + Ut.flags.c_contiguous) for U, Ut in self._made.values())

    def forget(self):
        self._made.clear()


class FastConv(Conv2d):
    """`conv` with the parameters w and b, which may be those of one part of a batch."""

    def __init__(self, conv: Conv2d, w: Param, b: Param | None, kernel: Kernel):
        self.__dict__.update(vars(conv), w=w, b=b, kernel=kernel)

    def forward(self, x):
        self.check_input(x)
        way = self._way(x.shape)
        self.save(x, way)
        w, b = self.w.data, None if self.b is None else self.b.data
        match way:
            case "pointwise":
                y = fastconv.pointwise_forward(x, w, self.stride)
            case "rowwise":
                y = fastconv.rowwise_forward(x, w, self.pad)
            case int(m):
                y = winograd.winograd_forward(x, self.kernel.transformed(m)[0], self.pad)
            case "direct":
                return ops.conv2d_forward(x, w, b, stride=self.stride, pad=self.pad)
        if b is not None:
            y += b
        return y

    def backward(self, dy, need_dx=True):
        x, way = self.saved()
        w, dw = self.w.data, self.w.grad
        if self.b is not None:
            self.b.write_grad(channel_sum(dy))
        match way:
            case "pointwise":
                dx, dw = fastconv.pointwise_backward(dy, x, w, self.stride, need_dx, dw)
            case "rowwise":
                dx, dw = fastconv.rowwise_backward(dy, x, w, self.pad, need_dx, dw)
            case int(m):
                U, Ut = self.kernel.transformed(m)
                dx, dU = winograd.winograd_backward(dy, x, U, self.pad, need_dx, Ut)
                dw = winograd.kernel_backward(dU, dw)
            case "direct":
                options = {"stride": self.stride, "pad": self.pad, "need_dx": need_dx, "need_db": False, "dw": dw}
                dx, dw, _ = ops.conv2d_backward(dy, x, w, **options)
        self.w.write_grad(dw)
        return dx

    def _way(self, shape):
        """'pointwise', 'rowwise', 'direct', or Winograd's m, for an input of this shape."""
        if device_of(self.w.data) != "cpu":
            return "direct"
        R, S, C, O = self.w.data.shape
        pads = resolve_padding(self.pad, shape[1:3], (R, S), pair(self.stride))
        if (R, S) == (1, 1) and not any(map(any, pads)):
            return "pointwise"
        if self.stride != (1, 1) or (R, S) != winograd.KERNEL or C < 8:
            return "direct"
        if C <= 16:
            return "rowwise"
        P, Q = output_size(shape[1:3], (R, S), (1, 1), pads)
        costs = {"direct": DIRECT * shape[0] * P * Q * 9 * C * O}
        for m in winograd.POINTS:
            n2, tiles = (m + 2) ** 2, shape[0] * -(-P // m) * -(-Q // m)
            transforms = tiles * (1.1 * n2 * C + 1.3 * m * m * O)
            costs[m] = n2 * ((tiles + FEW_ROWS) * C * O + transforms + WEIGHTS * C * O)
        return min(costs, key=costs.get)
