"""JSON lines into Markdown tables, so that no number is typed by hand: `minires bench table FILE.jsonl`."""

import json

from minires.benchmarks import isa, scaling
from minires.benchmarks.watch import BUSY, STOLEN

from minires.errors import DataError

NAMES = {
    "ours": "minires",
    "numpy": "minires, NumPy",
    "ours_threads": "minires, on threads",  # in older records
    "plain": "minires, plain ops",
    "textbook": "textbook NumPy",
    "torch": "PyTorch",
    "torch_channels_last": "PyTorch channels_last",
    "torch_fused_adam": "PyTorch channels_last, fused Adam",
    "torch_compile": "torch.compile",
    "keras": "Keras (TensorFlow)",
    "onnxruntime": "onnxruntime",
}
PEERS = ("torch", "torch_channels_last", "torch_fused_adam", "torch_compile", "keras", "onnxruntime", "textbook")


def read(path) -> list[dict]:
    """The records of a file of --json; DataError, with the line, where it is none."""
    records, number = [], 0
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):  # noqa: B007
                record = json.loads(line)
                if not isinstance(record, dict) or "benchmark" not in record or "options" not in record:
                    raise ValueError
                records.append(record)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): give a file that `--json` wrote") from None
    except ValueError:
        raise DataError(f"{path}, line {number}: not a line that `minires bench --json` writes") from None
    if not records:
        raise DataError(f"{path}: holds no results: run `minires bench --json {path}` first")
    return records


def markdown(records) -> str:
    """Every table that these records can make, each below its command, date and machine."""
    kinds = {"step": steps, "scaling": scalings, "breakdown": breakdowns, "waiting": waits, "large-data": large}
    kinds |= {"gpu-vs-cpu": gpu, "scale-out": scale_outs}
    parts = []
    for benchmark, make in kinds.items():
        runs = {}
        for r in records:
            if r["benchmark"] == benchmark:
                runs.setdefault((r["date"], r["command"]), []).append(r)
        for run in runs.values():
            if text := make(run):
                parts += [origin(run), text]
    return "\n\n".join(parts)


def origin(records) -> str:
    """Command, date, machine, versions, and whether anything else ran meanwhile."""
    r = records[0]
    contended = [x for x in records if (x.get("others_share") or 0) > BUSY or (x.get("steal_share") or 0) > STOLEN]
    quiet = f"; contended in {len(contended)} of {len(records)} rows" if contended else ""
    return f"`{r['command']}`, {r['date'][:10]}, {machine(r)}{quiet}."


def machine(r) -> str:
    """Processor, cores, instructions, card and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in r["versions"].items())
    parts = f"{r['cpu']}, {r['cores']} cores", isa.name(r), r.get("gpu"), f"Python {r['python']}", versions
    return ", ".join(filter(None, parts))


def table(columns, rows) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def ms(seconds) -> str:
    """Milliseconds with three digits; nothing for None."""
    return "" if seconds is None else f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def ratio(spread) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f}-{spread['high']:.2f})"


def case_of(r) -> str:
    o = r["options"]
    return f"{o['arch']}, batch {o['batch']}, {o['size']}x{o['size']}"


def step_of(r) -> str:
    """Task, case and instruction set of a record of `minires bench step`."""
    return ", ".join(filter(None, (r["task"], case_of(r), isa.name(r))))


def names(contenders) -> dict[str, str]:
    """What they are called beside each other: minires's default is "minires, C" where it also ran in NumPy."""
    return NAMES | ({"ours": "minires, C"} if {"ours", "numpy"} <= set(contenders) else {})


