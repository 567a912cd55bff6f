"""The pictures: gradient by depth, training curves, confusion, mistakes. Every function returns a Figure.

`note` goes to the line of provenance in the corner (without one, a flow names its network there); `narrow`
lays the picture out for a phone.
"""

from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minires.console import visible
from minires.errors import DataError
from minires.instruments.gradflow import GradFlow
from minires.instruments.gradflow.grid import Grid, expected
from minires.instruments.style import (
    BAND,
    BLUE,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PALETTE,
    SINGLE,
    TEXT,
    WIDE,
    canvas,
    dress,
    figure,
    legend,
    overlay,
    save_picture,
)
from minires.train.scores import confusion

__all__ = [
    "plot_confusion",
    "plot_curves",
    "plot_epsilon_sweep",
    "plot_gradflow",
    "plot_gradflow_grid",
    "plot_gradient_norms",
    "plot_mistakes",
    "plot_probe",
    "plot_rate_test",
    "save_picture",
]


DASHED = {"linestyle": (0, (4, 3)), "linewidth": 1.2, "alpha": 0.8}
WIDE_SPREAD = 50  # of losses: the largest over the smallest
THEORY = "; dashed: theory for wide dense nets"


def plot_gradflow(flows: dict[str, GradFlow], *, theory: bool = False, note: str = "", narrow: bool = False) -> Figure:
    """Activation gradients and weight gradients by depth, one line a regime, on logarithmic axes.

    Left (or above): RMS of dL/dy between the blocks, as a line, and at each convolution's output, as dots.
    Right (or below): the Euclidean norm of dL/dw of each kernel, relative to the norm of w. Only the first can
    show whether the gradient vanishes on its way; both are of one batch. theory: the networks are as initialised,
    so draw what is expected of them (`gradflow_grid.block_rate`) from the last block back.
    """
    _need(flows, "flows", "a GradFlow for each label")
    note = note or "; ".join(dict.fromkeys(flow.origin for flow in flows.values()))
    fig, (left, right) = figure("The gradient on its way back", panels=2, narrow=narrow, note=note)
    for (label, flow), color, marker in zip(flows.items(), cycle(PALETTE), cycle(MARKERS), strict=False):
        layers = [layer for layer in flow.layers if layer.main]
        between = [_starts(flow)[0], *(b.depth for b in flow.blocks)]
        values = [flow.blocks[0].dx_rms, *(b.dy_rms for b in flow.blocks)]
        left.plot(between, _positive(values), color=color, marker=marker, markersize=4.5, linewidth=2, label=label)
        left.plot(
            [layer.depth for layer in layers],
            _positive([layer.dy_rms for layer in layers]),
            color=color,
            linestyle="",
            marker=".",
            markersize=3.5,
            alpha=0.5,
        )
        rates = expected(flow) if theory else None
        if rates is not None:
            scale = [v / n if v and n else np.nan for v, n in zip(values, flow.norms(), strict=True)]
            left.plot(between, np.multiply(rates, scale), color=color, **DASHED)
        relative = [layer.dw_norm / layer.w_norm if layer.dw_norm and layer.w_norm else None for layer in layers]
        depths = [layer.depth for layer in layers]
        right.plot(depths, _positive(relative), color=color, marker=marker, markersize=3.5, linewidth=1.5, label=label)
    for ax in (left, right):
        ax.set_yscale("log")
        ax.set_xlabel("depth, in layers from the image")
        _mark_stages(ax, next(iter(flows.values())))
    left.set_ylabel("RMS of dL/dy" + " at initialisation" * theory)
    right.set_ylabel("norm of dL/dw / norm of w")
    inside = Line2D([], [], color=MUTED, linestyle="", marker=".", markersize=5, label="inside blocks")
    dashed = THEORY if theory and any(map(expected, flows.values())) else ""
    legend(left, f"Activation gradients{dashed}", columns=2 if narrow else 4, extra=[inside])
    legend(right, "Weight gradients", columns=2 if narrow else 4)
    return fig


