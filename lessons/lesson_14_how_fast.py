"""Lesson 14: How fast can a convolution be?

A ladder of seven ways to compute one 3x3 convolution (stride 1, padding 1), from plain loops over im2col and Winograd's
tiles to the kernels in C: what each multiplies, what it moves, what it loses in rounding, and where it stands under
the roofline of the machine that it runs on. Nothing is asserted about seconds.
"""

import sys
import time
from contextlib import contextmanager

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from minires.lessons.harness import Claim, Lesson, assert_claims, at_least_one, note
from minires.lessons.shown import CFunction
from minires.lessons.terminal import run
from numpy.lib.stride_tricks import sliding_window_view

from minires import ops
from minires.backend import blas_threads
from minires.fast import cpu
from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, PAPER, PINK, TEXT, dress, figure, legend
from minires.ops import conv, naive
from minires.run import environment

HALF, TWICE = 2**-0.5, 2**0.5
POINTS = {"F(2x2)": (0, 1, -1), "F(4x4)": (0, HALF, -HALF, TWICE, -TWICE)}
USUAL, USUAL_NAME = (0, 1, -1, 2, -2), "F(4x4) at 0, ±1, ±2"


# the rungs that the library does not have


def by_rows(x, w, pad=1):
    """y = sum over the rows r of the kernel of X[r:] w[r]: X holds, side by side, the S pixels around each place.

    X is S copies of x, where im2col's columns are R S of them: one copy serves all rows of the kernel.
    """
    R, S, C, O = w.shape
    padded = ops.zero_pad2d_forward(x, pad)
    N, H, W, _ = padded.shape
    P, Q = H - R + 1, W - S + 1
    X = conv.im2col(padded, (1, S), (1, 1)).reshape(N, H, Q, S * C)
    parts = (X[:, r : r + P].reshape(N, P * Q, S * C) @ w[r].reshape(S * C, O) for r in range(R))
    y = next(parts)
    for part in parts:
        y += part
    return y.reshape(N, P, Q, O)


def matrices(points):
    """(A, G, B^T) of Winograd's F(m x m, 3x3) with values at these points and at infinity, n = m + 2 in all.

    In one dimension: the product of two polynomials, of m and of 3 coefficients, has n = m + 2. It is had from its
    values at n points, V_n^-1 [(V_m a) * (V_3 g)], where V_k has the powers 0 .. k - 1 of a point in each row.
    Transposed as a map of a it is the correlation that a convolution is made of: V_m^T [(V_3 g) * (V_n^-T d)].
    """
    n = len(points) + 1

    def powers(k):
        at_infinity = np.arange(k) == k - 1  # only the highest power counts there
        return np.array([*(np.float64(p) ** np.arange(k) for p in points), at_infinity])

    # a factor may move from B to G; by these B has no fractions where the points are whole numbers
    scale = np.array([*(np.prod([p - q for q in points if q != p]) for p in points), 1.0])[:, None]
    return powers(n - 2), powers(3) / scale, np.linalg.inv(powers(n)).T * scale


def both_ways(L, d):
    """L d L^T over the first two axes of d."""
    half = (L @ d.reshape(len(d), -1)).reshape(len(L), d.shape[1], -1)
    return (L @ half).reshape(len(L), len(L), *d.shape[2:])


