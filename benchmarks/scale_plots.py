"""The picture of `minires bench scale-out`: what the model says of many hosts, and where it was checked."""

from matplotlib.lines import Line2D
from minires.benchmarks import scale_out
from minires.benchmarks.plots import by, origin

from minires.instruments.style import BLUE, GREEN, INK, MUTED, ORANGE, TEXT, figure, legend

COLORS = dict(zip(scale_out.LATER[1], (ORANGE, BLUE, GREEN), strict=True))
LINES = {"local": "-", "exact": (0, (4, 2))}


@by("arch", "size", "batch")
def plot(records):
    """Left the predicted efficiency by hosts, right the checks; the left alone where nothing was checked."""
    o, checks = records[0]["options"], scale_out.checks(records)
    title = "Many hosts: what a model predicts, and where it was checked"
    fig, axes = figure(title, panels=1 + bool(checks), height=4.4, **origin(records))
    _predicted(axes[0], records, o)
    if checks:
        _checked(axes[1], checks)
    return fig


def _predicted(ax, records, o):
    hosts = scale_out.LATER[0]
    for (bn, gbit), values in scale_out.predictions(records).items():
        label = f"{gbit} Gbit/s" if bn == "local" else None
        ax.plot(hosts, [100 * v for v in values], color=COLORS[gbit], linestyle=LINES[bn], linewidth=2, label=label)
    ax.set_xscale("log", base=2)
    ax.set_xticks(hosts, [f"{p:,}" for p in hosts], rotation=45)
    ax.minorticks_off()
    ax.set(xlabel="hosts, one rank each", ylabel="efficiency: % of one host alone", ylim=(0, 105))
    ways = [Line2D([], [], color=INK, linestyle=LINES[bn], label=f"{bn} batch norm") for bn in LINES]
    heading = f"predicted: {o['arch']}, {o['batch']} images of {o['size']}x{o['size']} a host"
    legend(ax, heading, columns=3, extra=ways)


def _checked(ax, checks):
    rows = sorted(checks, key=lambda c: (c["ranks"], -c["gbit"], c["bn"]), reverse=True)
    for y, c in enumerate(rows):
        times = [1e3 * c[key] for key in ("alone", "seconds", "predicted")]
        ax.plot([times[0], max(times[1:])], [y, y], color=MUTED, linewidth=1)
        for value, marker, color, face in zip(times, "|os", (MUTED, BLUE, ORANGE), (MUTED, BLUE, "none"), strict=True):
            ax.plot(value, y, marker=marker, color=color, markerfacecolor=face, markersize=8, linestyle="")
        style = {"textcoords": "offset points", "va": "center", "fontsize": TEXT - 2, "color": INK}
        ax.annotate(f"{round(100 * c['error']):+d}%", (max(times), y), (8, 0), **style)
    ax.set_yticks(range(len(rows)), [f"{c['ranks']} hosts, {c['gbit']:g} Gbit/s, {c['bn']}" for c in rows])
    ax.tick_params(axis="y", labelcolor=INK, labelsize=TEXT - 2)
    ax.set_xlim(0, 1.15e3 * max(c[key] for c in rows for key in ("seconds", "predicted")))
    ax.set_xlabel("ms of a step, one batch for all hosts")
    ax.grid(False, axis="y")
    marks = [
        Line2D([], [], color=BLUE, marker="o", linestyle="", label="measured"),
        Line2D([], [], color=ORANGE, marker="s", markerfacecolor="none", linestyle="", label="the model"),
        Line2D([], [], color=MUTED, marker="|", linestyle="", label="computing alone"),
    ]
    legend(ax, "checked: namespaces of one machine, limited links", columns=3, extra=marks)
