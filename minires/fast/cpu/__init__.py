"""The ops in C (kernels.c): what `minires.ops` runs on NumPy arrays of float32 or float64 where it was compiled.

Each function here stands for the op of its name, with its arguments and results: it sees to shapes and contiguity and
chooses the algorithm. `compiled` puts it in front of the op. MINIRES_KERNELS=numpy leaves all ops as they read;
MINIRES_ISA=sse2, avx2 or avx512 takes the kernels of an instruction set that the processor has, by default the widest.
"""

import os
import threading
from contextlib import contextmanager
from functools import lru_cache, wraps

import numpy as np

from minires.backend import workspace_limit
from minires.cores import usable_cores
from minires.errors import ConfigError
from minires.geometry import output_size, pair, resolve_padding

try:
    from minires.fast.cpu import _kernels
except ImportError:  # installed where there was no C compiler
    _kernels = None

FLOATS = np.dtype("f4"), np.dtype("f8")
VECTOR_BYTES = {"base": 16, "sse2": 16, "avx2": 32, "avx512": 64}


class _State:
    """Whether the kernels run (None: nobody has asked yet), and of which instruction set."""

    enabled = None
    isa = ""


def _setting(name, choices):
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        raise ConfigError(f"{name}: expected {', '.join(choices)}, got {value!r}: change or unset it")
    return value


def enabled() -> bool:
    """Whether the kernels are there and switched on. ConfigError where the environment asks for what cannot be."""
    if _State.enabled is None:
        wanted = _setting("MINIRES_KERNELS", ("auto", "numpy")) == "auto" and _kernels is not None
        isa = _setting("MINIRES_ISA", tuple(_kernels.instruction_sets()[::-1] if _kernels else VECTOR_BYTES))
        workers = usable_cores()  # all settings are read, so that none can be wrong without a word
        if wanted:
            _State.isa = isa
            _kernels.use(isa)
            _kernels.set_threads(workers)
        _State.enabled = wanted
    return _State.enabled


def description() -> str:
    """In words, what runs the ops on the CPU."""
    if enabled():
        return f"compiled kernels, {_State.isa}, {_kernels.threads()} thread{'s' * (_kernels.threads() != 1)}"
    return "NumPy, as MINIRES_KERNELS asks" if _kernels else "NumPy: the kernels were not compiled"


def threads() -> int:
    """How many threads share each kernel's loops."""
    return _kernels.threads() if enabled() else 1


@contextmanager
def use_threads(count: int):
    """Inside, so many threads share each kernel's loops; for every caller."""
    if not enabled():
        yield
        return
    before = _kernels.threads()
    _kernels.set_threads(count)
    try:
        yield
    finally:
        _kernels.set_threads(before)


@contextmanager
def as_read():
    """Inside, all ops run as they read, in NumPy; for every caller."""
    before, _State.enabled = _State.enabled, False
    try:
        yield
    finally:
        _State.enabled = before


def compiled(op):
    """`op` by its kernel where all its arrays are of NumPy and one floating type, else as it reads; `op.as_read`."""
    kernel = globals()[op.__name__]

    @wraps(op)
    def run(*args, **options):
        if enabled() and _known((*args, *options.values())):
            result = kernel(*args, **options)
            if result is not NotImplemented:
                return result
        return op(*args, **options)

    run.as_read = op
    return run


def _known(args):
    """Whether kernels take these: the first an array that is not empty, all of one type, at addresses that suit it."""
    first = args[0]
    if type(first) is not np.ndarray or first.dtype not in FLOATS or not first.size:
        return False
    for a in args:  # noqa: SIM110 (a generator takes three times as long, in front of each op)
        if type(a) is np.ndarray and (a.dtype != first.dtype or not a.flags.aligned):
            return False
    return True


def _fit(*pairs):
    """Whether each array, where it is given, has the shape beside it."""
    for a, shape in pairs:  # noqa: SIM110
        if a is not None and a.shape != shape:
            return False
    return True


def _rows(x):
    channels = x.shape[-1] if x.ndim else 1
    return x.size // channels, channels


def _like(x):
    return np.empty(x.shape, x.dtype)


whole = np.ascontiguousarray

# --- convolution ----------------------------------------------------------------------------------------------------

TILE, FEWEST_TILES = 4, 8  # Winograd's outputs, each way; in so few tiles its weights cost more than they save
ALGORITHMS = "direct", "winograd"