def winograd(x, w, points, pad=1):
    """y = A^T [ (G w G^T) * (B^T x B) ] A for each tile of m x m outputs, which sees n x n inputs; * is cell by cell.

    Summed over the channels each of the n x n cells is a matrix product, (tiles, C) @ (C, O).
    """
    A, G, BT = (matrix.astype(x.dtype) for matrix in matrices(points))
    n, m = A.shape
    N, P, Q, C = len(x), x.shape[1] + 2 * pad - 2, x.shape[2] + 2 * pad - 2, x.shape[3]
    down, across = -(-P // m), -(-Q // m)  # tiles; the last may stick out
    padded = ops.zero_pad2d_forward(x, ((pad, pad + down * m - P), (pad, pad + across * m - Q)))
    tiles = sliding_window_view(padded, (n, n), (1, 2))[:, ::m, ::m].transpose(4, 5, 0, 1, 2, 3)
    M = both_ways(BT, tiles).reshape(n, n, -1, C) @ both_ways(G, w)
    y = both_ways(A.T, M).reshape(m, m, N, down, across, -1).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(N, down * m, across * m, -1)[:, :P, :Q]


LESSON = Lesson(
    number=14,
    title="How fast can a convolution be?",
    question="Half of what ResNet-50 computes, and nearly all of what smaller residual networks do, is one sum: the "
    "3x3 convolution. Of seven ways to compute it, which multiply less, which move less, and what does each lose in "
    "rounding?",
    idea=r"""
    An output is a sum over nine pixels and all channels, $y_{pqo} = \sum x_{p+r,q+s,c} \, w_{rsco}$: 9 multiplications
    for each output and channel of the image. The rungs of the ladder, each with its code below as it runs:

    - 1, loops. The definition, at half a microsecond of Python a product or more: the interpreter's time, not the
      machine's.
    - 2, im2col. Copy the nine pixels of every output side by side; then the whole sum is one matrix product, which a
      BLAS does well. The price is nine copies of the image.
    - 3, one copy a row. Copy the three pixels of a row side by side; row r of the kernel meets that copy r rows further
      down. A third of the copies, but three products to add up.
    - 4 and 5, Winograd's tiles. The product of two polynomials is known from its values at enough points, one
      multiplication a point. Turned round, that is a correlation: m outputs and 3 weights take $n = m + 2$ points. For
      a tile of m x m outputs, $y = A^T [(G \, w \, G^T) \cdot (B^T x \, B)] A$ has 16 products where the sum has 36
      (m = 2), and 36 where it has 144 (m = 4). The rows of A and G are powers of the points, B comes from the inverse
      of such a matrix.
    - 6, direct, in C. Nothing is copied that does not stay in the cache. A tile of the result, six pixels times two
      vectors of channels, lies in registers while all that it is a sum of passes by: two vectors of weights and six
      numbers are read for every twelve multiply-adds of vectors (two and eight for sixteen with AVX-512).
    - 7, Winograd's tiles in C, by the same inner loop. Transformed tiles never leave the cache.

    The roofline says what holds a rung back: the machine does so many operations a second, and moves so many bytes. A
    rung's rate is that of the sum as defined, 18 operations for each output and channel, however it came to the result.
    So Winograd may stand above the roof; its own is 2.25 or 4 times as high. Bytes are counted as if there were no
    cache. That is why rung 3 seems to move more than rung 2: its two additions read and write y once more. They find y
    in the cache, and the rung is the faster one.

    Multiplying less has its price in rounding, but not always. At 64 channels F(2x2) loses no more than the sum itself:
    it adds up 64 products where the sum has 576. F(4x4) loses five to six times as much at the usual points 0, ±1 and
    ±2; at 0, ±1/√2 and ±√2, which the kernels take, two to three times. At 256 channels it is ten times and five times.
    """,
    look_for="Multiplications: what Winograd's tiles leave out, and what their transforms put back. The roof: who does "
    "every product of the sum can come up to it, and only who leaves some out can stand above it. Rounding, the price: "
    "the line of F(2x2) crosses that of im2col, and F(4x4) at the kernels' points stays well below the usual ones.",
    wrong_if="Two rungs differed by more than rounding, F(4x4) took another number of products than 36 where the sum "
    "takes 144, or the usual points rounded as well as those of the kernels.",
    exercise="With few channels Winograd's tiles in NumPy lose to one copy a row: `minires lesson 14 --channels 16`. "
    "Which of the two numbers beside their bars has grown, and why did the other not? What will they be at 8 channels?",
    next_try="minires lesson 14 --channels 16",
    sources=(
        "K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks for Document Processing, "
        "2006, section 3 (im2col)",
        "A. Lavin, S. Gray, arXiv:1509.09308, sections 3 and 4 (Winograd's tiles)",
        "B. Barabasz et al., arXiv:1803.10986 (which points)",
        "E. Georganas et al., arXiv:1808.05567 (direct convolution, tiles of the result in registers)",
        "S. Williams, A. Waterman, D. Patterson, Roofline, CACM 52(4), 2009",
    ),
    shows=(
        naive.conv2d_forward,
        conv.im2col,
        ops.conv2d_forward,
        by_rows,
        matrices,
        winograd,
        both_ways,
        CFunction("dot"),
        CFunction("inputs", "winograd.c"),
        CFunction("taps", "winograd.c"),
        CFunction("outputs", "winograd.c"),
    ),
    quick={"seeds": 2, "rounds": 1},
)

RUNGS = {  # name -> x, w, pad -> y
    "loops": lambda x, w, pad=1: naive.conv2d_forward(x, w, pad=pad),
    "im2col": lambda x, w, pad=1: ops.conv2d_forward(x, w, pad=pad, algorithm="im2col"),
    "one copy a row": by_rows,
    "F(2x2)": lambda x, w, pad=1: winograd(x, w, POINTS["F(2x2)"], pad),
    "F(4x4)": lambda x, w, pad=1: winograd(x, w, POINTS["F(4x4)"], pad),
    "C, direct": lambda x, w, pad=1: ops.conv2d_forward(x, w, pad=pad, algorithm="direct"),
    "C, F(4x4)": lambda x, w, pad=1: ops.conv2d_forward(x, w, pad=pad, algorithm="winograd"),
}
COMPILED = ("C, direct", "C, F(4x4)")
VECTOR = 16  # numbers in the longest vector: channels come in multiples of it where the kernels take Winograd's tiles
MAP = {"size": (6, 7), "channels": 16}  # on which the loops run too
CHANNELS = (4, 16, 64, 256)  # at which rounding is measured
AT = 64  # and judged


def work(name, N, P, Q, C, O) -> dict:
    """What a rung does for P x Q outputs of N images, by formula.

    products    multiplications of a number with a weight
    constants   multiplications by the numbers in A, G and B
    made        numbers in the arrays that it makes on the way
    moved       numbers read and written, as if no cache kept them until they are used again: x, w and y once, and what
                is made once when it is written and once each time it is used
    """
    x, y, w, direct = N * P * Q * C, N * P * Q * O, 9 * C * O, 9 * N * P * Q * C * O
    if name == "loops":  # each product reads both factors and the sum, and writes the sum
        return {"products": direct, "constants": 0, "made": 0, "moved": 4 * direct}
    if name == "im2col":
        return {"products": direct, "constants": 0, "made": 9 * x, "moved": x + w + y + 2 * 9 * x}
    if name == "one copy a row":  # two more arrays of the size of y, read, and added to what is read and written
        X = 3 * N * (P + 2) * Q * C
        return {"products": direct, "constants": 0, "made": X, "moved": x + w + y + X + 3 * 3 * x + 2 * 4 * y}
    if name == "C, direct":  # the weights in the order of the loops
        return {"products": direct, "constants": None, "made": w, "moved": x + y + 3 * w}
    m = int(name[-2])
    n, tiles = m + 2, N * -(-P // m) * -(-Q // m)
    U, V, M = n * n * C * O, n * n * tiles * C, n * n * tiles * O
    if name in COMPILED:  # V and M stay in the cache
        return {"products": tiles * U, "constants": None, "made": U, "moved": x + w + y + 2 * U}
    constants = n * n * 2 * n * tiles * C + n * 3 * (n + 3) * C * O + m * n * (m + n) * tiles * O
    return {"products": tiles * U, "constants": constants, "made": U + V + M, "moved": x + w + y + 2 * (U + V + M)}


class Counted:
    """A number that counts the multiplications in which it meets one of its kind, or a constant."""

    def __init__(self, value, tally):
        self.value, self.tally = value, tally

    def __mul__(self, other):
        self.tally["products" if isinstance(other, Counted) else "constants"] += 1
        return Counted(self.value * getattr(other, "value", other), self.tally)

    def __add__(self, other):
        return Counted(self.value + getattr(other, "value", other), self.tally)

    __rmul__, __radd__ = __mul__, __add__

    def __float__(self):
        return float(self.value)


@contextmanager
def watched(module, name):
    """Inside, a list of the sizes of the arrays that each call of a function was given and gave."""
    real, seen = getattr(module, name), []

    def noting(*args):
        result = real(*args)
        seen.append([a.size for a in (*args, result) if isinstance(a, np.ndarray)])
        return result

    setattr(module, name, noting)
    try:
        yield seen
    finally:
        setattr(module, name, real)


def counted(name, x, w) -> dict:
    """Multiplications, and sizes of what is made, as in `work`: counted while the rung runs, without padding."""
    tally = {"products": 0, "constants": 0}

    def wrapped(a):
        numbers = np.empty(a.shape, object)
        numbers.flat = [Counted(value, tally) for value in a.flat]
        return numbers

    with watched(conv, "im2col") as columns, watched(sys.modules[__name__], "both_ways") as transforms:
        RUNGS[name](wrapped(x), wrapped(w), pad=0)
    made = sum(result for _, result in columns)
    if transforms:
        (*_, V), (*_, U), (_, M, _) = transforms
        made += U + V + M
    return tally | {"made": made}


def left_out(channels: int) -> dict[str, str]:
    """The rungs that cannot run here, each with the reason."""
    if not cpu.enabled():
        return dict.fromkeys(COMPILED, f"the kernels in C are left out: {cpu.description()}")
    why = f"the kernels take Winograd's tiles where the channels are a multiple of {VECTOR}"
    return {"C, F(4x4)": why} if channels % VECTOR else {}


def drawn(seed: int, shape, outputs: int, dtype=np.float64):
    """Numbers x and weights w of a normal distribution, for sums of variance 1."""
    rng, C = np.random.default_rng(seed), shape[-1]
    x, w = rng.standard_normal(shape), rng.standard_normal((3, 3, C, outputs)) / (9 * C) ** 0.5
    return x.astype(dtype), w.astype(dtype)


def measure(
    *, channels: int = 64, size: int = 32, images: int = 4, rounds: int = 10, seeds: int = 5, seed: int = 0
) -> dict:
    """What each rung multiplies, moves and loses in rounding; its rate on one thread beside the machine's.

    channels  of the image and of the result, where the rungs are timed
    size      pixels of the map's side, there
    images    images, there
    rounds    how often each rung is timed; the best time counts
    seeds     how many random images and kernels are compared
    seed      the first of them
    """
    knobs = dict(locals())
    at_least_one(channels=channels, size=size, images=images, rounds=rounds, seeds=seeds)
    absent = left_out(channels)
    some_seeds = range(seed, seed + seeds)
    small = drawn(seed, (1, 10, 10, 2), 3)
    with blas_threads(1), cpu.use_threads(1):
        return {
            "knobs": knobs,
            "absent": absent,
            "kernels": cpu.description(),
            "processor": environment("cpu")["machine"]["processor"],
            "work": {name: work(name, images, size, size, channels, channels) for name in RUNGS},
            "counted": {name: counted(name, *small) for name in RUNGS if name not in COMPILED},
            "formula": {name: work(name, 1, 8, 8, 2, 3) for name in RUNGS if name not in COMPILED},
            "differences": [_differences(s) for s in some_seeds],
            "rounding": {str(C): [_rounding(C, s) for s in some_seeds] for C in CHANNELS},
            "rates": _rates([name for name in RUNGS if name not in absent], channels, size, images, rounds, seed),
            "roof": _roof(rounds),
        }


def _differences(seed: int) -> dict[str, float]:
    """How far each rung is from the loops in float64: the largest difference, over the largest number."""
    absent, channels = left_out(MAP["channels"]), MAP["channels"]
    x, w = drawn(seed, (1, *MAP["size"], channels), channels)
    right = RUNGS["loops"](x, w)
    others = (name for name in RUNGS if name != "loops" and name not in absent)
    return {name: float(abs(RUNGS[name](x, w) - right).max() / abs(right).max()) for name in others}


def _rounding(channels: int, seed: int) -> dict[str, float]:
    """The error of each rung in float32, over the result: of the root mean squares, on a map of 16x16."""
    absent = left_out(channels)
    x, w = drawn(seed, (1, 16, 16, channels), channels, np.float32)
    right = RUNGS["im2col"](x.astype(np.float64), w.astype(np.float64))
    rungs = {name: rung for name, rung in RUNGS.items() if name != "loops" and name not in absent}
    rungs[USUAL_NAME] = lambda x, w: winograd(x, w, USUAL)
    return {name: float(np.linalg.norm(rung(x, w) - right) / np.linalg.norm(right)) for name, rung in rungs.items()}


def _rates(names, channels, size, images, rounds, seed) -> dict[str, float]:
    """FLOP/s of the sum as it is defined, two for each of its products, however a rung came to it."""
    cases, best = {}, dict.fromkeys(names, 0.0)
    for name in names:
        shape = (1, *MAP["size"], MAP["channels"]) if name == "loops" else (images, size, size, channels)
        cases[name] = drawn(seed, shape, shape[-1], np.float32)
        RUNGS[name](*cases[name])  # the first time is not counted
    for _ in range(rounds):
        for name, (x, w) in cases.items():
            start = time.perf_counter()
            y = RUNGS[name](x, w)
            best[name] = max(best[name], 18 * y.size * x.shape[-1] / (time.perf_counter() - start))
    return best


def _roof(rounds: int) -> dict[str, float]:
    """FLOP/s of a float32 matrix product in the cache, bytes/s of a copy that no cache holds; both on one thread."""
    a, b, c = (np.full((320, 320), value, np.float32) for value in (1, 2, 0))
    source, target = (np.full(2**24, value, np.float32) for value in (1, 2))

    def rate(amount, times, call):
        best = float("inf")
        for _ in range(1 + times):
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        return amount / best

    return {
        "product": rate(2 * 320**3, 20 * rounds, lambda: np.matmul(a, b, out=c)),
        "copy": rate(2 * source.nbytes, rounds, lambda: np.copyto(target, source)),
    }


def check(result: dict) -> list[Claim]:
    """All rungs give the same; what they multiply and make is what the formulas say; rounding. Nothing about speed."""
    compiled = set(COMPILED) & set(result["differences"][0])
    numpy = set(result["differences"][0]) - compiled
    absent = "" if compiled else result["absent"][COMPILED[0]]

    def worst(names):
        return max((seen[name] for seen in result["differences"] for name in names), default=None)

    tallies, formula = result["counted"], result["formula"]
    off = {
        key: max(abs(found[key] - formula[name][key]) for name, found in tallies.items())
        for key in ("products", "constants", "made")
    }
    direct = tallies["im2col"]["products"]
    copies = tallies["im2col"]["made"] / tallies["one copy a row"]["made"]
    claims = [
        Claim("float64: NumPy's rungs, largest difference from the loops", worst(numpy), 0, 1e-10),
        Claim("float64: the kernels in C, the same", worst(compiled), 0, 1e-10, absent),
        Claim("multiplications: counted, less the formula", off["products"] + off["constants"], 0, 0),
        Claim("numbers in arrays made on the way: counted, less the formula", off["made"], 0, 0),
        Claim("multiplications: the sum's / F(2x2)'s", direct / tallies["F(2x2)"]["products"], 2.25, 2.25),
        Claim("multiplications: the sum's / F(4x4)'s", direct / tallies["F(4x4)"]["products"], 4, 4),
        Claim("copies on a map of 8x8: im2col's / one a row", copies, 2.4, 2.4),
        *_rounding_claims(result, absent),
        *_rate_claims(result),
    ]
    return assert_claims(claims, LESSON, result)


def _rounding_claims(result: dict, absent: str) -> list[Claim]:
    seen = result["rounding"][str(AT)]
    error = {name: float(np.mean([errors[name] for errors in seen])) for name in seen[0]}
    direct, tiles = (error.get(name) for name in COMPILED)
    return [
        Claim(f"rounding, {AT} channels: F(2x2) / im2col", error["F(2x2)"] / error["im2col"], 0.5, 1.6),
        Claim(f"rounding, {AT} channels: F(4x4) / im2col", error["F(4x4)"] / error["im2col"], 1.5, 5),
        Claim(f"rounding, {AT} channels: {USUAL_NAME} / im2col", error[USUAL_NAME] / error["im2col"], 3, 11),
        Claim(f"rounding, {AT} channels: {USUAL_NAME} / F(4x4)", error[USUAL_NAME] / error["F(4x4)"], 1.6, 2.8),
        Claim(f"rounding, {AT} channels: C, F(4x4) / C, direct", None if absent else tiles / direct, 1.5, 6, absent),
    ]


def _rate_claims(result: dict) -> list[Claim]:
    """To know, not to judge."""
    roof, rates, absent = result["roof"], result["rates"], result["absent"]
    claims = [
        Claim("roof, one thread: GFLOP/s of a matrix product", roof["product"] / 1e9),
        Claim("roof, one thread: GB/s of a copy", roof["copy"] / 1e9),
    ]
    for name in RUNGS:
        rate = None if name in absent else rates[name] / 1e9
        claims.append(Claim(f"GFLOP/s of the sum: {name}", rate, skipped=absent.get(name, "")))
    return claims


def plot(result: dict):
    """Multiplications, numbers moved, the roofline with the rungs under and over it, rounding by channels."""
    knobs = result["knobs"]
    title = f"A 3x3 convolution, {knobs['channels']} channels, {knobs['size']}x{knobs['size']} pixels"
    fig, spare = figure(title, panels=2, height=9.4, note=note(LESSON, result))
    for ax in spare:
        ax.remove()
    axes = list(fig.subplots(2, 2).flat)
    for ax in axes:
        dress(ax)
    names = [name for name in RUNGS if name not in result["absent"]]
    _draw_products(axes[0], result, names)
    _draw_moved(axes[1], result, names)
    _draw_roofline(axes[2], result)
    _draw_rounding(axes[3], result)
    return fig


def _numbered(name: str) -> str:
    return f"{list(RUNGS).index(name) + 1}  {name}"


def _draw_products(ax, result, names):
    each = result["work"]["im2col"]["products"] / 9
    products, constants = ([(result["work"][n][key] or 0) / each for n in names] for key in ("products", "constants"))
    ax.barh(names, products, color=BLUE, height=0.6, label="with a weight")
    bars = ax.barh(names, constants, left=products, color=PINK, height=0.6, label="with a constant of A, G, B")
    texts = [f"{p:.3g} + {c:.2g}" if c else f"{p:.3g}" for p, c in zip(products, constants, strict=True)]
    ax.bar_label(bars, texts, padding=5, fontsize=TEXT - 1, color=INK)
    ax.set_xlim(0, 1.25 * max(map(sum, zip(products, constants, strict=True))))
    ax.set_xlabel("for each output and channel")
    _dress_bars(ax, names)
    legend(ax, "Multiplications", columns=2)


def _draw_moved(ax, result, names):
    w = result["work"]["C, direct"]["made"]
    least = result["work"]["C, direct"]["moved"] - 2 * w
    times = [result["work"][name]["moved"] / least for name in names]
    bars = ax.barh(names, times, color=GREEN, height=0.6)
    ax.bar_label(bars, [f"{t:,.0f}" if t > 100 else f"{t:.1f}" for t in times], padding=5, fontsize=TEXT - 1, color=INK)
    ax.set_xscale("log")
    ax.set_xlim(0.8, max(times) * 4)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("times x, w and y read or written once")
    _dress_bars(ax, names)
    _head(ax, "Bytes read and written, were there no cache")


def _dress_bars(ax, names):
    ax.set_yticks(range(len(names)), [_numbered(name) for name in names])
    ax.tick_params(axis="y", colors=INK)
    ax.invert_yaxis()
    ax.grid(False, axis="y")


def _draw_roofline(ax, result):
    knobs, roof = result["knobs"], {key: rate / 1e9 for key, rate in result["roof"].items()}
    flops = 18 * knobs["images"] * (knobs["size"] * knobs["channels"]) ** 2
    at = {name: (flops / 4 / result["work"][name]["moved"], rate / 1e9) for name, rate in result["rates"].items()}
    _, slow = at.pop("loops")
    corner = roof["product"] / roof["copy"]
    left, right = min(corner, *(x for x, _ in at.values())) / 5, 12 * max(x for x, _ in at.values())
    low = min(left * roof["copy"], *(rate for _, rate in at.values())) / 4
    ax.plot([left, corner, right], [left * roof["copy"], roof["product"], roof["product"]], color=INK, linewidth=2)
    beside = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": TEXT - 2}
    ax.annotate("the roof", (right, roof["product"]), color=INK, **beside)
    for name, m in (("F(2x2)", 2), ("F(4x4)", 4)):
        high = roof["product"] * 9 * m * m / (m + 2) ** 2
        ax.plot([high / roof["copy"], right], [high, high], color=MUTED, linestyle="--", linewidth=1.2)
        ax.annotate(f"{name}'s", (right, high), color=MUTED, **beside)
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, roof["product"] * 6))
    _draw_points(ax, at)
    said = f"roof: {roof['product']:.0f} GFLOP/s of a product, {roof['copy']:.0f} GB/s of a copy\n"
    said += f"{_numbered('loops')}: far below, {slow:.2g} GFLOP/s"
    ax.text(0.98, 0.03, said, transform=ax.transAxes, ha="right", fontsize=TEXT - 2, color=INK, linespacing=1.4)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis is ax.yaxis else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    ax.set_xlabel("operations of the sum for each byte moved")
    ax.set_ylabel("GFLOP/s of the sum")
    _head(ax, f"Under the roof, and over it: one thread, {result['processor']}")


