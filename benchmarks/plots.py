"""The pictures of the benchmarks, each made from records alone (the lines of --json), as often as one likes."""

import statistics
from pathlib import Path

from matplotlib.patches import Patch
from minires.benchmarks import isa, scaling
from minires.benchmarks.tables import fullest, machine, ms, names

from minires.instruments.style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PINK,
    SKY,
    TEXT,
    canvas,
    dress,
    figure,
    legend,
    save_picture,
)

COLORS = {"ours": BLUE, "numpy": SKY, "plain": SKY, "textbook": AMBER, "torch": ORANGE, "torch_channels_last": PINK}
COLORS |= {"ours_threads": SKY, "torch_fused_adam": PINK, "torch_compile": ORANGE, "keras": MUTED, "onnxruntime": GREEN}


def draw(records, folder) -> list[Path]:
    """Write every picture that these records can make; their paths."""
    from minires.benchmarks import gpu_plots, scale_plots

    kinds = {
        "bars.png": ("step", plot_bars),
        "breakdown.png": ("breakdown", plot_breakdown),
        "roofline.png": ("breakdown", plot_roofline),
        "scaling.png": ("scaling", plot_scaling),
        "crossover.png": ("gpu-vs-cpu", gpu_plots.plot_crossover),
        "gpu-bars.png": ("gpu-vs-cpu", gpu_plots.plot_bars),
        "scale-out.png": ("scale-out", scale_plots.plot),
    }
    paths = []
    for name, (benchmark, plot) in kinds.items():
        chosen = [r for r in records if r["benchmark"] == benchmark and "left_out" not in r]
        # what took turns in one run can be compared; the rest are single measurements, of which the last counts
        if plot is plot_bars:
            chosen = [r for run in fullest(chosen).values() for r in run.values()]
        elif benchmark not in ("breakdown", "scale-out"):
            chosen = latest(chosen)
        for case, group in plot.cases(chosen).items():
            if benchmark in ("breakdown", "scale-out"):  # the rows of one run belong together
                group = [r for r in group if r["date"] == max(r["date"] for r in group)]
            where = Path(folder) / (f"{case}-{name}" if case else name)
            if picture := plot(group):
                paths.append(save_picture(picture, where))
    return paths


def latest(records) -> list:
    """Of several measurements of the same thing, the last."""
    found = {}
    for r in records:
        o = r["options"]
        setting = [
            o.get(key) for key in ("arch", "size", "batch", "width", "threads", "optimizer", "task", "precision")
        ]
        row = [r.get(key) for key in ("task", "contender", "axis", "point", "op", "shape")]
        found[tuple(map(str, (o.get("isa", "default"), *setting, *row)))] = r
    return list(found.values())


def by(*keys, only=lambda r: True):
    """Marks a picture with the records that it draws, and the settings of which each value gets a picture, beside an
    instruction set that was asked for."""

    def mark(plot):
        def cases(records):
            groups = {}
            for r in filter(only, records):
                values = [str(r["options"][key]) for key in keys]
                if (asked := r["options"].get("isa", "default")) != "default":
                    values.append(asked)
                groups.setdefault("-".join(values), []).append(r)
            return groups

        plot.cases = cases
        return plot

    return mark


def origin(records) -> dict:
    """What the small print says: the runs that these records are of, each machine with its own versions."""
    runs = {(r["date"], r["command"]): r for r in records}
    machines = {}
    for (date, command), r in runs.items():
        machines.setdefault(machine(r), []).append(f"{command}, {date[:10]}")
    note = "; ".join(f"{'; '.join(commands)}; {where}" for where, commands in machines.items())
    return {"note": note, "versions": False}


def _case(r) -> str:
    o, instructions = r["options"], isa.name(r)
    images = f"{o['batch']} image{'s' * (o['batch'] > 1)} of {o['size']}x{o['size']}"
    return f"{o['arch']}: {images}" + (f", {instructions}" if instructions else "")


