"""A training step and an inference of a whole network: ours, the textbook's NumPy, PyTorch, Keras, onnxruntime.

    minires bench step [--arch resnet50] [--batch 32] [--size 64] [--steps 20] [--isa avx2] [--json FILE]

What is fair about it is told in benchmarks/README.md.
"""

import sys
from dataclasses import asdict

from minires.benchmarks import contenders, floors, harness, isa, watch
from minires.benchmarks.contenders import ONLY, OURS
from minires.benchmarks.tables import ms


def report(task, results, load, facts, options, missing, limits):
    """Print the table; return the records, those that were left out among them with the reason."""
    needed = floors.work(contenders.network(options), options["batch"], task, options["optimizer"])
    floor = limits.seconds(needed)
    distance = {"flops": needed.flops, "bytes": needed.bytes, "floor_seconds": floor, "floors": limits.as_dict()}
    rows, records = [], [{"task": task, "contender": name, "left_out": why} for name, why in missing.items()]
    minires = [r for r in results if r.name in OURS]
    for result in results:
        time = harness.Spread.of(result.seconds)
        ratios = {r.name: r.ratio(result) for r in minires}
        rows.append(
            (
                result.name,
                ms(time.median),
                f"{ms(time.low)}-{ms(time.high)}",
                ms(time.best),
                f"{options['batch'] / time.median:.1f}",
                f"{sum(result.cpu_seconds) / sum(result.seconds):.2f}",
                f"{result.peak_mib:.0f}",
                f"{time.median / floor:.2f}",
                *(f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" for ratio in ratios.values()),
            )
        )
        records.append(
            {
                "task": task,
                "contender": result.name,
                **asdict(result),
                "time": asdict(time),
                **{f"{name}_over_this": asdict(ratio) for name, ratio in ratios.items()},
                **distance,
                **load.as_dict(),
            }
        )
    title = f"{task}: {options['arch']}, batch {options['batch']}, {options['size']}x{options['size']}"
    title += f", {instructions}" if (instructions := isa.name(facts | {"options": options})) else ""
    columns = ["contender", "median ms", "quartiles", "best", "images/s", "cores", "peak MiB", "x floor"]
    columns += [f"{r.name} / this" for r in minires]
    harness.print_table(title, columns, rows)
    print(
        f"Floor: {ms(floor)} ms, the larger of {needed.flops / 1e9:.1f} GFLOP at {limits.best / 1e9:.0f} GFLOP/s "
        f"and {needed.bytes / 1e6:.0f} MB at {limits.bandwidth / 1e9:.1f} GB/s."
    )
    if several := {r.name: r.calls for r in results if r.calls > 1}:
        told = ", ".join(f"{name} {calls}" for name, calls in several.items())
        print(f"A time is the mean of the calls of a turn of {1e3 * harness.LEAST:.0f} ms or more: {told}.")
    said = {}
    for result in results:
        said.setdefault(", ".join(f"{library} {what}" for library, what in result.told.items()), []).append(result.name)
    print("\n".join(f"Says of itself: {told} ({', '.join(names)})" for told, names in said.items()))
    print(load.warning() or "No contention seen.", end="\n\n")
    return records


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench step`."""
    isa.check(options["isa"])
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    isa.print_choice(options["isa"], facts["flags"])
    limits = floors.measure(options["threads"], options["isa"])
    print(limits, end="\n\n")
    return compare(facts, options, limits)


def compare(facts, options, limits) -> list:
    """The comparison alone, between two measurements of something else."""
    records = []
    for task in options["tasks"]:
        missing = {}
        peers = [name for name in options["peers"] if ONLY.get(name, task) == task]
        results, load = harness.compare(
            contenders.build,
            peers,
            task,
            options,
            rounds=options["steps"],
            warmup=options["warmup"],
            threads=options["threads"],
            seconds=options["seconds"],
            missing=missing,
            environment=contenders.environment,
            least=harness.LEAST,
        )
        rows = report(task, results, load, facts, options, missing, limits)
        records += harness.record("step", facts, options, rows)
    return records


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "step", *sys.argv[1:]]))
