"""The look of every picture: one palette, one kind of axes, a line of provenance.

Only matplotlib's object interface is used and no global setting is changed, so pictures can be drawn in any
thread and without a display.
"""

import platform
import textwrap
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

import minires
from minires.errors import ConfigError
from minires.files import write_bytes

# Okabe and Ito's colours, told apart by colour-blind readers; the darker ones first, for thin lines
BLUE, ORANGE, GREEN, PINK, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
PALETTE = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, MUTED, GRID, BAND, PAPER = "#1f2933", "#5f6b7a", "#e3e7ec", "#f1f4f8", "#ffffff"
TEXT = 12  # points; small print is two less, the title three more
DPI = 160
NARROW, SINGLE, WIDE = 4.6, 8.6, 12.4  # inches: for a phone, of one panel, of several
HEAD = 0.5  # inches kept for the title
STRONG = 0.8  # how opaque heat over an image is at its largest
SMALL, LINE = 7, 0.12  # the provenance: points, and inches a line


def figure(title: str, *, panels: int = 1, narrow: bool = False, height: float = 4.6, **provenance):
    """(figure, list of axes): `panels` side by side, or below each other in a narrow picture for a phone.

    height: of one row of panels, in inches. provenance: `note` and `versions`, as in `canvas`.
    """
    rows, columns = (panels, 1) if narrow else (1, panels)
    width = NARROW if narrow else SINGLE if panels == 1 else WIDE
    tall = rows * height * (0.8 if narrow else 1)
    fig = canvas(title, width=width, height=tall, **provenance)
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        dress(ax)
    return fig, axes


def canvas(
    title: str, *, width: float = WIDE, height: float, head: float = HEAD, note: str = "", versions: bool = True
) -> Figure:
    """A figure without axes, with its title above and its provenance, small, in the lower right corner.

    width, height, head: in inches; the head holds the title, `height` is what remains for the axes, and the lines
    of the provenance come on top of it. note: what the picture was made from, such as 'seed 0, minires train --arch
    resnet50'. versions: add those of this process; False where the note names those that measured the numbers.
    """
    lines = _provenance(note, versions, 0.98 * width)
    foot = 0.1 + LINE * len(lines)
    tall = head + height + foot
    fig = Figure(figsize=(width, tall), dpi=DPI, facecolor=PAPER)
    fig.set_layout_engine("constrained", h_pad=0.08, w_pad=0.1, rect=(0, foot / tall, 1, height / tall))
    size = TEXT + (2 if width == NARROW else 4)
    fig.text(0.1 / width, 1 - 0.12 / tall, title, ha="left", va="top", fontsize=size, color=INK, fontweight="bold")
    small = {"fontsize": SMALL, "color": MUTED, "parse_math": False}
    fig.text(0.99, 0.06 / tall, "\n".join(lines), ha="right", va="bottom", **small)
    return fig


def _provenance(note: str, versions: bool, width: float) -> list[str]:
    """The lines of the small print, as many as it takes; on one line if it fits, else the versions begin another."""
    own = f"minires {minires.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    parts = [part for part in (note, own if versions else "") if part]
    lines = _wrapped("  |  ".join(parts), width)
    return lines if len(lines) < 2 else [line for part in parts for line in _wrapped(part, width)]


def _wrapped(text: str, width: float) -> list[str]:
    """Lines of small print that are no wider than `width`, in inches; whole words unless one is wider by itself."""
    most = max(1, len(text))
    while True:
        lines = textwrap.wrap(text, most, break_on_hyphens=False)
        widest = max(lines, key=_inches, default="")
        if most == 1 or _inches(widest) <= width:
            return lines
        most = max(1, min(most - 1, int(len(widest) * width / _inches(widest))))


def _inches(line: str) -> float:
    """The width of a line of small print, drawn at DPI: pixels widen small letters."""
    pen = RendererAgg(1, 1, DPI)
    return pen.get_text_width_height_descent(line, FontProperties(size=SMALL), ismath=False)[0] / DPI


def dress(ax) -> None:
    """Quiet axes: a light grid behind the data, no box."""
    ax.set_axisbelow(True)
    ax.grid(True, color=GRID, linewidth=0.8)
    ax.tick_params(which="both", colors=MUTED, labelsize=TEXT - 1, length=0)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GRID)
    ax.xaxis.label.set(fontsize=TEXT, color=INK)
    ax.yaxis.label.set(fontsize=TEXT, color=INK)


def overlay(ax, heat, cmap: str, low: float, high: float) -> None:
    """Heat (h, w) over the image in `ax`, enlarged bilinearly; where it is near 0 the image shows."""
    height, width = ax.get_images()[0].get_array().shape[:2]
    smooth = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    opaque = np.clip(np.abs(smooth) / max(abs(low), abs(high)), 0, 1) * STRONG
    ax.imshow(smooth, cmap=cmap, vmin=low, vmax=high, alpha=opaque, interpolation="bilinear")


def legend(ax, heading: str = "", *, columns: int = 3, extra=()) -> None:
    """A legend above the axes, where it cannot cover the data, and the panel's heading above that.

    extra: further handles, each with its label.
    """
    handles = [*ax.get_legend_handles_labels()[0], *extra]
    columns = max(1, min(columns, len(handles)))
    ax.legend(
        handles=handles,
        title=heading or None,
        title_fontsize=TEXT,
        alignment="left",
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        fontsize=TEXT - 1,
        labelcolor=INK,
        borderpad=0.1,
        columnspacing=1.2,
        handlelength=1.6,
    )
    ax.get_legend().get_title().set_color(INK)


KINDS = ("png", "svg", "pdf")  # of picture files, by their suffix


def picture_kind(path: str | Path) -> str:
    """One of KINDS, by the suffix of a file to write; ConfigError where it says none of them. A device takes PNG."""
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        return "png"
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise ConfigError(f"{path}: expected a picture's name that ends in .png, .svg or .pdf: change its ending")
    return kind


def picture_bytes(fig: Figure, kind: str = "png") -> bytes:
    """The picture as the bytes of a file of this kind; the same figure gives the same bytes."""
    maker = f"minires, matplotlib {matplotlib.__version__}"
    metadata = {
        "png": {"Software": maker},
        "svg": {"Creator": maker, "Date": None},
        "pdf": {"Creator": maker, "CreationDate": None},
    }
    buffer = BytesIO()
    # letters of a PDF as letters, which can be searched and edited; SVG's as shapes, which look the same everywhere
    with nullcontext() if kind == "png" else matplotlib.rc_context({"svg.hashsalt": "minires", "pdf.fonttype": 42}):
        fig.savefig(buffer, format=kind, dpi=DPI, metadata=metadata[kind])
    return buffer.getvalue()


def untitled(png: bytes, fig: Figure) -> bytes:
    """The picture of a `canvas` without its title: for a page that has the title above the picture."""
    _, bottom, _, high = fig.get_layout_engine().get()["rect"]
    with Image.open(BytesIO(png)) as image:
        below = image.crop((0, round((1 - bottom - high) * image.height), image.width, image.height))
    buffer = BytesIO()
    below.save(buffer, "png")
    return buffer.getvalue()


def save_picture(fig: Figure, path: Path) -> Path:
    """Write the picture as PNG, SVG or PDF, by the path's suffix, whole or not at all. Returns the path.

    ConfigError for another suffix, DataError where the system refuses.
    """
    write_bytes(path, picture_bytes(fig, picture_kind(path)))
    return Path(path)
