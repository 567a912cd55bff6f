"""The film of a watched run as a section of a page: film.html with its script and data; film.css is its style."""

import base64
import json
from importlib.resources import files

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from minires.instruments.style import INK, MUTED, TEXT, figure
from minires.instruments.watch import QUANTITIES, Film

MOST = 300  # records in a page


def section(film: Film, about: str, picture: str) -> str:
    """The section's HTML. about: a sentence on the run; picture: HTML for a reader without scripts."""
    parts = {
        "about": about,
        "picture": picture,
        "data": json.dumps(_data(film.shown(MOST)), separators=(",", ":")).replace("</", "<\\/"),
        "script": _read("film.js"),
    }
    page = _read("film.html")
    for name, text in parts.items():
        page = page.replace("{{" + name + "}}", text)
    return page


def style() -> str:
    """What goes into the page's style sheet."""
    return _read("film.css")


def _data(film: Film) -> dict:
    held = {
        name: {
            **{key: getattr(quantity, key) for key in ("title", "unit", "says", "log")},
            "rows": [[row.name, row.stage, row.depth, row.main] for row in film.rows[name]],
            "values": base64.b64encode(film.values[name].astype("<f4").tobytes()).decode(),
        }
        for name, quantity in QUANTITIES.items()
        if film.rows.get(name)  # a network without normalisation has none of its
    }
    return {"steps": film.steps.tolist(), "losses": film.losses.tolist(), "quantities": held}


def _read(name: str) -> str:
    return files("minires.instruments.watch").joinpath(name).read_text(encoding="utf-8")


def plot_film(film: Film, *, note: str = "", narrow: bool = False) -> Figure:
    """The whole film as a picture: activation gradient and update to weight, steps across and layers down."""
    film, names = film.shown(MOST), ("gradient", "update")
    fig, axes = figure("Layer by layer, while it trained", panels=2, narrow=narrow, note=note)
    for ax, name in zip(axes, names, strict=True):
        values, rows = film.values[name].T, film.rows[name]
        usable = values[np.isfinite(values) & (values > 0)]
        norm = LogNorm(usable.min(), usable.max()) if usable.size else None
        edges = np.append(film.steps, film.steps[-1] + film.every)
        drawn = np.where(values > 0, values, np.nan)
        mesh = ax.pcolormesh(edges, np.arange(len(rows) + 1), drawn, norm=norm, cmap="viridis", rasterized=True)
        ax.invert_yaxis()
        stages = [row.stage for row in rows]
        first = [i for i, stage in enumerate(stages) if stage not in stages[:i]]
        ax.set_yticks(first, [stages[i] for i in first], va="top")
        ax.grid(False)
        ax.set_xlabel("step")
        ax.set_title(QUANTITIES[name].title, fontsize=TEXT, color=INK, loc="left")
        bar = fig.colorbar(mesh, ax=ax, shrink=0.85)
        bar.set_label(QUANTITIES[name].unit, color=INK, fontsize=TEXT - 1)
        bar.outline.set_visible(False)
        bar.ax.tick_params(which="both", colors=MUTED, labelsize=TEXT - 2, length=0)
    return fig