def steps(records) -> str:
    """A table for each case and task."""
    parts, groups = [], {}
    for r in records:
        groups.setdefault(step_of(r), []).append(r)
    for title, group in groups.items():
        rows, called = [], names(r["contender"] for r in group)
        ours = [name for name in ("ours", "numpy") if any(f"{name}_over_this" in r for r in group)] or ["ours"]
        for r in group:
            name = called[r["contender"]] + isa.exception(r)
            if "left_out" in r:
                rows.append((name, *[""] * (len(ours) + 2), f"left out: {r['left_out']}"))
                continue
            over = [ratio(r[f"{name}_over_this"]) if f"{name}_over_this" in r else "" for name in ours]
            floor = f"{r['time']['median'] / r['floor_seconds']:.2f}"
            rows.append((name, ms(r["time"]["median"]), *over, floor, f"{r['peak_mib']:.0f}"))
        over = [f"{called[name]} / this (quartiles)" for name in ours]
        parts.append(table([title, "ms", *over, "times the floor", "peak MiB"], rows))
    return "\n\n".join(parts)


def brief(records) -> str:
    """One row a case of `minires bench step`, and one a case on a GPU: the last measurement of each."""
    return "\n\n".join(filter(None, (brief_steps(records), brief_gpu(records))))


def fullest(records, key=step_of) -> dict:
    """For each `key` of the records of `minires bench step` the last run with most contenders: contender -> record."""
    groups = {}
    for r in records:
        if r["benchmark"] == "step" and "time" in r:
            groups.setdefault(key(r), {}).setdefault(r["date"], {})[r["contender"]] = r
    return {case: max(runs.items(), key=lambda run: (len(run[1]), run[0]))[1] for case, runs in groups.items()}


def brief_steps(records) -> str:
    """One row for each case of `minires bench step`, task and processor: minires over each peer, in C and in NumPy."""
    rows = []
    for (title, processor), run in fullest(records, lambda r: (step_of(r), f"{r['cpu']}, {r['cores']} cores")).items():
        called = {"ours": "C" if "numpy" in run else "", "numpy": "NumPy"}
        others = [run[name]["peak_mib"] for name in PEERS[:3] if name in run]
        for name in ("ours", "numpy"):
            if name not in run:
                continue
            time, peak = run[name]["time"]["median"], f"{run[name]['peak_mib']:.0f}"
            over = [
                f"{run[peer][f'{name}_over_this']['median']:.2f}{isa.exception(run[peer])}" if peer in run else ""
                for peer in PEERS
            ]
            memory = f"{peak} / {min(others):.0f}" if others else peak
            floor = f"{time / run[name]['floor_seconds']:.2f}"
            rows.append((title, called[name], processor, ms(time), *over, floor, memory))
    columns = ["minires over", "by", "processor", "ms", *(NAMES[name] for name in PEERS), "times the floor"]
    return _filled([*columns, "peak MiB, minires / PyTorch"], rows)


EAGER, COMPILED = ("torch", "torch_channels_last"), ("torch_compile", "torch_compile_graph")
# heading -> (task, precision, the peers of which the fastest counts)
BRIEF_GPU = {
    "training, TF32": ("training", "tf32", EAGER),
    "training, float32": ("training", "fp32", EAGER),
    "training, TF32, torch.compile": ("training", "tf32", COMPILED),
    "inference, float32": ("inference", "fp32", EAGER),
}


def brief_gpu(records) -> str:
    """One row for each network, size and batch on a GPU: minires / the fastest peer of the last run that had both."""
    runs, cases = {}, {}
    for r in records:
        if r["benchmark"] == "gpu-vs-cpu" and "time" in r:
            o = r["options"]
            cases.setdefault((o["arch"], o["size"]), {})[o["batch"]] = case_of(r)
            key = case_of(r), o["task"], o["precision"]
            runs.setdefault(key, {}).setdefault(r["date"], {})[r["contender"]] = r["time"]["median"]

    def cell(case, task, precision, peers):
        found = ""
        for _, times in sorted(runs.get((case, task, precision), {}).items()):
            best = min((times[name] for name in peers if name in times), default=None)
            if best and "ours" in times:
                found = f"{ms(times['ours'])} / {ms(best)} = {times['ours'] / best:.2f}"
        return found

    ordered = [case for batches in cases.values() for _, case in sorted(batches.items())]
    rows = [(case, *(cell(case, *column) for column in BRIEF_GPU.values())) for case in ordered]
    return _filled(["ms, minires / PyTorch", *BRIEF_GPU], [row for row in rows if any(row[1:])])


