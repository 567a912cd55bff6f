"""Op by op, at the shapes that occur in the course's ResNet-50: time, rate, share of the step, against PyTorch.

minires bench ops [--batch 32] [--size 64]       every op, forward and backward
minires bench ops --chunks                       how many elements a pass should work on
minires bench ops --workspace                    how many bytes of columns a product should take
"""

import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from math import prod
from unittest.mock import patch

import numpy as np
from minires.benchmarks import harness, watch

from minires import backend, nn, ops, resnet50
from minires.fast.cpu import as_read
from minires.ops import conv

CLASSES = 6
TURN_SECONDS = 0.1  # an op is repeated for about so long in one turn


@dataclass(frozen=True)
class Case:
    """One op at one shape. `x` has no batch; `options` are the op's own."""

    kind: str
    x: tuple
    w: tuple = ()
    options: tuple = ()

    def __str__(self):
        options = dict(self.options)
        window = self.w[:-2] or options.get("kernel")  # a dense layer has none
        stride = options.get("stride", (1, 1))[0]
        what = self.kind + (f" {window[0]}x{window[1]}" if window else "") + (f"/{stride}" if stride > 1 else "")
        return f"{what}  {'x'.join(map(str, self.x))}" + (f" -> {self.w[-1]}" if self.w else "")

    def work(self, N, y_shape, direction):
        """(amount, unit): floating-point operations of a matrix product, or bytes when each array moves once."""
        if self.w:
            products = 1 if direction == "forward" or self.kind == "first conv" else 2
            return 2 * products * N * prod(y_shape[1:-1]) * prod(self.w), "GFLOP/s"
        x, y = 4 * N * prod(self.x), 4 * prod(y_shape)
        arrays = {"norm": (x + y, x + y + x), "relu": (x + y, x + y + y), "add": (x + x + y, 0)}
        return arrays.get(self.kind, (x + y, x + y))[direction == "backward"], "GB/s"


def cases(size) -> Counter:
    """Case -> how often it occurs in the network, read off a forward pass."""
    model, found = resnet50((size, size, 3), CLASSES), Counter()

    def describe(m, shape):
        match m:
            case nn.Conv2d():
                options = (("stride", m.stride), ("pad", m.pad))
                kind = "first conv" if m.name == "conv1" else "conv"  # the images need no gradient
                return Case(kind, shape, m.w.data.shape, options)
            case nn.Dense():
                return Case("dense", shape, m.w.data.shape)
            case nn.MaxPool2d() | nn.AvgPool2d():
                kind = "max pool" if isinstance(m, nn.MaxPool2d) else "average pool"
                return Case(kind, shape, options=tuple(m.window.items()))
            case nn.BatchNorm() | nn.ReLU() | nn.Add():
                return Case({"BatchNorm": "norm", "ReLU": "relu", "Add": "add"}[type(m).__name__], shape)
            case nn.ZeroPad2d():
                return Case("zero pad", shape, options=(("pad", m.pad),))

    def watch(m, forward):
        def watched(x, *others):
            if case := describe(m, x.shape[1:]):
                found[case] += 1
            return forward(x, *others)

        m.forward = watched

    for module in model.modules():
        watch(module, module.forward)
    logits = model(np.zeros((1, size, size, 3), np.float32))
    found[Case("cross-entropy", logits.shape[1:])] += 1
    return found


