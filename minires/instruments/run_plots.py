"""Pictures of trained runs: whether one's probabilities can be believed, several beside each other.

As in `plots`, every function returns a Figure and takes `note` and `narrow`.
"""

from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minires.instruments.plots import brief, scale_losses
from minires.instruments.style import BLUE, GRID, INK, MARKERS, MUTED, ORANGE, PALETTE, TEXT, figure, legend
from minires.train.scores import Calibration


def plot_calibration(found: Calibration, *, note: str = "", narrow: bool = False) -> Figure:
    """The reliability diagram: by the probability of the answer how many are right, above how many images there are.

    Below the diagonal the network is surer than it should be. A. Niculescu-Mizil, R. Caruana, ICML 2005.
    """
    fig, (ax,) = figure("Can its probabilities be believed?", narrow=narrow, height=4.9, note=note)
    filled = found.counts > 0
    width = found.edges[1] - found.edges[0]
    left, sure, right = found.edges[:-1][filled], found.confidence[filled], found.accuracy[filled]
    share = found.counts[filled] / found.counts.sum()
    ax.bar(left, 0.2 * share / share.max(), width, align="edge", color=GRID, label="images")
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="as sure as right")
    ax.vlines(sure, sure, right, color=ORANGE, linewidth=2, label="gap")
    ax.plot(sure, right, color=BLUE, marker="o", markersize=7, linestyle="", label="right")
    for at, high, count in zip(sure, right, found.counts[filled], strict=True):
        ax.annotate(str(count), (at, high), (6, 3), textcoords="offset points", fontsize=TEXT - 3, color=INK)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(xlim=(0, 1), ylim=(0, 1.06), xlabel="probability of the answer", ylabel="share of right answers")
    legend(ax, columns=2 if narrow else 4)
    return fig


def plot_runs(groups: dict[str, list[list[dict]]], *, note: str = "", narrow: bool = False) -> Figure:
    """Loss and accuracy by epoch, of the first of the test, validation and training part that all histories have.

    A colour a group of histories.

    Of several in a group, such as seeds, each is a thin line and their mean a thick one, as far as all have come.
    """
    fig, axes = figure("Epoch by epoch", panels=2, narrow=narrow, note=note)
    last = [rows[-1] for histories in groups.values() for rows in histories]
    part = next(part for part in ("test", "validation", "train") if all(f"{part}_loss" in row for row in last))
    for ax, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for (label, histories), color, marker in zip(groups.items(), cycle(PALETTE), cycle(MARKERS), strict=False):
            curves = [[row[f"{part}_{quantity}"] for row in rows] for rows in histories]
            for curve in curves if len(curves) > 1 else ():
                ax.plot(range(1, len(curve) + 1), curve, color=color, linewidth=0.8, alpha=0.5)
            mean = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
            size = 5 if len(mean) <= 30 else 0
            style = {"color": color, "marker": marker, "markersize": size, "linewidth": 2}
            seeds = f" ({len(curves)} seeds)" if len(curves) > 1 else ""
            ax.plot(range(1, len(mean) + 1), mean, label=brief(label, 60) + seeds, **style)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))
        heading = {"test": "Test", "validation": "Validation", "train": "Training"}[part]
        legend(ax, f"{heading} {quantity}", columns=1)
    scale_losses(axes[0])
    axes[1].set_ylim(0, 1.02)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig
