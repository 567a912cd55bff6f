"""The algorithms that a convolution chooses from, and products beside the BLAS's, on one thread, in turns.

python benchmarks/bench_algorithms.py [--rounds 7]
"""

import sys
import time

import numpy as np
from minires.benchmarks import harness, watch

from minires import backend, ops
from minires.errors import ConfigError
from minires.fast import cpu

# (N, H, W, C), O, kernel, stride: the convolutions of ResNet-20 at 32x32, of ResNet-50 at 64x64 and at 224x224
CONVOLUTIONS = (
    *(((32, 32, 32, 16), 16, 3, 1), ((32, 16, 16, 32), 32, 3, 1), ((32, 8, 8, 64), 64, 3, 1)),
    *(((32, 32, 32, 16), 32, 3, 2), ((32, 16, 16, 32), 64, 3, 2), ((16, 70, 70, 3), 64, 7, 2)),
    *(((32, 15, 15, 64), 64, 3, 1), ((32, 8, 8, 128), 128, 3, 1), ((32, 4, 4, 256), 256, 3, 1)),
    *(((32, 2, 2, 512), 512, 3, 1), ((4, 56, 56, 64), 64, 3, 1), ((4, 7, 7, 512), 512, 3, 1)),
)
# pixels, C, O: products of ResNet-50 at 64x64
PRODUCTS = ((7200, 64, 256), (7200, 256, 64), (2048, 512, 128), (512, 1024, 256), (128, 512, 2048), (128, 2048, 512))
ALGORITHMS = ("im2col", "direct", "winograd")
PARTS = ("forward", "dx", "dw")


def timed(calls: dict, rounds: int) -> dict:
    """CPU seconds of each call in every round; they take turns, and each runs once before."""
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.thread_time()
            call()
            seconds[name].append(time.thread_time() - began)
    return seconds


def convolution(shape, O, kernel, stride):
    """FLOPs of one product, the calls by (algorithm, part), and what is chosen where nobody names one."""
    rng = np.random.default_rng(0)
    options = {"stride": stride, "pad": (kernel - 1) // 2}
    x, w = (rng.standard_normal(s, np.float32) for s in (shape, (kernel, kernel, shape[-1], O)))
    y = ops.conv2d_forward(x, w, **options)
    calls = {}
    for name in ALGORITHMS:
        if name == "winograd" and (kernel, stride) != (3, 1):
            continue
        how = {**options, "algorithm": name}
        calls[name, "forward"] = lambda how=how: ops.conv2d_forward(x, w, **how)
        calls[name, "dw"] = lambda how=how: ops.conv2d_backward(y, x, w, **how, need_dx=False, need_db=False)
        calls[name, "both"] = lambda how=how: ops.conv2d_backward(y, x, w, **how, need_db=False)
    return 2 * y.size * w[..., 0].size, calls, cpu.algorithm(x, w, **options)


def product(M, C, O):
    """The same for x (M, C) times w (C, O), by the kernels and by NumPy's BLAS."""
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s, np.float32) for s in ((M, C), (C, O), (M, O)))
    calls = {}
    for name, forward, backward in (
        ("kernel", ops.dense_forward, ops.dense_backward),
        ("BLAS", ops.dense_forward.as_read, ops.dense_backward.as_read),
    ):
        calls[name, "forward"] = lambda forward=forward: forward(x, w)
        calls[name, "dw"] = lambda backward=backward: backward(dy, x, w, need_dx=False)
        calls[name, "both"] = lambda backward=backward: backward(dy, x, w)
    return 2 * M * C * O, calls, "kernel"


def rates(flops, seconds) -> dict:
    """GFLOP/s of the definition, medians over the rounds, by algorithm and part; dx: what `both` takes beyond dw."""
    parts = {}
    for name in dict.fromkeys(name for name, _ in seconds):
        forward, dw, both = (np.array(seconds[name, part]) for part in ("forward", "dw", "both"))
        medians = {part: float(np.median(s)) for part, s in zip(PARTS, (forward, both - dw, dw), strict=True)}
        parts[name] = {part: flops / max(s, 1e-9) / 1e9 for part, s in medians.items()}
    return parts


def compare(title, cases, make, names, rounds) -> list[dict]:
    """Measure the cases, print them, and give their records."""
    rows, records = [], []
    for case in cases:
        flops, calls, chosen = make(*case)
        parts = rates(flops, timed(calls, rounds))
        cells = [" / ".join(f"{parts[name][p]:.0f}" for p in PARTS) if name in parts else "" for name in names]
        cells = [f"{cell} *" if name == chosen else cell for name, cell in zip(names, cells, strict=True)]
        rows.append([label(case), *cells])
        records.append({"case": case, "chosen": chosen, "gflops": parts})
    harness.print_table(title, ["", *names], rows)
    return records


def label(case) -> str:
    """(32, 8, 8, 64), 64, 3, 1 -> '32x8x8x64 -> 64, 3x3 / 1'; M, C, O -> '128x512 @ 512x64'."""
    match case:
        case (shape, O, kernel, stride):
            return f"{'x'.join(map(str, shape))} -> {O}, {kernel}x{kernel} / {stride}"
        case (M, C, O):
            return f"{M}x{C} @ {C}x{O}"


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench algorithms`."""
    if not cpu.enabled():
        raise ConfigError(f"bench algorithms: needs the compiled kernels, but the ops run by {cpu.description()}")
    facts = watch.machine(1)
    watch.print_machine(facts)
    with backend.blas_threads(1), cpu.use_threads(1), watch.contention() as load:
        title = "GFLOP/s of the definition, forward / dx / dw; * is what is chosen"
        rows = compare(title, CONVOLUTIONS, convolution, ALGORITHMS, options["rounds"])
        title = "Products, GFLOP/s, forward / dx / dw"
        rows += compare(title, PRODUCTS, product, ("kernel", "BLAS"), options["rounds"])
    print(load.warning() or "No contention seen.")
    return harness.record("algorithms", facts, options, rows)


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "algorithms", *sys.argv[1:]]))
