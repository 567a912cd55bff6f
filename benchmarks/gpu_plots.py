"""The pictures of `minires bench gpu-vs-cpu`: where the GPU begins to pay, and bars against PyTorch on the GPU."""

from minires.benchmarks.lanes import PRECISION
from minires.benchmarks.plots import by, note

from minires.look.style import AMBER, BLUE, GREEN, INK, MUTED, ORANGE, PINK, SKY, TEXT, dress, figure, legend

LINES = {
    "ours (CPU)": (BLUE, "o", "minires, CPU", "--"),
    "torch_channels_last (CPU)": (PINK, "s", "PyTorch channels_last, CPU", "--"),
    "ours": (BLUE, "o", "minires, GPU", "-"),
    "torch": (ORANGE, "^", "PyTorch, GPU", "-"),
    "torch_channels_last": (PINK, "s", "PyTorch channels_last, GPU", "-"),
}
BARS = {
    "ours": (BLUE, "minires, as fit runs it"),
    "ours_no_graph": (SKY, "minires, no CUDA graph"),
    "plain": (AMBER, "minires, plain ops"),
    "torch": (ORANGE, "PyTorch"),
    "torch_channels_last": (PINK, "PyTorch channels_last"),
    "torch_compile": (GREEN, "torch.compile"),
    "torch_compile_graph": (MUTED, "torch.compile, CUDA graphs"),
}


@by(only=lambda r: "time" in r)
def plot_crossover(records):
    """Images a second by batch, for each network and image size with more than one batch; training above inference."""
    timed = [r for r in records if r["options"]["precision"] == PRECISION[r["options"]["task"]]]
    nets = {}
    for r in timed:
        nets.setdefault((r["options"]["arch"], r["options"]["size"]), set()).add(r["options"]["batch"])
    nets = [net for net, batches in nets.items() if len(batches) > 1] or list(nets)
    tasks = list(dict.fromkeys(r["options"]["task"] for r in timed))
    fig, axes = figure("GPU or CPU? Images a second by batch", panels=2, height=3.6 * len(tasks), note=note(records))
    for ax in axes:
        ax.remove()
    grid = fig.subplots(len(tasks), len(nets), squeeze=False)
    for i, task in enumerate(tasks):
        for ax, (arch, size) in zip(grid[i], nets, strict=True):
            dress(ax)
            ticks = set()
            for name, (color, marker, label, style) in LINES.items():
                points = {}
                for r in timed:
                    o = r["options"]
                    if (r["contender"], o["task"], o["arch"], o["size"]) == (name, task, arch, size):
                        points[o["batch"]] = o["batch"] / r["time"]["median"]
                if points:
                    at = sorted(points)
                    ticks |= points.keys()
                    look = {"color": color, "marker": marker, "linestyle": style, "linewidth": 2, "markersize": 5}
                    ax.plot(at, [points[n] for n in at], label=label, **look)
            ax.set(xscale="log", yscale="log", xlabel="images in a batch", ylabel="images a second")
            ax.set_xticks(sorted(ticks), [str(n) for n in sorted(ticks)])
            ax.minorticks_off()
            precision = PRECISION[task].upper()
            ax.text(
                0,
                1.02,
                f"{task}, {arch}, {size}x{size} (GPU: {precision})",
                transform=ax.transAxes,
                color=INK,
                fontsize=TEXT - 1,
            )
    handles = {}
    for ax in grid.flat:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False, fontsize=TEXT - 1)
    return fig


@by(only=lambda r: r.get("device") == "gpu" and r["options"]["task"] == "training")
def plot_bars(records):
    """Time over that of minires's default step, on the GPU, for each training case and precision."""
    cases = {}
    for r in records:
        o = r["options"]
        key = f"{o['arch']}\n{o['size']}x{o['size']}, batch {o['batch']}\n{o['precision']}"
        cases.setdefault(key, {})[r["contender"]] = 1e3 * r["time"]["median"]
    cases = {key: times for key, times in cases.items() if "ours" in times}
    fig, (ax,) = figure("A training step on the GPU, times minires's", height=4.6, note=note(records))
    fig.set_figwidth(max(8.6, 1.5 * len(cases)))
    names = [name for name in BARS if any(name in times for times in cases.values())]
    width = 0.8 / max(1, len(names))
    for k, name in enumerate(names):
        color, label = BARS[name]
        places = [(i, times[name] / times["ours"]) for i, times in enumerate(cases.values()) if name in times]
        at = [i - 0.4 + (k + 0.5) * width for i, _ in places]
        bars = ax.bar(at, [height for _, height in places], width * 0.92, color=color, label=label)
        if name == "ours":
            labels = [f"{times['ours']:.3g} ms" for times in cases.values()]
            ax.bar_label(bars, labels, padding=3, color=INK, fontsize=TEXT - 4, rotation=90)
    ax.axhline(1, color=INK, linewidth=1)
    ax.set_xticks(range(len(cases)), list(cases), fontsize=TEXT - 3)
    ax.set_ylabel("time / minires's time")
    ax.grid(False, axis="x")
    legend(ax)
    return fig