class _Convolution:
    """The sizes of one, worked out once, and the algorithm of each of its three products."""

    def __init__(self, x_shape, w_shape, stride, pad, algorithm, lanes, limit):
        (R, S, C, O), (N, H, W, channels) = w_shape, x_shape
        self.window, self.stride = (R, S), pair(stride)
        (top, bottom), (left, right) = pads = resolve_padding(pad, (H, W), (R, S), self.stride)
        P, Q = output_size((H, W), (R, S), self.stride, pads)
        self.shape, self.start = (N, P, Q, O), (top, left)
        known = algorithm in (None, *ALGORITHMS) and channels == C
        self.fits = known and min(N, P, Q, O, C) > 0 and min(top, left, bottom, right) >= 0
        if (R, S, *self.stride) == (1, 1, 1, 1) and not any(map(any, pads)):
            N, H, W, P, Q = N * H * W, 1, 1, 1, 1  # every pixel for itself: pixels are images
        self.x, self.y = (N, H, W, C), (N, P, Q, O)
        self.forward, self.back = (
            self._choose(*ends, algorithm, lanes, limit) for ends in ((self.x, self.y), (self.y, self.x))
        )
        self.calls = self._call(False), self._call(True)

    def _choose(self, source, result, asked, lanes, limit):
        """'winograd' or 'direct'. Winograd's weights are four times as many: they want enough tiles to pay."""
        fits = self.window == (3, 3) and self.stride == (1, 1) and source[3] % lanes == result[3] % lanes == 0
        tiles = result[0] * -(-result[1] // TILE) * -(-result[2] // TILE)
        pays = min(result[1:3]) >= TILE - 1 and tiles >= FEWEST_TILES
        room = not limit or 36 * source[3] * result[3] * 8 <= limit
        return "winograd" if fits and (asked == "winograd" or (asked is None and pays and room)) else "direct"

    def _call(self, back):
        """The kernel's name and its numbers, up to whether there is a ReLU."""
        (N, H, W, K), (_, P, Q, O), (top, left) = *((self.y, self.x) if back else (self.x, self.y)), self.start
        if (self.back if back else self.forward) == "winograd":
            top, left = (2 - top, 2 - left) if back else (top, left)
            return "winograd", (N, H, W, K, P, Q, O, top, left, int(back))
        return "conv2d", (N, H, W, K, P, Q, O, *self.window, *self.stride, top, left, 1, 1, int(back))

    def run(self, x, w, y, *, back=False, packed=None, b=None, add=None, relu=False):
        """Write y from x, or, `back`, the gradient of the image from that of the output."""
        name, numbers = self.calls[back]
        getattr(_kernels, name)(x, w, packed, b, add, y, *numbers, int(relu))

    def weights(self, x, dy, dw):
        """Write the gradient of the weights."""
        if self.forward == "winograd":
            _kernels.winograd_weights(x, dy, dw, *self.x, *self.y[1:], *self.start)
        else:
            _kernels.conv2d_weights(x, dy, dw, *self.x, *self.y[1:], *self.window, *self.stride, *self.start, 1, 1)


_cached = lru_cache(1024)(_Convolution)


def _convolution(x, w, stride, pad, algorithm=None):
    """The convolution of x with w, or None where that is no business of the kernels."""
    if x.ndim != 4 or w.ndim != 4:
        return None
    if not isinstance(pad, int | str):
        pad = tuple(map(pair, pair(pad)))  # lists among them have no place in the cache
    lanes = VECTOR_BYTES[_State.isa] // x.itemsize
    conv = _cached(x.shape, w.shape, pair(stride), pad, algorithm, lanes, workspace_limit())
    return conv if conv.fits else None


def algorithm(x, w, *, stride=1, pad=0) -> str:
    """Which algorithm a convolution of these takes: 'im2col' where the kernels do not run it."""
    conv = _convolution(x, w, stride, pad) if enabled() and _known((x, w)) else None
    return conv.forward if conv else "im2col"


def conv2d_forward(x, w, b=None, *, stride=1, pad=0, algorithm=None):
    conv = _convolution(x, w, stride, pad, algorithm)
    if conv is None or not _fit((b, w.shape[3:])):
        return NotImplemented
    y = np.empty(conv.shape, x.dtype)
    conv.run(whole(x), whole(w), y, b=None if b is None else whole(b))
    return y


class Weights:
    """Weights (R, S, C, O) that do not change, in one form at a time: as they were given, or packed for a kernel."""

    KEPT = 2**22  # bytes up to which Winograd's weights, four times as many, are kept beside the plain ones

    def __init__(self, w):
        self.shape, self.dtype, self.ndim = w.shape, w.dtype, w.ndim
        self.w, self.packed, self.transformed = w, None, None
        self.lock = threading.Lock()

    def plain(self):
        """The weights as they were given."""
        w = self.w  # once: another thread may pack meanwhile
        if w is not None:
            return w
        R, S, C, O = self.shape
        panels = np.split(self.packed, range(R * S * C * self.wide, self.packed.size, R * S * C * self.wide))
        columns = [panel[: R * S * C * self._width(i)].reshape(R * S * C, -1) for i, panel in enumerate(panels)]
        return np.ascontiguousarray(np.concatenate(columns, axis=1)[:, :O]).reshape(self.shape)

    def _width(self, panel):
        return self.wide if self.shape[3] - panel * self.wide > self.wide // 2 else self.wide // 2

    def of(self, algorithm):
        """(w, packed) as the kernel of this algorithm takes them; several threads may ask at once."""
        with self.lock:
            if algorithm == "direct":
                if self.packed is None:
                    self.packed, self.w, self.transformed = self._packed(self.w), None, None
            elif self.w is None:
                self.w, self.packed = self.plain(), None
            if algorithm == "winograd" and self.transformed is None:
                self.transformed = self._transformed(self.w)
            return whole(
                self.w
            ) if self.w is not None else None, self.packed if algorithm == "direct" else self.transformed

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


def conv2d_add_relu(x, weights, b=None, shortcut=None, relu=True, *, stride=1, pad=0):
    conv = _convolution(x, weights, stride, pad)
    fits = conv and weights.dtype == x.dtype
    if not fits or not _fit((b, weights.shape[3:]), (shortcut, conv.shape)):
        return NotImplemented
    x, y, b = whole(x), np.empty(conv.shape, x.dtype), None if b is None else whole(b)
    w, packed = weights.of(conv.forward)
    conv.run(x, w, y, packed=packed, b=b, add=None if shortcut is None else whole(shortcut), relu=relu)
    return y


def conv2d_backward(dy, x, w, *, stride=1, pad=0, need_dx=True, need_db=True, dw=None, algorithm=None, add=None):
    conv = _convolution(x, w, stride, pad, algorithm)
    if conv is None or not _fit((dy, conv.shape), (add, x.shape), (dw, w.shape)) or not (dw is None or dw.flags.carray):
        return NotImplemented
    dy, x, w = whole(dy), whole(x), whole(w)
    dw = _like(w) if dw is None else dw
    conv.weights(x, dy, dw)
    dx = _like(x) if need_dx else None
    if need_dx:
        conv.run(dy, w, dx, back=True, add=None if add is None else whole(add))
    return dx, dw, channel_sum(dy) if need_db else None


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


# --- normalisation, ReLU, add -----------------------------------------------------------------------------------------


def channel_sum(x):
    x, total = whole(x), np.empty(x.shape[-1], x.dtype)
    _kernels.sums(x, total, *_rows(x))
    return total


def batchnorm_statistics(x):
    x = whole(x)
    mean, var = (np.empty(x.shape[-1], x.dtype) for _ in range(2))
    _kernels.statistics(x, mean, var, *_rows(x))
    return mean, var


def batchnorm_forward(x, gamma, beta, mean, rstd):
    return norm_add_relu_forward(x, gamma, beta, mean, rstd, None, False)


def norm_add_relu_forward(x, gamma, beta, mean, rstd, shortcut=None, relu=True):
    if not _fit(*((v, x.shape[-1:]) for v in (gamma, beta, mean, rstd)), (shortcut, x.shape)):
        return NotImplemented
    x, y, shortcut = whole(x), _like(x), None if shortcut is None else whole(shortcut)
    _kernels.norm_add_relu(x, *map(whole, (gamma, beta, mean, rstd)), shortcut, y, *_rows(x), int(relu))
    return y


def norm_add_relu_backward(dy, x, y, gamma, mean, rstd, *, relu=True, need_g=True, training=True):
    if not _fit(*((v, x.shape[-1:]) for v in (gamma, mean, rstd)), (dy, x.shape), (y, x.shape)) or (relu and y is None):
        return NotImplemented
    dy, x, dx = whole(dy), whole(x), _like(x)
    g = None if not need_g else _like(x) if relu else dy
    dgamma, dbeta = (np.empty(x.shape[-1], x.dtype) for _ in range(2))
    kept = g if relu else None
    arrays = dy, x, whole(y) if relu else None, *map(whole, (gamma, mean, rstd)), dx, kept, dgamma, dbeta
    _kernels.norm_add_relu_backward(*arrays, *_rows(x), int(training))
    return dx, g, dgamma, dbeta


def batchnorm_backward(dy, x, gamma, mean, rstd, *, training=True):
    options = {"relu": False, "need_g": False, "training": training}
    result = norm_add_relu_backward(dy, x, None, gamma, mean, rstd, **options)
    return result if result is NotImplemented else (result[0], *result[2:])


def batchnorm_eval_backward(dy, x, gamma, mean, rstd):
    return batchnorm_backward(dy, x, gamma, mean, rstd, training=False)


def relu_forward(x):
    x, y = whole(x), _like(x)
    _kernels.norm_add_relu(x, None, None, None, None, None, y, *_rows(x), 1)
    return y


def relu_backward(dy, y):
    if dy.shape != y.shape:
        return NotImplemented
    dy, y, dx = whole(dy), whole(y), _like(dy)
    _kernels.relu_backward(dy, y, dx, dy.size)
    return dx


def add_forward(branch, shortcut):
    if branch.shape != shortcut.shape:
        return NotImplemented
    branch, shortcut, y = whole(branch), whole(shortcut), _like(branch)
    _kernels.norm_add_relu(branch, None, None, None, None, shortcut, y, *_rows(branch), 0)
    return y


# --- pooling ------------------------------------------------------------------------------------------------------


def _window(x, kernel, stride, pad):
    """(output size, (kernel, stride, padding) as the kernel takes them); None where the op must say what is wrong."""
    if x.ndim != 4:
        return None, None
    kernel, stride = pair(kernel), pair(kernel if stride is None else stride)
    pads = resolve_padding(pad, x.shape[1:3], kernel, stride)
    size = output_size(x.shape[1:3], kernel, stride, pads)
    if min(size) < 1 or any(max(p) >= k or min(p) < 0 for p, k in zip(pads, kernel, strict=True)):
        return None, None
    return size, (*kernel, *stride, pads[0][0], pads[1][0])


def maxpool_forward(x, *, kernel, stride=None, pad=0):
    size, window = _window(x, kernel, stride, pad)
    if size is None:
        return NotImplemented
    x, y = whole(x), np.empty((len(x), *size, x.shape[3]), x.dtype)
    _kernels.maxpool(x, y, *x.shape, *size, *window)
    return y


def maxpool_backward(dy, x, y, *, kernel, stride=None, pad=0):
    size, window = _window(x, kernel, stride, pad)
    if size is None or not dy.shape == y.shape == (len(x), *size, x.shape[3]):
        return NotImplemented
    dy, x, y, dx = whole(dy), whole(x), whole(y), _like(x)
    _kernels.maxpool_backward(dy, x, y, dx, *x.shape, *size, *window)
    return dx


# --- the optimiser --------------------------------------------------------------------------------------------------


def _flat(g, *updated):
    """Whether these are rows of one length, all but g such as can be written."""
    return g.ndim == 1 and g.flags.c_contiguous and all(a.shape == g.shape and a.flags.carray for a in updated)


def square_sum(g):
    if not _flat(g):
        return NotImplemented
    total = np.empty(1, g.dtype)
    _kernels.square_sum(g, total, g.size)
    return total[0]


def sgd_update(w, g, velocity, *, lr, momentum, nesterov, decay, scale):
    if not _flat(g, w, velocity):
        return NotImplemented
    _kernels.sgd(w, g, velocity, w.size, float(lr), float(momentum), float(decay), float(scale), int(nesterov))


def adam_update(w, g, m, v, *, lr, betas, epsilon, steps, decay, decoupled, scale):
    if not _flat(g, w, m, v):
        return NotImplemented
    (b1, b2), correction = betas, (1 - betas[1] ** steps) ** 0.5
    rate = lr * correction / (1 - b1**steps)
    shrink, added = (1 - lr * decay, 0.0) if decoupled else (1.0, decay)
    numbers = (rate, b1, b2, epsilon * correction, added, shrink, scale)
    _kernels.adam(w, g, m, v, w.size, *map(float, numbers))