@by("arch", "size", "batch")
def plot_bars(records):
    """The median time of each contender with its quartiles, a panel a task; the floor as a line."""
    tasks = list(dict.fromkeys(r["task"] for r in records))
    title, called = f"One batch through {_case(records[0])}", names(r["contender"] for r in records)
    fig, axes = figure(title, panels=len(tasks), height=3.8, **origin(records))
    for ax, task in zip(axes, tasks, strict=True):
        rows = sorted((r for r in records if r["task"] == task), key=lambda r: -r["time"]["median"])
        times = [1e3 * r["time"]["median"] for r in rows]
        error = [[1e3 * abs(r["time"][end] - r["time"]["median"]) for r in rows] for end in ("low", "high")]
        labels = [called[r["contender"]] + isa.exception(r) for r in rows]
        colors = [COLORS[r["contender"]] for r in rows]
        bars = ax.barh(labels, times, xerr=error, color=colors, error_kw={"ecolor": INK, "elinewidth": 1}, height=0.7)
        told = [f"{ms(t / 1e3)} ms, {r['peak_mib']:.0f} MiB" for t, r in zip(times, rows, strict=True)]
        ax.bar_label(bars, told, padding=6, color=INK, fontsize=TEXT - 2)
        floor = 1e3 * rows[0]["floor_seconds"]
        ax.axvline(floor, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label=f"the floor, {floor:.3g} ms")
        ax.set_xlim(0, 1.6 * max(times))
        ax.set_xlabel(f"{task}: ms, with quartiles")
        ax.grid(False, axis="y")
        ax.tick_params(axis="y", labelcolor=INK)
        legend(ax)
    return fig


@by("arch", "size", "batch")
def plot_breakdown(records):
    """The share of a step that each op takes."""
    total, step = {}, records[0]["step_seconds"]
    for r in records:
        total[r["op"]] = total.get(r["op"], 0) + r["seconds"]
    whole = sum(total.values())
    large = {op: s for op, s in total.items() if s > 0.005 * whole}
    if small := whole - sum(large.values()):
        large[f"{len(total) - len(large)} smaller ops"] = small
    rows = sorted(large.items(), key=lambda item: item[1])
    fig, (ax,) = figure("Where a training step goes", height=0.3 * len(rows) + 1.6, **origin(records))
    bars = ax.barh([op for op, _ in rows], [100 * s / whole for _, s in rows], color=[_kind(op)[0] for op, _ in rows])
    ax.bar_label(bars, [f"{s / whole:.1%}" for _, s in rows], padding=5, color=INK, fontsize=TEXT - 2)
    ax.set_xlabel(f"% of a step of {1e3 * step:.0f} ms, in the thread that calls it")
    ax.set_xlim(0, 115 * rows[-1][1] / whole)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", labelcolor=INK, labelsize=TEXT - 2)
    ax.margins(y=0.02)
    legend(ax, _case(records[0]), columns=2, extra=[Patch(color=c, label=name) for name, (c, _) in KINDS.items()])
    return fig


KINDS = {
    "matrix products": (BLUE, "o"),
    "batch normalisation, add, ReLU": (ORANGE, "s"),
    "copies for the products": (AMBER, "^"),
    "other": (MUTED, "D"),
}


def _kind(op) -> tuple:
    """(colour, marker, name) of an op."""
    if op.startswith(("conv", "dense", "winograd", "rowwise", "tapwise", "pointwise")):
        name = "matrix products"
    elif "norm" in op or op.startswith(("relu", "add", "statistics", "centre")):
        name = "batch normalisation, add, ReLU"
    elif op in ("im2col", "col2im") or op.startswith(("zero_pad", "kernel")):
        name = "copies for the products"
    else:
        name = "other"
    return (*KINDS[name], name)


