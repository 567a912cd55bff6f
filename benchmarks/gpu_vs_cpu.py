"""A training step and an inference on the GPU and on the CPU, by batch and image: where does the GPU begin to pay?

    minires bench gpu-vs-cpu [--seconds 200] [--quick] [--device gpu] [--json FILE.jsonl [--resume]] [--out DIR]

The card's ceilings come first (a large product in float32 and in TF32, a copy on the device), then the cases in the
order of `plan`, each contender in turns; every case is written as soon as it is measured, and what there was no time
for is said: --resume goes on with it. Without a GPU, or with --device, the part of one device alone is done.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path

from minires.benchmarks import floors, harness, lanes, tables, watch
from minires.benchmarks.harness import Spread, Unavailable
from minires.benchmarks.lanes import PRECISION

from minires.backend import choose_device
from minires.errors import DataError

ROUNDS, TURN, PAUSE = 3, 0.1, 0.1  # turns of a contender in a case, about the seconds of one, and after one on a CPU
COMPILING = 80  # seconds that torch.compile may take for a network
# name -> (its process, device)
CONTENDERS = {
    "ours": ("cupy", "gpu"),
    "ours_no_graph": ("cupy", "gpu"),
    "plain": ("cupy", "gpu"),
    "torch": ("torch-gpu", "gpu"),
    "torch_channels_last": ("torch-gpu", "gpu"),
    "torch_compile": ("torch-compile", "gpu"),
    "torch_compile_graph": ("torch-compile", "gpu"),
    "ours (CPU)": ("cpu", "cpu"),
    "torch_channels_last (CPU)": ("torch-cpu", "cpu"),
}
EAGER = ("ours", "torch", "torch_channels_last")
NO_GRAPH = ("ours_no_graph", "plain")
CPU = ("ours (CPU)", "torch_channels_last (CPU)")
COMPILED = ("torch_compile_graph", "torch_compile")
CASE = ("arch", "size", "batch", "task", "precision")
# (arch, size, batches): the course's network, photographs, the lessons' networks
SIZES = (
    ("resnet50", 64, (32, 1, 8, 128)),
    ("resnet20", 32, (128, 32)),
    ("resnet50", 224, (32, 8)),
    ("resnet56", 32, (128, 32)),
    ("resnet8", 16, (32,)),
)


def plan(quick=False) -> list[tuple]:
    """(arch, size, batch, task, precision, contenders), the most important first."""
    cases = [(arch, size, batch) for arch, size, batches in SIZES for batch in batches]
    heads = [(arch, size, batches[0]) for arch, size, batches in SIZES[:3]]
    if quick:
        cases = heads = heads[:2]
    course = [case for case in cases if case not in heads and case[:2] == heads[0][:2]]
    rest = [case for case in cases if case not in heads and case not in course]
    inference = PRECISION["inference"]
    rows = [(*case, "training", "tf32", EAGER + CPU) for case in heads]
    rows += [(*case, "training", "fp32", EAGER + NO_GRAPH) for case in heads]
    rows += [(*case, "inference", inference, EAGER + CPU) for case in heads]
    rows += [(*case, "training", "tf32", EAGER + CPU[:1]) for case in course]
    rows += [(*case, "inference", inference, EAGER + CPU[:1]) for case in course]
    rows += [(*case, "training", "tf32", EAGER + CPU[:1]) for case in rest]
    rows += [(*case, "inference", inference, EAGER + CPU[:1]) for case in rest]
    rows += [(*case, "training", "tf32", EAGER + COMPILED) for case in reversed(heads[:2])]
    return rows


def chosen(options, device) -> list[tuple]:
    """Of `plan`, what runs on the device, or on both unless one was asked for; with --resume only the cases of which
    the file lacks a time."""
    devices = ("gpu", "cpu") if device == "gpu" and options["device"] == "auto" else (device,)
    here = [name for name, (_, where) in CONTENDERS.items() if where in devices]
    rows = [(*row, tuple(name for name in names if name in here)) for *row, names in plan(options["quick"])]
    done = _done(options["json"]) if options["resume"] else set()
    return [row for row in rows if not {(*row[:5], name) for name in row[5]} <= done]


def _done(path) -> set[tuple]:
    """(arch, size, batch, task, precision, contender) of every time that the file of --json holds."""
    if not path:
        raise DataError("--resume goes on with what a file holds: name it with --json")
    records = tables.read(path) if Path(path).stat().st_size else []
    timed = (r for r in records if r["benchmark"] == "gpu-vs-cpu" and "time" in r)
    return {(*(r["options"][key] for key in CASE), r["contender"]) for r in timed}


class Session:
    """The processes, started when first needed, and the time that is left."""

    def __init__(self, seconds):
        self.until = time.perf_counter() + seconds
        self.workers, self.missing = {}, {}

    def left(self) -> float:
        return self.until - time.perf_counter()

    def ask(self, lane, *request):
        """The answer of a process; Unavailable where it fails, or where time ran out and it had to be ended."""
        if self.left() <= 0:
            raise Unavailable("no time left")
        if lane in self.missing:
            raise Unavailable(self.missing[lane])
        try:
            if lane not in self.workers:
                self.workers[lane] = harness.Worker(lanes.build, lane, "", {}, self.left())
        except Unavailable as error:
            self.missing[lane] = str(error)
            raise
        worker = self.workers[lane]
        worker.patience = min(self.left(), COMPILING) if lane == "torch-compile" else self.left()
        try:
            return worker.turn(*request).value
        except Unavailable as error:
            if (
                worker.pipe.closed
            ):  # it died: a new one for the next case, except where that would compile for long again
                del self.workers[lane]
                if lane == "torch-compile":
                    self.missing[lane] = str(error)
            raise

    def close(self):
        for worker in self.workers.values():
            worker.close()


def run(options) -> list:
    """Measure, write and print; the records. options: those of `minires bench gpu-vs-cpu`."""
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    device, reason = ("cpu", "asked for") if options["device"] == "cpu" else choose_device(options["device"])
    print(f"device: {device} ({reason})" + ("" if device == "gpu" else ": the CPU's part alone"), flush=True)
    cases = chosen(options, device)
    if not cases:
        print("nothing left to measure")
        return []
    session, records, ceilings = Session(options["seconds"]), [], {}
    try:
        if any(CONTENDERS[name][1] == "cpu" for *_, names in cases for name in names):
            limits = floors.measure(options["threads"])
            print(limits, flush=True)
            ceilings["cpu"] = {"fp32": limits.best, "copy": limits.bandwidth}
        if device == "gpu":
            ceilings["gpu"] = gpu_ceilings(session, facts)
        rows = [{"ceilings": ceilings, "device_reason": reason}]
        records += harness.record("gpu-vs-cpu", facts, options | {"task": "ceilings"}, rows)
        for index, (*row, names) in enumerate(cases):
            if session.left() <= 0:
                print(f"no time left for {len(cases) - index} of {len(cases)} cases; --resume goes on with them")
                break
            case = dict(zip(CASE, row, strict=True))
            rows = measure(session, case | {"optimizer": "adam", "threads": options["threads"]}, names, ceilings)
            records += harness.record("gpu-vs-cpu", facts, options | case, rows)
    finally:
        session.close()
    print()
    print(tables.markdown(records))
    return records


def gpu_ceilings(session, facts) -> dict:
    """The card's measured limits, printed; what it is goes to the facts. Empty where they could not be measured."""
    try:
        found = session.ask("cupy", "ceilings")
    except Unavailable as error:
        harness.left_out("the card's ceilings", error)
        return {}
    facts |= {"gpu": found.pop("gpu"), "cuda": found.pop("cuda")}
    rates = ", ".join(f"{name} {found[name] / 1e12:.3g} TFLOP/s" for name in ("fp32", "tf32"))
    print(f"{facts['gpu']}: {rates}, copy {found['copy'] / 1e9:.0f} GB/s", flush=True)
    return found