def arrays(case, N):
    """(x, w or None, per-channel or per-output vector, labels), the same for both contenders."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, *case.x), np.float32)
    w = rng.standard_normal(case.w, np.float32) if case.w else None
    return x, w, rng.random(case.w[-1] if case.w else case.x[-1], np.float32), rng.integers(0, CLASSES, N)


def ours(case, N):
    """(forward, backward, y's shape); both without arguments."""
    x, w, vector, labels = arrays(case, N)
    options, need_dx = dict(case.options), case.kind != "first conv"
    rng = np.random.default_rng(1)

    def normed():
        mean, var = ops.batchnorm_statistics(x)
        return ops.batchnorm_forward(x, vector, vector, mean, 1 / np.sqrt(var + 1e-3))

    forward = {
        "conv": lambda: ops.conv2d_forward(x, w, vector, **options),
        "first conv": lambda: ops.conv2d_forward(x, w, vector, **options),
        "dense": lambda: ops.dense_forward(x, w, vector),
        "norm": normed,
        "relu": lambda: ops.relu_forward(x),
        "add": lambda: ops.add_forward(x, x),
        "zero pad": lambda: ops.zero_pad2d_forward(x, **options),
        "max pool": lambda: ops.maxpool_forward(x, **options),
        "average pool": lambda: ops.avgpool_forward(x, **options),
        "cross-entropy": lambda: ops.softmax_cross_entropy_forward(x, labels)[1],
    }[case.kind]
    y = forward()
    dy = rng.standard_normal(y.shape, np.float32)
    backward = {
        "conv": lambda: ops.conv2d_backward(dy, x, w, **options, need_dx=need_dx),
        "first conv": lambda: ops.conv2d_backward(dy, x, w, **options, need_dx=need_dx),
        "dense": lambda: ops.dense_backward(dy, x, w),
        "norm": lambda: ops.batchnorm_backward(dy, x, vector, vector, vector),
        "relu": lambda: ops.relu_backward(dy, y),
        "add": lambda: ops.add_backward(dy),
        "zero pad": lambda: ops.zero_pad2d_backward(dy, **options),
        "max pool": lambda: ops.maxpool_backward(dy, x, y, **options),
        "average pool": lambda: ops.avgpool_backward(dy, x.shape, **options),
        "cross-entropy": lambda: ops.softmax_cross_entropy_backward(y, labels),
    }[case.kind]
    return forward, backward, y.shape


def torchs(case, N):
    """As `ours`, in PyTorch's default layout; backward is autograd's, on a graph that is kept."""
    import torch
    from torch.nn import functional as F

    x, w, vector, labels = map(lambda a: a if a is None else torch.from_numpy(a), arrays(case, N))
    if x.ndim == 4:
        x = x.permute(0, 3, 1, 2).contiguous()
    if w is not None:
        w = w.permute(3, 2, 0, 1).contiguous() if w.ndim == 4 else w.T.contiguous()
    options = dict(case.options)
    if options.get("pad") == "valid":
        options["pad"] = 0
    wanted = [] if case.kind == "first conv" else [x]
    if case.kind in ("conv", "first conv", "dense"):
        wanted += [w, vector]
    elif case.kind == "norm":
        beta = vector.clone()
        wanted += [vector, beta]
    for tensor in wanted:
        tensor.requires_grad_()
    pool = (options.get("kernel"), options.get("stride"), options.get("pad"))
    conv2d = lambda: F.conv2d(x, w, vector, options["stride"], options["pad"])  # noqa: E731
    forward = {
        "conv": conv2d,
        "first conv": conv2d,
        "dense": lambda: F.linear(x, w, vector),
        "norm": lambda: F.batch_norm(x, None, None, vector, beta, training=True, eps=1e-3),
        "relu": lambda: F.relu(x),
        "add": lambda: x + x,
        "zero pad": lambda: F.pad(x, [options["pad"]] * 4),
        "max pool": lambda: F.max_pool2d(x, *pool),
        "average pool": lambda: F.avg_pool2d(x, *pool),
        "cross-entropy": lambda: F.cross_entropy(x, labels),
    }[case.kind]
    y = forward()
    dy = torch.ones_like(y)
    return forward, lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True), tuple(y.shape)


def build(name, _task, options):
    """A turn (index of the case, direction, repetitions); the last case's arrays are kept. See harness."""
    if name == "torch":
        import torch

        if options["threads"]:
            torch.set_num_threads(options["threads"])
    known, make = list(cases(options["size"])), ours if name == "ours" else torchs
    current = {}

    def turn(index, direction, repetitions):
        if index not in current:
            current.clear()
            current[index] = make(known[index], options["batch"])
        call = current[index][direction == "backward"]
        for _ in range(repetitions):
            call()

    return turn


def measure(load, worker, index, direction, repetitions):
    """Seconds of one repetition; the worker's CPU time is booked as our own."""
    turn = worker.turn(index, direction, repetitions)
    load.own += turn.cpu_seconds
    return turn.seconds / repetitions


