"""Where the time of a training step goes, op by op, in what `fit` runs; and each op on the roofline of this machine.

    minires bench breakdown [--arch resnet50] [--batch 32] [--size 64] [--isa avx2] [--contender numpy] [--out DIR]

The functions of minires.ops and fast/fused_ops.py are wrapped from outside, wherever a module holds one, and put back
afterwards. Shown is the thread that calls the step: its ops, whose loops all threads share, the update, and the rest,
which is Python between the ops. An op called by another counts as part of it, except the copies (im2col, col2im,
padding), which are told apart; compiled ops make none.
"""

import inspect
import pkgutil
import statistics
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from unittest.mock import patch

import numpy as np
from minires.benchmarks import contenders, floors, harness, isa, watch

from minires import ops

COPIES = ("im2col", "col2im", "zero_pad2d_forward", "zero_pad2d_backward")
# Arithmetic operations for each element of the largest array; 1 where nothing is said.
ARITHMETIC = {
    "batchnorm_statistics": 4,
    "norm_add_relu_forward": 4,
    "norm_add_relu_backward": 8,
    **dict.fromkeys(COPIES, 0),
}
UPDATE, REST = "optimizer's update", "between the ops"


@dataclass
class Tally:
    """One op at one shape, in one step, on the calling thread; without what is told apart inside it."""

    calls: int = 0
    seconds: float = 0.0
    flops: int = 0
    bytes: int = 0  # of arguments and results, each moved once


class Recorder:
    """Counts and times the ops of one thread; another thread's calls pass through."""

    def __init__(self):
        self.thread = threading.get_ident()
        self.frames = []  # for each op that is running, the seconds of those told apart inside it
        self.tallies = defaultdict(Tally)  # (op, shape) -> Tally

    def wrap(self, name, function):
        signature = inspect.signature(function)

        def timed(*args, **kwargs):
            inside = bool(self.frames) and name not in COPIES
            if threading.get_ident() != self.thread or inside:
                return function(*args, **kwargs)
            self.frames.append(0.0)
            began = time.perf_counter()
            try:
                result = function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                inner = self.frames.pop()
                if self.frames:
                    self.frames[-1] += took
            key, flops, size = describe(name, signature.bind(*args, **kwargs).arguments, result)
            tally = self.tallies[key]
            tally.calls += 1
            tally.seconds += took - inner
            tally.flops += flops
            tally.bytes += size
            return result

        return timed


def describe(name, arguments, result):
    """((op, shape), FLOPs, bytes) of a call."""
    arrays = [a for a in (*arguments.values(), *(result if isinstance(result, tuple) else (result,)))]
    arrays = [a for a in arrays if isinstance(a, np.ndarray)]
    if not arrays:
        return (name, ""), 0, 0
    size = sum({id(a): a.nbytes for a in arrays}.values())
    largest = max(arrays, key=lambda a: a.size)
    w, backward = arguments.get("w"), "dy" in arguments
    if not isinstance(w, np.ndarray):
        return (name, "x".join(map(str, largest.shape))), ARITHMETIC.get(name, 1) * largest.size, size
    products = 1 + (backward and arguments.get("need_dx", True))
    rows = arguments["dy"] if backward else result
    flops = 2 * products * rows.size * w.size // w.shape[-1]  # by the definition, whatever the algorithm
    window = f" {w.shape[0]}x{w.shape[1]}" if w.ndim == 4 else ""
    return (name + window, "x".join(map(str, (*rows.shape[1:-1], *w.shape[-2:])))), flops, size


@contextmanager
def recorded():
    """A Recorder of all that this thread calls inside."""
    from minires.optim import Optimizer

    recorder, wrapped = Recorder(), {}
    names = [f"{ops.__name__}.{info.name}" for info in pkgutil.iter_modules(ops.__path__) if info.name != "naive"]
    for module in map(import_module, [*names, "minires.fast.fused_ops"]):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                wrapped[function] = recorder.wrap(name, function)
    with ExitStack() as changed:
        for module in [m for n, m in sys.modules.items() if n.startswith("minires.") and m is not None]:
            for name, value in list(vars(module).items()):
                if inspect.isfunction(value) and value in wrapped:
                    changed.enter_context(patch.object(module, name, wrapped[value]))
        changed.enter_context(patch.object(Optimizer, "step", recorder.wrap(UPDATE, Optimizer.step)))
        yield recorder


def build(name, task, options):
    """A turn makes one step, plain or (recording) with its tallies as value: {(op, shape): Tally}. See harness."""
    step = contenders.build(name, task, options)

    def turn(recording=False):
        if not recording:
            return step()
        with recorded() as recorder:
            began = time.perf_counter()
            step()
            whole = time.perf_counter() - began
        # what takes no array, such as the arithmetic of sizes, is Python between the ops
        tallies = {key: t for key, t in recorder.tallies.items() if t.bytes or key[0] == UPDATE}
        tallies[REST, ""] = Tally(1, whole - sum(t.seconds for t in tallies.values()))
        return tallies

    return turn


def summed(tallies: dict) -> dict:
    """op -> Tally over all its shapes."""
    total = defaultdict(Tally)
    for (op, _), tally in tallies.items():
        for field in vars(tally):
            setattr(total[op], field, getattr(total[op], field) + getattr(tally, field))
    return total


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench breakdown`."""
    isa.check(options["isa"])
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    isa.print_choice(options["isa"], facts["flags"])
    limits = floors.measure(options["threads"], options["isa"])
    print(limits, end="\n\n")
    plain, steps, who = [], [], (options["contender"],)
    own = contenders.environment
    with harness.started(build, who, "training", options, options["threads"], environment=own) as (worker,):
        for _ in range(3):
            worker.turn()
        with watch.contention() as load:
            for _ in range(options["steps"]):
                time.sleep(harness.PAUSE)
                turns = worker.turn(), worker.turn(True)
                load.own += sum(t.cpu_seconds for t in turns)
                plain.append(turns[0].seconds)
                steps.append(turns[1].value)
    middle = median(steps)
    report(middle, statistics.median(plain), options)
    print(load.warning() or "No contention seen.")
    rows = [
        {"op": op, "shape": shape, **vars(tally), "step_seconds": statistics.median(plain), "floors": limits.as_dict()}
        for (op, shape), tally in middle.items()
    ]
    return harness.record("breakdown", facts, options, [row | load.as_dict() for row in rows])


def median(steps) -> dict:
    """The tallies with the median of their seconds."""
    return {
        key: Tally(t.calls, statistics.median(s.get(key, Tally()).seconds for s in steps), t.flops, t.bytes)
        for key, t in steps[0].items()
    }


def report(tallies, step_seconds, options) -> None:
    whole = sum(t.seconds for t in tallies.values())
    rows = []
    for op, t in sorted(summed(tallies).items(), key=lambda item: -item[1].seconds):
        rate = [f"{amount / t.seconds / 1e9:.1f}" if amount else "" for amount in (t.flops, t.bytes)]
        rows.append((op, t.calls if op != REST else "", f"{t.seconds * 1e3:.1f}", f"{t.seconds / whole:.1%}", *rate))
    title = (
        f"A step of {options['arch']}, batch {options['batch']}, {options['size']}x{options['size']}: "
        f"{whole * 1e3:.0f} ms with the clocks, {step_seconds * 1e3:.0f} ms without"
    )
    harness.print_table(title, ["op", "calls", "ms", "share", "GFLOP/s", "GB/s"], rows)


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "breakdown", *sys.argv[1:]]))
