"""Pictures of what a network sees: feature maps, kernels, Grad-CAM, occlusion. Every function returns a Figure.

`note` goes to the line of provenance in the corner, as in `plots`.
"""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from minires.errors import ConfigError
from minires.instruments.maps import FeatureMaps, GradCam, Occlusion
from minires.instruments.plots import brief
from minires.instruments.style import INK, MUTED, PALETTE, SINGLE, STRONG, TEXT, WIDE, canvas, overlay

COLUMNS, ROWS = 8, 4  # feature maps of one layer


def plot_features(found: list[FeatureMaps], image: np.ndarray, *, note: str = "") -> Figure:
    """The image, and beside it each layer's strongest channels: four rows of one layer, fewer of several.

    Each channel has its own scale from black, its smallest value, to white: the picture tells form, not size.
    """
    rows = max(1, ROWS // len(found))
    fig = canvas("What the layers make of an image", height=len(found) * (0.4 + 1.45 * rows), note=note)
    grid = fig.add_gridspec(len(found), 2, width_ratios=(1.6, COLUMNS))
    ax = fig.add_subplot(grid[:, 0], anchor="N")
    _picture(ax, image, "the image")
    for i, layer in enumerate(found):
        ax = fig.add_subplot(grid[i, 1], anchor="NW")
        H, W, C = layer.maps.shape
        shown = layer.strongest(rows * COLUMNS)
        _tiles(ax, [_stretch(layer.maps[:, :, k]) for k in shown], [f"channel {k}" for k in shown], COLUMNS)
        which = "" if len(shown) == C else f", the strongest {len(shown)}"
        _title(ax, f"{layer.layer}: {C} channels of {H}x{W}{which}", left=True)
    return fig


def plot_kernels(kernels: np.ndarray, *, title: str = "What the first layer looks for", note: str = "") -> Figure:
    """First-layer kernels (O, R, S, 3) as colours: grey is 0, each kernel scaled to its largest weight."""
    O, R, S, C = kernels.shape
    if C != 3:
        raise ConfigError(f"kernels are shown as colours: expected 3 input channels, got {C}")
    columns = 16 if O > 32 else 8
    tall = 1.15 * WIDE / columns * -(-O // columns)
    fig = canvas(f"{title}: {O} kernels of {R}x{S}", height=tall, note=note)
    scale = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    colours = 0.5 + kernels / (2 * np.where(scale > 0, scale, 1))
    _tiles(fig.add_subplot(), colours, [str(k) for k in range(O)], columns)
    return fig


def plot_gradcam(found: list[GradCam], images: np.ndarray, classes, *, names=(), note: str = "") -> Figure:
    """Each image with what the network says, and beside it the maps of one or more layers, laid over the image.

    Every map has its own scale, from 0 to its maximum. names: what to write below the images.
    """
    classes = [brief(name, 14) for name in classes]
    each = 1 + len(found)
    rows = -(-len(images) // max(1, 6 // each))
    across = -(-len(images) // rows)
    columns = each * across
    width = WIDE if columns > 2 else SINGLE
    cell = (width - 1.4) / columns
    tall = rows * (cell * images.shape[1] / images.shape[2] + 0.8)
    fig = canvas("Grad-CAM: where the evidence lies", width=width, height=tall, note=note)
    axes = fig.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    cells = axes.reshape(rows * across, each)
    for n, (image, row) in enumerate(zip(images, cells, strict=False)):
        _picture(row[0], image, _said(found[0].probs[n], classes))
        _below(row[0], brief(names[n], 24) if len(names) else "")
        for cam, ax in zip(found, row[1:], strict=True):
            k, heat = cam.targets[n], cam.maps[n]
            what = "evidence" if heat.any() else "no evidence"
            _picture(ax, image, f"{what} for {classes[k]}\n{cam.layer}, {heat.shape[0]}x{heat.shape[1]}")
            overlay(ax, heat / (heat.max() or 1), "inferno", 0, 1)
    _bar(fig, axes, "inferno", 0, 1, "evidence, share of the map's largest")
    return fig


def plot_occlusion(found: Occlusion, image: np.ndarray, classes, *, note: str = "") -> Figure:
    """The image with the place that matters most, the probability lost by pixel, and what is said instead."""
    fig = canvas("What may be covered, and what must not", height=4.6, note=note)
    left, middle, right = fig.subplots(1, 3)
    classes = [brief(name, 14) for name in classes]
    target, patch = classes[found.target], found.patch
    worst = np.unravel_index(found.drop.argmax(), found.drop.shape)
    _picture(left, image, _said(found.probs, classes))
    corner = found.lefts[worst[1]] - 0.5, found.tops[worst[0]] - 0.5
    for color, width in (("black", 4), ("white", 2)):
        left.add_patch(Rectangle(corner, patch, patch, fill=False, edgecolor=color, linewidth=width, clip_on=False))
    _below(left, f"with the square covered: {target} at {found.occluded[worst][found.target]:.0%}")

    heat = found.heat(image.shape[:2])
    largest = max(np.abs(heat).max(), 0.01)
    _picture(middle, image, f"probability of {target} that is lost\nwhere a {patch}x{patch} square covers")
    overlay(middle, heat, "RdBu_r", -largest, largest)
    _bar(fig, middle, "RdBu_r", -largest, largest, "mean over the squares that cover a pixel")

    _picture(right, image, "what it says with the square\ncentred there")
    _guesses(right, found, classes)
    return fig


def _guesses(ax, found: Occlusion, classes) -> None:
    """The likeliest class for each place of the square; the commonest have a colour each."""
    guesses = found.occluded.argmax(axis=2)
    share = np.bincount(guesses.ravel(), minlength=len(classes)) / guesses.size
    common = [k for k in np.argsort(-share, kind="stable") if share[k]][: len(PALETTE)]
    colours = np.tile(to_rgb(MUTED), (len(classes), 1))
    colours[common] = [to_rgb(colour) for colour in PALETTE[: len(common)]]
    centre = (found.patch - 1) / 2
    limits = {"xlim": ax.get_xlim(), "ylim": ax.get_ylim()}
    extent = _extent(found.lefts + centre, found.tops + centre)
    ax.imshow(colours[guesses], extent=extent, alpha=STRONG, interpolation="nearest")
    ax.set(**limits)
    shown = [(colours[k], classes[k], share[k]) for k in common]
    if (others := 1 - share[common].sum()) > 1e-9:
        shown.append((MUTED, "others", others))
    handles = [Patch(color=color, alpha=STRONG, label=f"{name} ({part:.0%})") for color, name, part in shown]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.02), "ncols": 3}
    ax.legend(handles=handles, **place, frameon=False, fontsize=TEXT - 2, labelcolor=INK)


def _picture(ax, image, title: str) -> None:
    ax.axis("off")
    ax.imshow(image, interpolation="nearest")
    _title(ax, title)


def _title(ax, text: str, left: bool = False) -> None:
    ax.set_title(text, fontsize=TEXT - 1, color=INK, loc="left" if left else "center")


def _below(ax, text: str) -> None:
    ax.text(0.5, -0.03, text, transform=ax.transAxes, ha="center", va="top", fontsize=TEXT - 2, color=INK)


def _said(probs, classes) -> str:
    """The two likeliest classes."""
    first, second = np.argsort(-probs, kind="stable")[:2]
    return f"said {classes[first]} ({probs[first]:.0%})\nnext {classes[second]} ({probs[second]:.0%})"


def _tiles(ax, pictures, labels, columns: int) -> None:
    """Pictures in a grid, each with its label below."""
    height, width = np.shape(pictures[0])[:2]
    tall, gap, label = height / width, 0.07, 0.16
    rows = -(-len(pictures) // columns)
    for i, (picture, text) in enumerate(zip(pictures, labels, strict=True)):
        row, column = divmod(i, columns)
        x, y = column * (1 + gap), row * (tall + gap + label)
        ax.imshow(picture, extent=(x, x + 1, y + tall, y), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.text(x + 0.5, y + tall + 0.02, text, ha="center", va="top", fontsize=TEXT - 3, color=MUTED)
    ax.set(xlim=(0, columns * (1 + gap) - gap), ylim=(rows * (tall + gap + label) - gap, 0), aspect="equal")
    ax.axis("off")


def _stretch(values):
    """To 0..1; all black where there is no difference."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _bar(fig: Figure, axes, cmap: str, low: float, high: float, label: str) -> None:
    bar = fig.colorbar(ScalarMappable(Normalize(low, high), cmap), ax=axes, shrink=0.8, pad=0.02)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label(label, color=INK, fontsize=TEXT - 2)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelsize=TEXT - 3, length=0)


def _extent(xs, ys) -> tuple:
    """Of a grid of places, each filling the room half way to its neighbours."""
    x, y = (np.diff(v).mean() / 2 if len(v) > 1 else 0.5 for v in (xs, ys))
    return xs[0] - x, xs[-1] + x, ys[-1] + y, ys[0] - y
