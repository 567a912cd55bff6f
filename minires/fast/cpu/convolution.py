"""Convolutions and products by kernels: sizes, and which algorithm when."""

import threading
from functools import lru_cache

import numpy as np

from minires.backend import workspace_limit
from minires.fast.cpu.engine import INT, VECTOR_BYTES, _kernels, _State, empty, enabled, fit, like, takes, whole
from minires.fast.cpu.passes import channel_sum
from minires.geometry import output_size, pair, resolve_padding

TILE, FEWEST_TILES = 4, 8  # Winograd's outputs, each way; in so few tiles its weights cost more than they save
ALGORITHMS = "direct", "winograd"


class _Convolution:
    """The sizes of one, worked out once, and the algorithm of each of its three products."""

    def __init__(self, x_shape, w_shape, stride, pad, dilation, groups, algorithm, lanes, limit):
        (R, S, each, O), (N, H, W, C) = w_shape, x_shape
        self.window, self.stride, self.dilation, self.groups = (R, S), pair(stride), pair(dilation), groups
        (top, bottom), (left, right) = pads = resolve_padding(pad, (H, W), (R, S), self.stride, self.dilation)
        P, Q = output_size((H, W), (R, S), self.stride, pads, self.dilation)
        self.shape, self.start = (N, P, Q, O), (top, left)
        known = algorithm in (None, *ALGORITHMS) and each * groups == C and O % groups == 0
        self.fits = known and min(N, P, Q, O, C) > 0 and min(top, left, bottom, right) >= 0
        if (R, S, *self.stride) == (1, 1, 1, 1) and not any(map(any, pads)):
            N, H, W, P, Q = N * H * W, 1, 1, 1, 1  # every pixel for itself: pixels are images
        self.x, self.y = (N, H, W, C), (N, P, Q, O)
        self.fits &= max(*self.x, *self.y) < INT
        self.forward, self.back = (
            self._choose(*ends, algorithm, lanes, limit) for ends in ((self.x, self.y), (self.y, self.x))
        )
        self.calls = self._call(False), self._call(True)

    def _choose(self, source, result, asked, lanes, limit):
        """'winograd', 'depthwise' or 'direct'. Winograd's weights are four times as many: with enough tiles it pays."""
        if self.groups == source[3] == result[3] > 1:
            return "depthwise"
        plain = (*self.stride, *self.dilation, self.groups) == (1, 1, 1, 1, 1)
        fits = self.window == (3, 3) and plain and source[3] % lanes == result[3] % lanes == 0
        tiles = result[0] * -(-result[1] // TILE) * -(-result[2] // TILE)
        pays = min(result[1:3]) >= TILE - 1 and tiles >= FEWEST_TILES
        room = not limit or 36 * source[3] * result[3] * 8 <= limit
        return "winograd" if fits and (asked == "winograd" or (asked is None and pays and room)) else "direct"

    def _call(self, back):
        """The kernel's name and its numbers, up to whether there is a ReLU."""
        (N, H, W, K), (_, P, Q, O), (top, left) = *((self.y, self.x) if back else (self.x, self.y)), self.start
        algorithm, steps = self.back if back else self.forward, (*self.stride, top, left, *self.dilation)
        if algorithm == "winograd":
            top, left = (2 - top, 2 - left) if back else (top, left)
            return "winograd", (N, H, W, K, P, Q, O, top, left, int(back))
        if algorithm == "depthwise":
            return "depthwise", (N, H, W, K, P, Q, *self.window, *steps, int(back))
        return "conv2d", (N, H, W, K, P, Q, O, *self.window, *steps, self.groups, int(back))

    def run(self, x, w, y, *, back=False, packed=None, b=None, add=None, relu=False):
        """Write y from x, or, `back`, the gradient of the image from that of the output."""
        name, numbers = self.calls[back]
        weights = (w,) if name == "depthwise" else (w, packed)
        getattr(_kernels, name)(x, *weights, b, add, y, *numbers, int(relu))

    def weights(self, x, dy, dw):
        """Write the gradient of the weights."""
        steps = *self.window, *self.stride, *self.start, *self.dilation
        if self.forward == "winograd":
            _kernels.winograd_weights(x, dy, dw, *self.x, *self.y[1:], *self.start)
        elif self.forward == "depthwise":
            _kernels.depthwise_weights(x, dy, dw, *self.x, *self.y[1:3], *steps)
        else:
            _kernels.conv2d_weights(x, dy, dw, *self.x, *self.y[1:], *steps, self.groups)


_cached = lru_cache(1024)(_Convolution)


def _convolution(x, w, stride, pad, dilation, groups, algorithm=None):
    """The convolution of x with w, or None where that is no business of the kernels."""
    if x.ndim != 4 or w.ndim != 4:
        return None
    if not isinstance(pad, int | str):
        pad = tuple(map(pair, pair(pad)))  # lists among them have no place in the cache
    lanes = VECTOR_BYTES[_State.isa] // x.itemsize
    steps = pair(stride), pad, pair(dilation), groups
    conv = _cached(x.shape, w.shape, *steps, algorithm, lanes, workspace_limit())
    return conv if conv.fits else None


def algorithm(x, w, *, stride=1, pad=0, dilation=1, groups=1) -> str:
    """Which algorithm a convolution of these takes: 'im2col' where the kernels do not run it."""
    conv = _convolution(x, w, stride, pad, dilation, groups) if enabled() and takes((x, w)) else None
    return conv.forward if conv else "im2col"


def conv2d_forward(x, w, b=None, *, stride=1, pad=0, dilation=1, groups=1, algorithm=None):
    conv = _convolution(x, w, stride, pad, dilation, groups, algorithm)
    if conv is None or not fit((b, w.shape[3:])):
        return NotImplemented
    y = empty(conv.shape, x.dtype)
    conv.run(whole(x), whole(w), y, b=None if b is None else whole(b))
    return y


class Weights:
    """Weights (R, S, C, O) that do not change, in one form at a time: as they were given, or packed for a kernel.

    Those of groups stay as they were given.
    """

    KEPT = 2**22  # bytes up to which Winograd's weights, four times as many, are kept beside the plain ones

    def __init__(self, w):
        self.shape, self.dtype, self.ndim = w.shape, w.dtype, w.ndim
        self.w, self.packed, self.transformed = w, None, None
        self.lock = threading.Lock()

    def plain(self):
        """The weights as they were given; several threads may ask at once, for this and for `of`."""
        with self.lock:
            return self._plain()

    def _plain(self):
        if self.w is not None:
            return self.w
        R, S, C, O = self.shape
        panels = np.split(self.packed, range(R * S * C * self.wide, self.packed.size, R * S * C * self.wide))
        columns = [panel[: R * S * C * self._width(i)].reshape(R * S * C, -1) for i, panel in enumerate(panels)]
        return np.ascontiguousarray(np.concatenate(columns, axis=1)[:, :O]).reshape(self.shape)

    def _width(self, panel):
        return self.wide if self.shape[3] - panel * self.wide > self.wide // 2 else self.wide // 2

    def of(self, algorithm, groups=1):
        """(w, packed) as the kernel of this algorithm takes them."""
        with self.lock:
            if groups > 1:
                return whole(self._plain()), None
            if algorithm == "direct":
                if self.packed is None:
                    self.packed, self.w, self.transformed = self._packed(self.w), None, None
                return None, self.packed
            if self.w is None:
                self.w, self.packed = self._plain(), None
            if self.transformed is None:
                self.transformed = self._transformed(self.w)
            return whole(self.w), self.transformed

    def _packed(self, w):
        R, S, C, O = self.shape
        self.wide = 2 * VECTOR_BYTES[_State.isa] // self.dtype.itemsize  # columns of a panel
        packed = np.empty(R * S * C * -(-O // self.wide) * self.wide, self.dtype)
        _kernels.conv2d_pack(whole(w), packed, R * S, C, O)
        return packed

    def _transformed(self, w):
        _, _, C, O = self.shape
        wide = 2 * VECTOR_BYTES[_State.isa] // self.dtype.itemsize
        size = 36 * -(-O // wide) * (C * wide + 64 // self.dtype.itemsize)
        if size * self.dtype.itemsize > self.KEPT:
            return None
        transformed = np.empty(size, self.dtype)
        _kernels.winograd_pack(whole(w), transformed, C, O)
        return transformed


def conv2d_add_relu(x, weights, b=None, shortcut=None, relu=True, *, stride=1, pad=0, dilation=1, groups=1):
    conv = _convolution(x, weights, stride, pad, dilation, groups)
    fits = conv and weights.dtype == x.dtype
    if not fits or not fit((b, weights.shape[3:]), (shortcut, conv.shape)):
        return NotImplemented
    x, y, b = whole(x), empty(conv.shape, x.dtype), None if b is None else whole(b)
    w, packed = weights.of(conv.forward, groups)
    conv.run(x, w, y, packed=packed, b=b, add=None if shortcut is None else whole(shortcut), relu=relu)
    return y


def conv2d_backward(
    dy,
    x,
    w,
    *,
    stride=1,
    pad=0,
    dilation=1,
    groups=1,
    need_dx=True,
    need_dw=True,
    need_db=True,
    dw=None,
    algorithm=None,
    add=None,
):
    conv = _convolution(x, w, stride, pad, dilation, groups, algorithm)
    if conv is None or not fit((dy, conv.shape), (add, x.shape), (dw, w.shape)) or not (dw is None or dw.flags.carray):
        return NotImplemented
    dy, x, w = whole(dy), whole(x), whole(w)
    if need_dw:
        dw = like(w) if dw is None else dw
        conv.weights(x, dy, dw)
    dx = like(x) if need_dx else None
    if need_dx:
        conv.run(dy, w, dx, back=True, add=None if add is None else whole(add))
    return dx, dw if need_dw else None, channel_sum(dy) if need_db else None


def conv2d_backward_add(dy, x, w, add, **options):
    return conv2d_backward(dy, x, w, add=add, need_db=False, **options)


def dense_forward(x, w, b=None):
    if x.ndim != 2:
        return NotImplemented
    y = conv2d_forward(x[:, None, None], w[None, None], b)
    return y if y is NotImplemented else y.reshape(len(x), -1)


def dense_backward(dy, x, w, *, need_dx=True):
    if x.ndim != 2 or dy.ndim != 2:
        return NotImplemented
    result = conv2d_backward(dy[:, None, None], x[:, None, None], w[None, None], need_dx=need_dx)
    if result is NotImplemented:
        return result
    dx, dw, db = result
    return dx if dx is None else dx.reshape(x.shape), dw.reshape(w.shape), db
