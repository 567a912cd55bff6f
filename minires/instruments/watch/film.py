"""Films of watched runs as a section of a page, one or several in step.

film.html with film.js and the data; run.html is what each run has in it; film.css is the style.
"""

import base64
import html
import json
import math
import re
from importlib.resources import files

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from minires.instruments.style import INK, MUTED, TEXT, figure
from minires.instruments.watch import QUANTITIES, Film

MOST = 300  # records in a page


def section(film: Film, about: str, picture: str) -> str:
    """The section's HTML. about: a sentence on the run; picture: HTML for a reader without scripts."""
    return _section("Layer by layer, while it trained", {"": film}, about, picture)


def side_by_side(films: dict[str, Film], about: str, picture: str) -> str:
    """The same of several runs by their names: one slider, one scale, each at its record of the same step or epoch."""
    return _section("Layer by layer, side by side", films, about, picture)


def _section(heading, films, about, picture) -> str:
    data = {"films": [_data(name, film.shown(MOST)) for name, film in films.items()]}
    runs = [
        _filled(
            "run.html",
            k=f"-{k}" if k else "",
            heading=f"<h3>{html.escape(name)}</h3>" if name else "",
            of=f": {html.escape(name)}" if name else "",
        )
        for k, name in enumerate(films)
    ]
    return _filled(
        "film.html",
        heading=heading,
        about=about,
        runs="\n".join(runs),
        picture=picture,
        data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
        script=_read("film.js"),
    )


def _filled(name: str, **parts: str) -> str:
    """The template with its parts, none of which is looked into for others' places."""
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], _read(name))


def style() -> str:
    """What goes into the page's style sheet."""
    return _read("film.css")


def _data(called: str, film: Film) -> dict:
    held = {
        name: {
            **{key: getattr(quantity, key) for key in ("title", "unit", "says", "log")},
            "rows": [[row.name, row.stage, row.depth, row.main] for row in film.rows[name]],
            "values": base64.b64encode(film.values[name].astype("<f4").tobytes()).decode(),
        }
        for name, quantity in QUANTITIES.items()
        if film.rows.get(name)  # a network without normalisation has none of its
    }
    epochs = [round(float(step) / film.epoch_steps, 4) for step in film.steps]
    losses = [loss if math.isfinite(loss) else None for loss in film.losses.tolist()]  # JSON has no other numbers
    about = {"name": called, "step": film.steps.tolist(), "epoch": epochs, "steps_an_epoch": film.epoch_steps}
    return about | {"losses": losses, "quantities": held}


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