@by("arch", "size", "batch")
def plot_roofline(records):
    """Each op at each shape, at its intensity and its rate, below the two ceilings."""
    o, floors = records[0]["options"], records[0]["floors"]
    fig, (ax,) = figure("How far from the machine's limits", height=5.2, **origin(records))
    whole, threads = sum(r["seconds"] for r in records), o["threads"] or records[0]["cores"]
    parts = 1 if "contender" in o else threads  # in older records the calling thread had its part of the batch
    points = [r for r in records if r["flops"] and r["bytes"] and r["seconds"] > 5e-4 * whole]
    seen = set()
    for r in sorted(points, key=lambda r: -r["seconds"]):
        color, marker, name = _kind(r["op"])
        rate, area = parts * r["flops"] / r["seconds"] / 1e9, 20 + 4000 * r["seconds"] / whole
        label = None if name in seen else name
        seen.add(name)
        ax.scatter(r["flops"] / r["bytes"], rate, area, c=color, marker=marker, alpha=0.55, linewidth=0, label=label)
    at = [r["flops"] / r["bytes"] for r in points]
    peak, bandwidth = floors["best"] / 1e9, floors["bandwidth"] / 1e9
    low, high, ridge = min(at) / 2, max(at) * 2, peak / bandwidth
    ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color=INK, linewidth=1.6)
    text = {"color": INK, "fontsize": TEXT - 2, "va": "bottom", "ha": "right"}
    ax.text(high, 1.12 * peak, f"matrix products, measured: {peak:.0f} GFLOP/s", **text)
    ax.text(0.95, 0.95 * bandwidth, f"memory, measured: {bandwidth:.0f} GB/s\n(above: from the cache)", **text)
    ax.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(None, 2.5 * peak),
        xlabel="intensity: FLOPs a byte, each array moved once",
    )
    ax.set_ylabel(f"GFLOP/s, {threads} threads")
    legend(ax, f"{_case(records[0])}; a point an op and shape, its area the time in a step", columns=2)
    for handle in ax.get_legend().legend_handles:
        handle.set_sizes([50])
    return fig


@by()
def plot_scaling(records):
    """A row a axis: time and peak memory of ours, of PyTorch's better layout, and the floor."""
    axes_names = list(dict.fromkeys(r["axis"] for r in records))
    fig = canvas("How the cost of a training step grows", height=3.3 * len(axes_names), **origin(records))
    grid = fig.subplots(len(axes_names), 2, squeeze=False)
    for (left, right), axis in zip(grid, axes_names, strict=True):
        here = [r for r in records if r["axis"] == axis]
        at = list(dict.fromkeys(r["point"] for r in here))
        ours = {r["point"]: r for r in here if r["contender"] == "ours"}
        torch = {p: t for p in at if (t := scaling.better([r for r in here if r["point"] == p]))}
        for ax in (left, right):
            dress(ax)
        for found, color, marker, label in (
            (ours, BLUE, "o", "minires"),
            (torch, ORANGE, "s", "PyTorch's better layout"),
        ):
            if found:
                style = {"color": color, "marker": marker, "linewidth": 2, "label": label}
                left.plot(list(found), [1e3 * statistics.median(r["seconds"]) for r in found.values()], **style)
                right.plot(list(found), [r["peak_mib"] for r in found.values()], **style)
        floor = [1e3 * next(r["floor_seconds"] for r in here if r["point"] == p) for p in at]
        left.plot(at, floor, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, label="the floor")
        left.set(xscale="log", yscale="log", ylabel="ms")
        right.set(xscale="log", ylabel="peak MiB", ylim=(0, None))
        for ax in (left, right):
            ax.set_xticks(at, [str(p) for p in at])
            ax.minorticks_off()
            ax.set_xlabel(scaling.LABELS[axis])
        o = here[0]["options"]
        fixed = {"batch": f"batch {o['batch']}", "size": f"{o['size']}x{o['size']}", "depth": o["arch"]}
        text = ", ".join(value for key, value in fixed.items() if key != axis)
        legend(left, text)
        legend(right, text)
    return fig