def _head(ax, text):
    ax.set_title(text, loc="left", fontsize=TEXT, color=INK)


def _draw_points(ax, points: dict):
    """Each with its name to the right of all, moved apart where they lie close."""
    low, high = ax.get_ylim()
    column, free = 1.3 * max(x for x, _ in points.values()), float("inf")
    for name, (x, rate) in sorted(points.items(), key=lambda item: -item[1][1]):
        color, marker = (ORANGE, "s") if name in COMPILED else (BLUE, "o")
        y = min(rate, free)
        free = y * (low / high) ** 0.055
        ax.plot([x, column], [rate, y], color=color, linewidth=0.8)
        ax.plot(x, rate, color=color, marker=marker, markersize=8, markeredgecolor=PAPER, zorder=4)
        under = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
        ax.text(column, y, f" {_numbered(name)}", va="center", fontsize=TEXT - 1, color=color, bbox=under)


def _draw_rounding(ax, result):
    looks = {
        "im2col": (INK, "-", "o"),
        "F(2x2)": (GREEN, "-", "^"),
        "F(4x4)": (BLUE, "-", "s"),
        USUAL_NAME: (PINK, "-", "D"),
        "C, direct": (INK, ":", "o"),
        "C, F(4x4)": (BLUE, ":", "s"),
    }
    for name, (color, line, marker) in looks.items():
        seen = {
            int(C): [errors[name] for errors in all_seeds if name in errors]
            for C, all_seeds in result["rounding"].items()
        }
        at = [C for C, errors in seen.items() if errors]
        if not at:
            continue
        low, mean, high = (np.array([f(seen[C]) for C in at]) for f in (np.min, np.mean, np.max))
        ax.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        ax.plot(at, mean, color=color, linestyle=line, marker=marker, markersize=5, linewidth=1.8, label=name)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(CHANNELS, CHANNELS)
    ax.set_xlabel("channels")
    ax.set_ylabel("error of float32, over the result")
    legend(ax, "Rounding (band: the seeds)", columns=3)


def main(argv=None) -> int:
    """Run the lesson from the command line."""
    return run(LESSON, measure, check, plot, argv)


if __name__ == "__main__":
    sys.exit(main())