def plot_gradflow_grid(grid: Grid, *, note: str = "") -> Figure:
    """The activation gradient's norm by block, a line a network, a panel for each architecture with and without BN.

    Colour and marker tell the skip, filled or hollow the initial weights. Each line starts at 1 after the last
    block, on the right, and runs back towards the image; dashed is `gradflow.grid.expected`.
    """
    panels = grid.panels()
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    size = {"width": WIDE if columns > 1 else SINGLE, "height": 4.6 * rows}
    fig = canvas("The gradient on its way back", **size, note=note)
    for place, (title, flows) in enumerate(panels.items(), start=1):
        ax = fig.add_subplot(rows, columns, place)
        dress(ax)
        for label, flow in flows.items():
            color, marker = (BLUE, "o") if flow.config.skip else (ORANGE, "s")
            style = {"he": {"markersize": 4}, "glorot": {"markersize": 7, "markerfacecolor": "none"}}[flow.config.init]
            at = [_starts(flow)[0], *(b.depth for b in flow.blocks)]
            style |= {"color": color, "marker": marker, "markevery": max(1, len(at) // 18), "linewidth": 1.5}
            ax.plot(at, _positive(flow.norms()), label=label, **style)
            if (theory := expected(flow)) is not None:
                ax.plot(at, theory, color=color, **DASHED)
        ax.set_yscale("log")
        ax.set_xlabel("depth, in layers from the image")
        ax.set_ylabel("activation gradient at initialisation\n(norm, 1 after the last block)")
        _mark_stages(ax, flow)
        legend(ax, title + (THEORY if any(map(expected, flows.values())) else ""), columns=2)
    return fig


def plot_gradient_norms(flow: GradFlow, *, note: str = "", narrow: bool = False) -> Figure:
    """One network's activation gradient by depth, and what each path of its blocks contributes."""
    fig, (ax,) = figure("Gradient by depth", narrow=narrow, note=note or flow.origin)
    layers = [layer for layer in flow.layers if layer.main]
    depths = [layer.depth for layer in layers]
    ax.plot(
        depths,
        _positive([layer.dy_rms for layer in layers]),
        color=MUTED,
        marker=".",
        markersize=4,
        linewidth=0.8,
        alpha=0.8,
        label="layer outputs",
    )
    ax.plot(
        [b.depth for b in flow.blocks],
        _positive([b.dy_rms for b in flow.blocks]),
        color=BLUE,
        marker="o",
        markersize=5,
        linewidth=2.2,
        label="block outputs",
    )
    skips = [(start, b) for start, b in zip(_starts(flow), flow.blocks, strict=True) if b.shortcut_rms is not None]
    paths = (("branch_rms", ORANGE, "v", "back through branch"), ("shortcut_rms", GREEN, "D", "through shortcut"))
    for key, color, marker, label in paths if skips else ():
        values = _positive([getattr(block, key) for _, block in skips])
        at = [start for start, _ in skips]
        ax.plot(at, values, color=color, marker=marker, markersize=5, linestyle="", label=label)
    ax.set_yscale("log")
    ax.set_xlabel("depth, in layers from the image")
    ax.set_ylabel("activation gradient, RMS of dL/dy")
    _mark_stages(ax, flow)
    legend(ax, columns=2 if narrow else 4)
    return fig


def plot_curves(history: list[dict], *, note: str = "", narrow: bool = False) -> Figure:
    """Loss and accuracy by epoch, of the training set and, where it was measured, the test or validation set.

    history: rows with epoch, train_loss, train_accuracy and maybe test_loss, test_accuracy (None: not measured), or
    validation_loss, validation_accuracy.
    """
    _need(history, "history", "one row an epoch")
    fig, axes = figure("Training", panels=2, narrow=narrow, note=note)
    epochs = [row["epoch"] for row in history]
    for ax, quantity, title in zip(axes, ("loss", "accuracy"), ("Loss (cross-entropy)", "Accuracy"), strict=True):
        for part, color, marker in (("train", BLUE, "o"), ("test", ORANGE, "s"), ("validation", ORANGE, "s")):
            values = np.array([row.get(f"{part}_{quantity}") for row in history], float)  # None becomes NaN
            if np.isfinite(values).any():
                size = 5 if len(history) <= 30 else 0
                ax.plot(epochs, values, color=color, marker=marker, markersize=size, linewidth=2, label=part)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))
        legend(ax, title)
    scale_losses(axes[0])
    axes[1].set_ylim(0, 1.02)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return fig


