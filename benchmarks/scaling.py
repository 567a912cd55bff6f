"""How the cost of a training step grows: with the batch, the image, the depth, the width, the threads.

    minires bench scaling [--axes batch,size,depth,width,threads] [--isa avx2] [--out DIR]

At each point a process of its own for ours and for PyTorch in both layouts, so that the peak memory is that of the
point; PyTorch's better layout is the one to compare with. On the axis of threads every contender gets so many.
"""

import statistics
import sys
from dataclasses import asdict

from minires.benchmarks import contenders, floors, harness, isa, watch
from minires.benchmarks.harness import Spread

PEERS = ("ours", "torch", "torch_channels_last")
COURSE = {"arch": "resnet50", "size": 64, "batch": 32, "width": 1}
LESSONS = {"arch": "resnet20", "size": 32, "batch": 32, "width": 1}
DEPTHS = ("resnet8", "resnet20", "resnet32", "resnet56", "resnet110")
# axis -> (what stays, what changes: the label of a point -> its settings)
AXES = {
    "batch": (COURSE, {n: {"batch": n} for n in (1, 4, 16, 64, 128)}),
    "size": (COURSE | {"batch": 8}, {n: {"size": n} for n in (64, 96, 128, 224)}),
    "depth": (LESSONS, {int(arch[6:]): {"arch": arch} for arch in DEPTHS}),
    "width": (LESSONS, {n: {"width": n} for n in (1, 2, 4)}),
    "threads": (COURSE, None),  # as many points as there are cores
}
LABELS = {
    "batch": "images in a batch",
    "size": "side of the image",
    "depth": "layers",
    "width": "times the channels",
    "threads": "threads",
}


def points(axis, cores) -> tuple[dict, dict]:
    """(what stays, label -> settings) of an axis; threads: 1, 2, 4 and so on up to the cores, and the cores."""
    fixed, changing = AXES[axis]
    if changing is None:
        changing = {n: {"threads": n} for n in sorted({*(2**k for k in range(8) if 2**k <= cores), cores})}
    return fixed, changing


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench scaling`."""
    isa.check(options["isa"])
    facts, records = watch.machine(options["threads"]), []
    watch.print_machine(facts)
    isa.print_choice(options["isa"], facts["flags"])
    limits = {}  # by the number of threads
    for axis in options["axes"]:
        fixed, changing = points(axis, facts["cores"])
        for point, settings in changing.items():
            case = options | {"optimizer": "adam"} | fixed | settings
            threads, missing = case["threads"], {}
            if threads not in limits:
                limits[threads] = floors.measure(threads, options["isa"])
            results, load = harness.compare(
                contenders.build,
                PEERS,
                "training",
                case,
                rounds=options["rounds"],
                warmup=2,
                threads=threads,
                seconds=options["seconds"],
                missing=missing,
                environment=contenders.environment,
                least=harness.LEAST,
            )
            floor = limits[threads].seconds(floors.work(contenders.network(case), case["batch"]))
            shared = {"axis": axis, "point": point, "floor_seconds": floor, "floors": limits[threads].as_dict()}
            shared |= load.as_dict()
            rows = [shared | {"contender": name, "left_out": why} for name, why in missing.items()]
            rows += [shared | {"contender": r.name, **asdict(r)} for r in results]
            records += harness.record("scaling", facts, case, rows)
        report(axis, fixed, [r for r in records if r["axis"] == axis])
    return records


def better(records) -> dict | None:
    """The record of PyTorch's better layout at one point."""
    torch = [r for r in records if r["contender"].startswith("torch") and "seconds" in r]
    return min(torch, key=lambda r: statistics.median(r["seconds"]), default=None)


def rows_of(axis, records) -> tuple[list, list]:
    """(columns, rows) of an axis's table."""
    rows = []
    for point in dict.fromkeys(r["point"] for r in records):
        here = [r for r in records if r["point"] == point]
        ours, torch = next((r for r in here if r["contender"] == "ours" and "seconds" in r), None), better(here)
        if ours is None:
            continue
        time = statistics.median(ours["seconds"])
        row = [point, f"{time * 1e3:.1f}", f"{time / ours['floor_seconds']:.2f}", f"{ours['peak_mib']:.0f}"]
        if torch:
            ratio = Spread.of([a / b for a, b in zip(ours["seconds"], torch["seconds"], strict=True)])
            theirs = f"{statistics.median(torch['seconds']) * 1e3:.1f}"
            layout = "NHWC" if torch["contender"].endswith("last") else "NCHW"
            ratios = f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
            row += [theirs, layout, ratios, f"{ours['peak_mib'] / torch['peak_mib']:.2f}"]
        rows.append(row + [""] * (8 - len(row)))
    return [
        LABELS[axis],
        "ours ms",
        "x floor",
        "peak MiB",
        "torch ms",
        "layout",
        "ours / torch",
        "memory / torch",
    ], rows


def report(axis, fixed, records) -> None:
    stays = f"{fixed['arch']}, batch {fixed['batch']}, {fixed['size']}x{fixed['size']}"
    harness.print_table(f"A training step by {axis}, from {stays}", *rows_of(axis, records))
    contended = dict.fromkeys(r["point"] for r in records if (r["others_share"] or 0) > watch.BUSY)
    print(f"Contended at {', '.join(map(str, contended))}.\n" if contended else "No contention seen.\n")


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "scaling", *sys.argv[1:]]))