def compare_ops(options):
    """Time every case in turns; a record for each case and direction."""
    counted, records = cases(options["size"]), []
    with (
        harness.started(build, ("ours", "torch"), "ops", options, options["threads"]) as workers,
        watch.contention() as load,
    ):
        for index, (case, count) in enumerate(counted.items()):
            y_shape = ours(case, 1)[2]
            for direction in ("forward", "backward"):
                if (case.kind, direction) == ("add", "backward"):
                    continue  # hands dy on: no work
                times, repetitions = {}, {}
                for worker in workers:
                    measure(load, worker, index, direction, 1)  # builds the arrays
                    once = measure(load, worker, index, direction, 1)
                    repetitions[worker.name] = max(1, min(1000, round(TURN_SECONDS / once)))
                    times[worker.name] = []
                for _ in range(options["rounds"]):
                    for worker in workers:
                        time.sleep(harness.PAUSE)
                        times[worker.name].append(measure(load, worker, index, direction, repetitions[worker.name]))
                amount, unit = case.work(options["batch"], (options["batch"], *y_shape[1:]), direction)
                records.append(
                    {"op": str(case), "direction": direction, "count": count, "seconds": times}
                    | {"work": amount, "unit": unit}
                )
    return records, load


def report_ops(records):
    total = sum(r["count"] * statistics.median(r["seconds"]["ours"]) for r in records)
    rows = []
    for r in records:
        mine = statistics.median(r["seconds"]["ours"])
        row = [f"{r['op']} {r['direction']}", r["count"], f"{mine * 1e3:.2f}"]
        if theirs := r["seconds"].get("torch"):
            ratio = harness.Spread.of([a / b for a, b in zip(r["seconds"]["ours"], theirs, strict=True)])
            row += [f"{statistics.median(theirs) * 1e3:.2f}", f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"]
        else:
            row += ["", ""]
        rows.append([*row, f"{r['work'] / mine / 1e9:.1f} {r['unit']}", f"{r['count'] * mine / total:.1%}"])
    columns = ["op", "times", "ours ms", "torch ms", "ours / torch", "our rate", "share of the step"]
    harness.print_table(f"All ops of a step, once each: {total * 1e3:.0f} ms in ours", columns, rows)


def sweep(title, module, constant, values, wanted, options):
    """Time all the wanted cases, each as often as it occurs, for each value of a module's constant, in turns."""
    counted = {case: count for case, count in cases(options["size"]).items() if wanted(case)}
    seconds, kept = {value: [0.0] * options["rounds"] for value in values}, getattr(module, constant)
    for case, count in counted.items():
        forward, backward, _ = ours(case, options["batch"])
        forward(), backward()
        for index in range(options["rounds"]):
            for value in values:
                with patch.object(module, constant, value):
                    began = time.perf_counter()
                    forward(), backward()
                    seconds[value][index] += count * (time.perf_counter() - began)
    rows, records = [], []
    for value, series in seconds.items():
        spread = harness.Spread.of(series)
        ratio = harness.Spread.of([a / b for a, b in zip(series, seconds[kept], strict=True)])
        mark = " (now)" if value == kept else ""
        rows.append(
            [
                f"{value:,}{mark}",
                f"{spread.median * 1e3:.1f}",
                f"{spread.low * 1e3:.1f}-{spread.high * 1e3:.1f}",
                f"{ratio.median:.3f}",
            ]
        )
        records.append({constant: value, "seconds": series})
    harness.print_table(title, [constant, "ms a step", "quartiles", "over now"], rows)
    return records


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench ops`."""
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    with backend.blas_threads(options["threads"]), as_read():  # the constants are those of the ops in NumPy
        if options["chunks"]:
            values = sorted({backend.CHUNK, *(2**k for k in range(13, 23))})
            title = "Batch norms of a step, forward and backward"
            rows = sweep(title, backend, "CHUNK", values, lambda case: case.kind == "norm", options)
        elif options["workspace"]:
            values = sorted({conv.MAX_WORKSPACE, *(2**k for k in range(18, 28))})
            title = "Convolutions with columns of a step, forward and backward"
            unrolled = lambda case: "conv" in case.kind and (case.w[0] > 1 or dict(case.options)["stride"] != (1, 1))  # noqa: E731
            rows = sweep(title, conv, "MAX_WORKSPACE", values, unrolled, options)
        else:
            rows, load = compare_ops(options)
            report_ops(rows)
            print(load.warning() or f"Load average {load.load_before:.1f} before, {load.load_after:.1f} after.")
    return harness.record("ops", facts, options, rows)


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "ops", *sys.argv[1:]]))