def scale_losses(ax) -> None:
    """A scale on which all losses drawn can be told apart."""
    lowest, highest = ax.dataLim.intervaly  # infinite where no loss was a number
    if lowest > 0 and WIDE_SPREAD * lowest < highest < np.inf:
        ax.set_yscale("log")  # one bad epoch would press all others onto the axis
    else:
        ax.set_ylim(0, 1.06 * highest if 0 < highest < np.inf else 1)


def plot_confusion(labels, predictions, classes, *, note: str = "", narrow: bool = False) -> Figure:
    """How often each class (row) was taken for each class (column): counts, shaded by the row's share."""
    K = len(classes)
    counts = confusion(labels, predictions, K)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    fig, (ax,) = figure("Confusion", narrow=narrow, height=5.4 if narrow else 6.4, note=note)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if K <= 20:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if share[row, column] > 0.55 else (INK if count else "#b8c0ca")
            ax.text(column, row, count, ha="center", va="center", color=color, fontsize=TEXT if K <= 10 else 8)
    names = [brief(name, 14) for name in classes]
    turned = max(map(len, names)) > 4
    ax.set_xticks(range(K), names, rotation=45 if turned else 0, ha="right" if turned else "center")
    ax.set_yticks(range(K), names)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.grid(False)
    if narrow:
        return fig
    bar = fig.colorbar(image, ax=ax, shrink=0.75, format=PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class", color=INK, fontsize=TEXT - 1)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=TEXT - 2, length=0)
    return fig


def plot_mistakes(
    images,
    labels,
    predictions,
    confidences,
    classes,
    explain=None,
    *,
    most: int = 12,
    note: str = "",
    narrow: bool = False,
) -> Figure:
    """The wrong predictions that the network was surest of, surest first; says so when there is none.

    images (N, H, W, 3) uint8, or a callable index (n,) -> images, so that only those shown are read. explain: a
    callable index (n,) -> heat (n, h, w), at least 0, drawn over a copy of each image: where the answer came from.
    """
    labels, predictions, confidences = map(np.asarray, (labels, predictions, confidences))
    shown = worst_mistakes(labels, predictions, confidences)[:most]
    each = 1 if explain is None else 2
    columns = each * min((3 if narrow else 6) // each, max(len(shown), 1))
    rows = -(-max(each * len(shown), 1) // columns)
    title = "Worst mistakes" if len(shown) else "No mistakes"
    fig, (ax,) = figure(title, narrow=narrow, height=(2.3 if narrow else 1.9) * rows, note=note)
    ax.remove()
    if not len(shown):
        fig.text(0.5, 0.5, f"All {len(labels)} images were classified right.", ha="center", color=INK, fontsize=TEXT)
        return fig
    pictures = images(shown) if callable(images) else np.asarray(images)[shown]
    grid = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax in grid:
        ax.axis("off")
    for ax, picture, index in zip(grid[::each], pictures, shown, strict=False):
        ax.imshow(picture)
        true, guess = (brief(classes[k], 12) for k in (labels[index], predictions[index]))
        ax.set_title(f"said {guess} ({confidences[index]:.0%})\ntrue: {true}", fontsize=TEXT - 2, color=INK)
    for ax, picture, index, heat in zip(grid[1::2], pictures, shown, explain(shown), strict=False) if explain else ():
        ax.imshow(picture)
        overlay(ax, heat / (heat.max() or 1), "inferno", 0, 1)
        ax.set_title(f"evidence for\n{brief(classes[predictions[index]], 12)}", fontsize=TEXT - 2, color=INK)
    return fig


def worst_mistakes(labels, predictions, confidences) -> np.ndarray:
    """Positions of the wrong predictions, those that the network was surest of first."""
    wrong = np.flatnonzero(labels != predictions)
    return wrong[np.argsort(-confidences[wrong], kind="stable")]


def plot_samples(dataset, *, each: int = 10, note: str = "") -> Figure:
    """The first `each` images of every class that has any, a class a row, with how many it has, as one picture."""
    (shown, counts), total = np.unique(dataset.labels, return_counts=True), len(dataset.classes)
    rows = [np.flatnonzero(dataset.labels == k)[:each] for k in shown]
    height, width, channels = dataset.shape
    sheet = np.full((len(rows), each, height, width, channels), 255, np.uint8)
    for row, index in zip(sheet, rows, strict=True):
        row[: len(index)] = dataset.images(index)
    tall = 8.2 * len(rows) * height / (each * width)
    title = f"{total} classes" if len(shown) == total else f"{len(shown)} of {total} classes"
    fig, (ax,) = figure(title, height=tall, note=note)
    ax.imshow(sheet.transpose(0, 2, 1, 3, 4).reshape(len(rows) * height, each * width, channels))
    ax.grid(False)
    ax.set_xticks([])
    names = [
        f"{brief(dataset.classes[k], 12)}\n{count:,} image{'s' if count != 1 else ''}"
        for k, count in zip(shown, counts, strict=True)
    ]
    ax.set_yticks((np.arange(len(rows)) + 0.5) * height, names)
    ax.spines[:].set_visible(False)
    return fig


def plot_probe(log, *, note: str = "", narrow: bool = False) -> Figure:
    """What a `probe` saw, layer by layer: the size of activations and gradients, and the time."""
    kinds = ("Conv2d", "BatchNorm", "ReLU", "Add", "Dense")
    rows = [row for row in log.rows() if row["kind"] in kinds and row["shape"]]
    _need(rows, "log", "a probe around a forward pass")
    fig, axes = figure("What the layers receive and send", panels=3, narrow=narrow, note=note)
    for kind, color, marker in zip(kinds, PALETTE, MARKERS, strict=False):
        at = [i for i, row in enumerate(rows) if row["kind"] == kind]
        if not at:
            continue
        style = {"color": color, "marker": marker, "markersize": 4, "linestyle": "", "label": kind}
        axes[0].plot(at, _positive([rows[i]["rms"] for i in at]), **style)
        axes[1].plot(at, _positive([rows[i]["dy_rms"] for i in at]), **style)
        spent = [rows[i]["forward_seconds"] + (rows[i]["backward_seconds"] or 0) for i in at]
        axes[2].plot(at, [1000 * seconds for seconds in spent], **style)
    titles = ("Activations", "Gradients received", "Time, forward and backward")
    units = ("RMS of y", "RMS of dL/dy", "milliseconds")
    for ax, title, unit in zip(axes, titles, units, strict=True):
        ax.set_xlabel("layer, from the image")
        ax.set_ylabel(unit)
        ax.set_yscale("log")
        legend(ax, title)
    return fig


def _mark_stages(ax, flow: GradFlow) -> None:
    """Shade every other stage and write its name along the top edge."""
    spans: dict[str, list] = {}
    for layer in flow.layers:
        spans.setdefault(layer.stage, []).append(layer.depth)
    for i, (stage, depths) in enumerate(spans.items()):
        low, high = min(depths) - 0.5, max(depths) + 0.5
        if i % 2:
            ax.axvspan(low, high, color=BAND, zorder=0)
        if high - low > 1.5:
            place = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top"}
            ax.text((low + high) / 2, 0.985, stage, fontsize=TEXT - 3, color=MUTED, **place)
    ax.set_xlim(0, max(max(depths) for depths in spans.values()) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(y=0.12)
    ax.grid(False, axis="x")


def _starts(flow: GradFlow) -> list[int]:
    """The depth at which each block begins: that of the last layer before it."""
    return [sum(layer.stage == "stem" for layer in flow.layers), *(block.depth for block in flow.blocks[:-1])]


def brief(name, most: int) -> str:
    name = visible(str(name))
    return name if len(name) <= most else name[: most - 1] + "…"


def _positive(values) -> list[float]:
    """For a logarithmic axis: a gap where there is no number, or none above zero."""
    return [v if v is not None and 0 < v < np.inf else np.nan for v in values]


def _need(found, what: str, expected: str) -> None:
    if not found:
        raise DataError(f"nothing to draw: expected {expected} in {what}, got none")


def plot_epsilon_sweep(sweeps: dict, *, note: str = "", narrow: bool = False) -> Figure:
    """The V-curve of the gradient check: relative error against epsilon, and the share of stencils with a kink.

    sweeps: label -> `gradcheck.Sweep`. Round-off rules on the left arm, curvature on the right one.
    """
    _need(sweeps, "sweeps", "a Sweep for each label")
    fig, (top, bottom) = figure("Which epsilon can you trust?", panels=2, narrow=narrow, note=note)
    for (label, sweep), color, marker in zip(sweeps.items(), cycle(PALETTE), cycle(MARKERS), strict=False):
        epsilons = [row["epsilon"] for row in sweep.rows]
        style = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 2, "label": label}
        top.plot(epsilons, _positive([row["error"] for row in sweep.rows]), **style)
        top.fill_between(
            epsilons,
            _positive([row["error"] for row in sweep.rows]),
            _positive([row["worst"] for row in sweep.rows]),
            color=color,
            alpha=0.12,
            linewidth=0,
        )
        bottom.plot(epsilons, [row["crossed"] for row in sweep.rows], **style)
    for ax in (top, bottom):
        ax.set_xscale("log")
        ax.set_xlabel("epsilon, the half-width of the difference")
    top.set_yscale("log")
    top.set_ylabel("relative error, median (band: to the worst)")
    bottom.set_ylim(-0.02, 1.02)
    bottom.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bottom.set_ylabel("share of stencils")
    legend(top, "Error of the central difference")
    legend(bottom, "Ends on two sides of a kink")
    return fig


def plot_rate_test(test, *, note: str = "", narrow: bool = False) -> Figure:
    """The loss of each step of a `rate_test.RateTest` over its learning rate, with what is read from it."""
    _need(test.losses, "losses", "one a step")
    fig, (ax,) = figure("Which learning rate?", narrow=narrow, note=note)
    ax.plot(test.rates, test.losses, color=MUTED, marker=".", markersize=4, linewidth=0.8, alpha=0.7, label="each step")
    ax.plot(test.rates, test.smooth, color=BLUE, linewidth=2.4, label="mean")
    marks = ((test.suggestion, GREEN, "falls fastest"), (test.largest, ORANGE, "is lowest"))
    for rate, color, text in marks:
        if rate is not None:
            ax.axvline(rate, color=color, **DASHED, label=f"{text}: {rate:.1e}")
    ax.set_xscale("log")
    ax.set_xlabel("learning rate, growing with every step")
    spread = max(test.smooth) - min(test.smooth)
    ax.set_ylim(min(min(test.losses), min(test.smooth) - 0.1 * spread), max(test.smooth) + 0.5 * spread)
    legend(ax, f"Loss (cross-entropy), {test.optimizer}", columns=2)
    return fig