def _filled(columns, rows) -> str:
    """A table of the columns in which there is something; nothing without rows."""
    keep = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return table([columns[i] for i in keep], [[row[i] for i in keep] for row in rows]) if rows else ""


def scalings(records) -> str:
    """A table for each axis."""
    return "\n\n".join(
        table(*scaling.rows_of(axis, [r for r in records if r["axis"] == axis]))
        for axis in dict.fromkeys(r["axis"] for r in records)
    )


def breakdowns(records) -> str:
    """The ops that take a hundredth of the step or more."""
    total = {}
    for r in records:
        calls, seconds = total.get(r["op"], (0, 0.0))
        total[r["op"]] = calls + r["calls"], seconds + r["seconds"]
    whole = sum(seconds for _, seconds in total.values())
    rows = [
        (op, calls, ms(seconds), f"{seconds / whole:.1%}")
        for op, (calls, seconds) in sorted(total.items(), key=lambda item: -item[1][1])
        if seconds > 0.01 * whole
    ]
    return table([f"a step, {case_of(records[0])}: op", "calls", "ms", "share"], rows)


def scale_outs(records) -> str:
    """Its tables, each below its title."""
    from minires.benchmarks import scale_out

    return "\n\n".join(f"{title}:\n\n{table(columns, rows)}" for title, columns, rows in scale_out.tables(records))


def waits(records) -> str:
    """The share of an epoch that waits for data."""
    rows = [
        (
            f"{r['arch']}, {r['size']}x{r['size']}",
            f"{r['seconds']:.2f}",
            f"{r['wait_seconds']:.3f}",
            f"{r['share']:.1%}",
        )
        for r in records
    ]
    return table(["training on built-in signs", "epoch s", "waited s", "share"], rows)


def large(records) -> str:
    """What is done with data larger than memory, by the number of images."""
    rows = [
        (
            f"{r['train_images']:,}",
            r["what"],
            f"{r['seconds']:.1f}",
            f"{r['images_per_second']:,.0f}",
            "" if r["wait_share"] is None else f"{r['wait_share']:.2%}",
            f"{r['above_network_mib']:.0f}",
        )
        for r in records
    ]
    return table(["training images", "what", "s", "images/s", "waited", "peak MiB above the network's"], rows)


def gpu(records) -> str:
    """A row a case: ours and PyTorch on the GPU, both on the CPU, and what is reached of the limits."""
    groups = {}
    for r in records:
        if "time" in r:
            o = r["options"]
            key = f"{o['task']}, {case_of(r)}", o["precision"]
            groups.setdefault(key, {})[r["contender"]] = r
    rows = []
    for (title, precision), found in groups.items():
        times = {name: r["time"]["median"] for name, r in found.items()}
        ours, cpu = found.get("ours"), times.get("ours (CPU)")
        torch, compiled = (
            min((t for n, t in times.items() if n in peers), default=None) for peers in (EAGER, COMPILED)
        )
        here = times.get("ours")
        row = [title, precision if ours or torch else "fp32", ms(here), ms(times.get("ours_no_graph"))]
        row += [ms(times.get("plain")), ms(torch), ms(compiled), f"{here / torch:.2f}" if here and torch else ""]
        if ours and ours["flops_share"]:
            row += [f"{ours['flops'] / here / 1e12:.1f} ({ours['flops_share']:.0%})"]
            row += [f"{ours['bytes'] / here / 1e9:.0f} ({ours['bytes_share']:.0%})"]
        else:
            row += ["", ""]
        row += [ms(cpu), ms(times.get("torch_channels_last (CPU)")), f"{cpu / here:.1f}" if here and cpu else ""]
        rows.append(row)
    columns = ["case; times in ms", "precision", "minires GPU", "no graph", "plain ops", "PyTorch eager, better layout"]
    columns += ["torch.compile", "minires / PyTorch eager", "TFLOP/s (of the ceiling)", "GB/s (of the ceiling)"]
    columns += ["minires CPU", "PyTorch CPU", "CPU / GPU, minires"]
    return _filled(columns, rows)
