"""One picture of the likeliest cause: the images in question, the curves, or one number a layer."""

from matplotlib.figure import Figure

from minires.instruments.plots import DASHED
from minires.instruments.style import BLUE, MUTED, ORANGE, PALETTE, canvas, figure, legend

MOST = 12


def plot_diagnosis(diagnosis, *, note: str = "") -> Figure | None:
    """What is seen of the first cause that there is anything to see of; None where there is none."""
    for cause in diagnosis.causes:
        draw = next((draw for kind, draw in _DRAWN.items() if kind in cause.show), None)
        if draw:
            return draw(f"{cause.name[0].upper()}{cause.name[1:]}", cause, note)
    return None


def _images(title, cause, note):
    rows = [(cause.show["images"], cause.show["labels"], "")]
    if "beside" in cause.show:
        rows = [(cause.show["images"], cause.show["labels"], "these"), (cause.show["beside"], None, "training")]
    columns = max(6, max(len(images) for images, *_ in rows))
    fig = canvas(title, height=1.1 * len(rows) * (1 if columns <= MOST else 2), note=note)
    axes = fig.subplots(len(rows), columns, squeeze=False)
    for row, (images, labels, name) in zip(axes, rows, strict=True):
        for k, ax in enumerate(row):
            ax.axis("off")
            if k < len(images):
                ax.imshow(images[k])
                if labels:
                    ax.set_title(labels[k], fontsize=9)
        row[0].text(-0.15, 0.5, name, rotation=90, va="center", ha="right", transform=row[0].transAxes, fontsize=9)
    return fig


def _lines(title, cause, note):
    fig, (ax,) = figure(title, note=note)
    for (name, values), color in zip(cause.show["lines"].items(), PALETTE, strict=False):
        if len(values):
            ax.plot(range(1, len(values) + 1), values, color=color, marker=".", label=name)
    if "level" in cause.show:
        ax.axhline(cause.show["level"], color=MUTED, **DASHED, label="guessing")
    ax.set_xlabel("step" if any(name.startswith("at ") for name in cause.show["lines"]) else "epoch")
    legend(ax, cause.show.get("of", "loss (cross-entropy)"))
    return fig


def _bars(title, cause, note):
    fig, (ax,) = figure(title, note=note)
    bars = cause.show["bars"]
    names, values = list(bars), [float(v) for v in bars.values()]
    ax.bar(range(len(values)), values, color=[ORANGE if v == max(values) else BLUE for v in values])
    if cause.show.get("log") and min(values) > 0:
        ax.set_yscale("log")
    legend(ax, cause.show.get("of", ""))
    step = max(1, len(names) // MOST)
    ax.set_xticks(range(0, len(names), step), names[::step], rotation=35, ha="right", fontsize=8)
    return fig


_DRAWN = {"images": _images, "lines": _lines, "bars": _bars}
