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
from minires.team import Member

# What the ways cost, in multiplications, as measured on an AVX-512 machine (`minires bench ways`)
DIRECT = 1.04  # im2col's copies
WEIGHTS = 8  # for each number of a transformed kernel: it is made, its gradient summed and turned back
MOVED = 10  # for each number that is copied or added beside a product
FEW_ROWS = 16  # a product of so many rows runs at half speed


class Kernels:
    """Winograd's transforms of the 3x3 kernels of a network, made once a step.

    One that is asked for is made on the spot. For those that the members of a team have agreed on, each makes a part at
    the start of a step, in arrays that all of them see.
    """

    def __init__(self):
        self.weights, self.made, self.agreed = {}, {}, {}
        self._turn, self._lock = 0, threading.Lock()

    def transformed(self, name: str, m: int):
        """U (n^2, C, O), for tiles of m x m outputs, of the weights as they were at the start of the step."""
        key = name, m
        if key in self.agreed:
            return self.agreed[key]
        with self._lock:
            if key not in self.made:
                self.made[key] = winograd.kernel_forward(self.weights[name].data, m)
            return self.made[key]

    def renew(self, turn: int, member: Member):
        """The weights have changed; called by every member, at the start of step `turn`."""
        with self._lock:
            if self._turn != turn:
                self._turn, self.made = turn, {}
        for (name, m), U in list(self.agreed.items())[member.rank :: member.size]:
            winograd.kernel_forward(self.weights[name].data, m, out=U)
        if self.agreed:
            member.meet(np.zeros(1))

    @property
    def nbytes(self) -> int:
        return sum(U.nbytes for U in (self.made | self.agreed).values())

    def __reduce__(self):
        return Kernels, ()  # another process makes its own


class FastConv(Conv2d):
    """`conv` with the parameters w and b, which may be those of one part of a batch."""

    def __init__(self, conv: Conv2d, w: Param, b: Param | None, kernels: Kernels):
        self.__dict__.update(vars(conv), w=w, b=b, kernels=kernels, ways={})
        self.kernel = conv.w.name
        kernels.weights[self.kernel] = w

    def forward(self, x):
        self.check_input(x)
        way = self.ways.get(x.shape)
        if way is None:
            way = self.ways[x.shape] = self._way(x.shape)
        self.save(x, way)
        w, b = self.w.data, None if self.b is None else self.b.data
        match way:
            case "pointwise":
                y = fastconv.pointwise_forward(x, w, self.stride)
            case "rowwise":
                y = fastconv.rowwise_forward(x, w, self.pad)
            case "tapwise":
                y = fastconv.tapwise_forward(x, w, self.stride, self.pad)
            case int(m):
                y = winograd.winograd_forward(x, self._transformed(m), self.pad)
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
            case "tapwise":
                dx, dw = fastconv.tapwise_backward(dy, x, w, self.stride, self.pad, need_dx, dw)
            case int(m):
                dx, dU = winograd.winograd_backward(dy, x, self._transformed(m), self.pad, need_dx)
                dw = winograd.kernel_backward(dU, dw)
            case "direct":
                options = {"stride": self.stride, "pad": self.pad, "need_dx": need_dx, "need_db": False, "dw": dw}
                dx, dw, _ = ops.conv2d_backward(dy, x, w, **options)
        self.w.write_grad(dw)
        return dx

    def _transformed(self, m):
        return self.kernels.transformed(self.kernel, m)

    def _way(self, shape):
        """'pointwise', 'rowwise', 'tapwise', 'direct', or Winograd's m, for an input of this shape."""
        if device_of(self.w.data) != "cpu":
            return "direct"
        (R, S, C, O), stride = self.w.data.shape, pair(self.stride)
        pads = resolve_padding(self.pad, shape[1:3], (R, S), stride)
        if (R, S) == (1, 1):
            return "direct" if any(map(any, pads)) else "pointwise"
        if C < 8:
            return "direct"
        unit = stride == (1, 1) and (R, S) == winograd.KERNEL
        if unit and C <= 16:
            return "rowwise"
        N, (P, Q) = shape[0], output_size(shape[1:3], (R, S), stride, pads)
        pairs = fastconv.tap_pairs(shape[1:3], (P, Q), (R, S), stride, pads)
        costs = {
            "direct": DIRECT * N * P * Q * R * S * C * O,
            "tapwise": N * pairs * (C * O + MOVED * (C + 2 * O)) + FEW_ROWS * R * S * C * O,
        }
        for m in winograd.POINTS if unit else ():
            n2, tiles = (m + 2) ** 2, N * -(-P // m) * -(-Q // m)
            transforms = tiles * (1.1 * n2 * C + 1.3 * m * m * O)
            costs[m] = n2 * ((tiles + FEW_ROWS) * C * O + transforms + WEIGHTS * C * O)
        return min(costs, key=costs.get)