def measure(session, case, names, ceilings) -> list[dict]:
    """A row a contender: its times, or why it was left out."""
    title = "{task} {arch} {size}x{size} batch {batch}".format(**case)
    needed = floors.work(lanes.network(case), case["batch"], case["task"])
    rows, ready, turns = [], {}, {}
    for name in names:
        lane, _ = CONTENDERS[name]
        try:
            ready[name] = session.ask(lane, "prepare", name.removesuffix(" (CPU)"), case)
            turns[name] = []
        except Unavailable as error:
            rows.append({"contender": name, "left_out": str(error)})
    for _ in range(ROUNDS):
        for name in list(turns):
            try:
                lane, device = CONTENDERS[name]
                turns[name].append(session.ask(lane, "measure", name.removesuffix(" (CPU)"), TURN))
                time.sleep(PAUSE if device == "cpu" else 0)  # its threads come to rest
            except Unavailable as error:
                if not turns[name]:
                    rows.append({"contender": name, "left_out": str(error)})
                    del turns[name]
    for lane in {CONTENDERS[name][0] for name in names} & session.workers.keys():
        try:
            session.ask(lane, "drop")
        except Unavailable:
            continue
    for name, series in turns.items():
        device = CONTENDERS[name][1]
        spread = Spread.of([seconds for turn in series for seconds in turn])
        precision = case["precision"] if device == "gpu" else "fp32"
        row = {"contender": name, "device": device, "turns": series, "time": asdict(spread), "precision": precision}
        rows.append(row | ready[name] | rates(needed, spread.median, ceilings[device], precision))
    losses = [row["first_loss"] for row in rows if row.get("first_loss") is not None]
    if losses and max(losses) - min(losses) > 0.05 * max(losses):
        print(f"{title}: the first losses differ, so not all compute the same: {losses}", file=sys.stderr)
    rows.sort(key=lambda row: names.index(row["contender"]))
    for row in rows:
        timed = "time" in row
        told = f"{tables.ms(row['time']['median'])} ms, {row['precision']}" if timed else f"left out: {row['left_out']}"
        print(f"{title}: {row['contender']}: {told}", file=sys.stderr, flush=True)
    return rows


def rates(needed, seconds, limits, precision) -> dict:
    """The work, what share of the measured limits was reached, and the floor; None where no limit was measured."""
    found = {"flops": needed.flops, "bytes": needed.bytes, "flops_share": None, "bytes_share": None}
    if limits:
        floor = needed.flops / limits[precision], needed.bytes / limits["copy"]
        found |= {"flops_share": floor[0] / seconds, "bytes_share": floor[1] / seconds, "floor_seconds": max(floor)}
    return found


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "gpu-vs-cpu", *sys.argv[1:]]))
