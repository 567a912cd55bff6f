"""The ways to convolve that nn/fastconv.py chooses from, and products in pieces, on one thread, in turns.

python benchmarks/bench_ways.py [--rounds 7]
"""

import sys
import time
from unittest.mock import patch

import numpy as np
from minires.benchmarks import harness, watch

from minires import backend, nn
from minires.nn.fastconv import FastConv, Kernels
from minires.ops import products

# (N, H, W, C) -> C channels by a 3x3 kernel: what one of two processes sees of ResNet-50 at 64x64 with 32 images and at
# 224x224 with 8, and of ResNet-20 at 32x32 with 32
SHAPES = (
    *((16, 15, 15, 64), (16, 8, 8, 128), (16, 4, 4, 256), (16, 2, 2, 512)),
    *((4, 56, 56, 64), (4, 28, 28, 128), (4, 14, 14, 256), (4, 7, 7, 512)),
    *((16, 32, 32, 16), (16, 16, 16, 32), (16, 8, 8, 64)),
)
WAYS = {"direct": "im2col", "rowwise": "row by row", "tapwise": "tap by tap", 2: "Winograd, 2x2", 4: "Winograd, 4x4"}
# (M, K) @ (K, O): pixels by weights, the transforms of Winograd's tiles, the small networks' columns
PRODUCTS = ((3600, 64, 256), (3600, 256, 64), (1024, 128, 512), (256, 256, 1024), (36, 36, 16384), (16384, 144, 16))
PIECES = (1, 10**5, 10**6, 10**7)


def timed(calls: dict, rounds: int) -> dict:
    """Seconds of each call in every round; they take turns, and each runs once before."""
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def convolution(shape, way):
    """Forward and backward of one layer by one way, its kernel's transforms made anew as in each step."""
    C, rng = shape[-1], np.random.default_rng(0)
    conv = nn.Conv2d("conv", C, C, 3, pad=1)
    layer = FastConv(conv, conv.w, None, Kernels())
    chosen = layer._way(shape)
    layer._way = lambda _: way
    x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))

    def call():
        layer.kernels.made.clear()
        layer.forward(x)
        layer.backward(dy)

    return call, chosen


def compare_ways(rounds) -> list[dict]:
    rows, records = [], []
    for shape in SHAPES:
        made = {way: convolution(shape, way) for way in WAYS}
        chosen = made["direct"][1]
        seconds = timed({way: call for way, (call, _) in made.items()}, rounds)
        cells = [f"{harness.Spread.of(seconds['direct']).median * 1e3:.2f} ms"]
        for way in list(WAYS)[1:]:
            ratio = harness.Spread.of([a / b for a, b in zip(seconds[way], seconds["direct"], strict=True)])
            cells.append(f"{ratio.median:.2f}")
        cells = [f"{cell} *" if way == chosen else cell for way, cell in zip(WAYS, cells, strict=True)]
        rows.append(["x".join(map(str, shape)), *cells])
        records.append({"shape": shape, "chosen": chosen, "seconds": {str(way): s for way, s in seconds.items()}})
    title = "3x3 convolutions, forward and backward: im2col's time, the others' over it; * is what is taken"
    harness.print_table(title, ["shape", *WAYS.values()], rows)
    return records


def compare_pieces(rounds) -> list[dict]:
    rows, records, rng = [], [], np.random.default_rng(0)

    def product(a, b, most):
        products.unpacked_product = lambda turned=False: most
        products.product(a, b)

    with patch.object(products, "unpacked_product"):  # put back whatever happens
        for M, K, O in PRODUCTS:
            a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, O), np.float32)
            seconds = timed({most: lambda most=most, a=a, b=b: product(a, b, most) for most in PIECES}, rounds)
            rates = {most: 2 * M * K * O / harness.Spread.of(s).median for most, s in seconds.items()}
            rows.append([f"({M}, {K}) @ ({K}, {O})", *(f"{rate / 1e9:.0f}" for rate in rates.values())])
            records.append({"product": (M, K, O), "seconds": {str(most): s for most, s in seconds.items()}})
    title = "Products in pieces of so many multiplications, GFLOP/s; 1: whole"
    harness.print_table(title, ["product", *(f"{most:,}" for most in PIECES)], rows)
    return records


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench ways`."""
    facts = watch.machine(1)
    watch.print_machine(facts)
    with backend.blas_threads(1), watch.contention() as load:
        rows = compare_ways(options["rounds"]) + compare_pieces(options["rounds"])
    print(load.warning() or "No contention seen.")
    return harness.record("ways", facts, options, rows)


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "ways", *sys.argv[1:]]))
