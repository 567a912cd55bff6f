"""The pictures of `minires bench gpu-vs-cpu`: where the GPU begins to pay, and bars against PyTorch on the GPU."""

from matplotlib.ticker import LogLocator
from minires.benchmarks.lanes import PRECISION
from minires.benchmarks.plots import by, origin

from minires.instruments.style import AMBER, BLUE, GREEN, HEAD, INK, MUTED, ORANGE, PINK, SKY, TEXT, canvas, dress

LEGEND = 0.55  # inches

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
    """Images a second by batch, a column a network with several batches, or None; training above inference."""
    timed = [r for r in records if r["options"]["precision"] == PRECISION[r["options"]["task"]]]
    batches = {}
    for r in timed:
        batches.setdefault(_net(r), set()).add(r["options"]["batch"])
    nets = [net for net, several in batches.items() if len(several) > 1]
    if not nets:
        return None
    tasks = list(dict.fromkeys(r["options"]["task"] for r in timed))
    fig, grid = _grid("GPU or CPU? Images a second", len(tasks), len(nets), 3.2, records)
    for row, task in zip(grid, tasks, strict=True):
        for ax, (arch, size) in zip(row, nets, strict=True):
            for name, (color, marker, label, style) in LINES.items():
                points = {}
                for r in timed:
                    o = r["options"]
                    if (r["contender"], o["task"], *_net(r)) == (name, task, arch, size):
                        points[o["batch"]] = o["batch"] / r["time"]["median"]
                look = {"color": color, "marker": marker, "linestyle": style, "linewidth": 2, "markersize": 5}
                if points:
                    ax.plot(sorted(points), [points[n] for n in sorted(points)], label=label, **look)
            ticks = sorted(batches[arch, size])
            ax.set(xscale="log", yscale="log", xlabel="images in a batch")
            ax.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
            ax.set_xticks(ticks, [str(n) for n in ticks])
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:,.0f}")
            ax.minorticks_off()
            ax.set_title(f"{arch}, {size}x{size}", fontsize=TEXT, color=INK, loc="left")
        row[0].set_ylabel(f"{task} (GPU: {PRECISION[task]})")
    return _legend(fig, grid, [label for _, _, label, _ in LINES.values()])


@by(only=lambda r: r.get("device") == "gpu" and r["options"]["task"] == "training")
def plot_bars(records):
    """Time over that of minires's default step, for each training case; a row a precision."""
    precisions, nets = {}, list(dict.fromkeys(map(_net, records)))
    for r in sorted(records, key=lambda r: (nets.index(_net(r)), r["options"]["batch"])):
        o = r["options"]
        case = f"{o['arch']}\n{o['size']}x{o['size']}\nbatch {o['batch']}"
        times = precisions.setdefault(o["precision"], {}).setdefault(case, {})
        times[r["contender"]] = 1e3 * r["time"]["median"]
    precisions = {p: {c: t for c, t in cases.items() if "ours" in t} for p, cases in precisions.items()}
    fig, grid = _grid("A training step on the GPU, beside minires's", len(precisions), 1, 3.4, records)
    for (ax,), (precision, cases) in zip(grid, precisions.items(), strict=True):
        for i, times in enumerate(cases.values()):
            present = [name for name in BARS if name in times]
            width = min(0.16, 0.84 / len(present))
            for k, name in enumerate(present):
                color, label = BARS[name]
                height = times[name] / times["ours"]
                at = i + (k - (len(present) - 1) / 2) * width
                ax.bar(at, height, width * 0.92, color=color, label=label)
                ax.text(
                    at, height, f" {times[name]:.3g} ms", ha="center", va="bottom", rotation=90, fontsize=7, color=INK
                )
        ax.axhline(1, color=INK, linewidth=1)
        ax.set_xticks(range(len(cases)), list(cases), fontsize=TEXT - 2)
        ax.set_xlim(-0.6, max(3, len(cases)) - 0.4)
        ax.margins(y=0.3)
        ax.set_ylabel(f"{precision}: time / minires's")
        ax.grid(False, axis="x")
    return _legend(fig, grid, [label for _, label in BARS.values()])


def _net(r):
    return r["options"]["arch"], r["options"]["size"]


def _grid(title, rows, columns, height, records):
    """(figure, rows of axes) with room for one legend below the title; see `_legend`."""
    fig = canvas(title, height=height * rows, head=HEAD + LEGEND, **origin(records))
    grid = fig.subplots(rows, columns, squeeze=False)
    for ax in grid.flat:
        dress(ax)
    return fig, grid


def _legend(fig, grid, labels):
    """The figure, with each of the labels that any of the axes has, in this order."""
    handles = {}
    for ax in grid.flat:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    handles = {label: handles[label] for label in labels if label in handles}
    columns = -(-len(handles) // -(-len(handles) // 4))  # of a legend with at most four
    place = (0.1 / fig.get_figwidth(), 1 - HEAD / fig.get_figheight())
    style = {"ncols": columns, "frameon": False, "fontsize": TEXT - 1, "labelcolor": INK, "borderpad": 0}
    legend = fig.legend(handles.values(), handles, loc="upper left", bbox_to_anchor=place, **style)
    legend.set_in_layout(False)
    return fig
