"""A tape as a web page: one file, no network, opened from the file system.

page.html is the frame; the styles (shared.css, page.css) and the scripts (shared.js; map.js, panel.js, page.js) are
put into it, and so are the tapes as JSON, with the tiles as bytes in base64. shared.css and shared.js, in the folder
above, are what all pages share, those of `minires site` too.
"""

import base64
import html
import json
import platform
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import numpy as np

import minires
from minires.errors import ConfigError
from minires.files import write_text
from minires.instruments.step.tape import REACH, Step, Tape, Tensor

SHARED = "minires.instruments"
SCRIPTS = ("map.js", "panel.js", "page.js")


TWINS = ("with skips", "plain, no skips")


def write_page(lead: Tape | None, beside: Tape | None, path, *, labels=TWINS, note: str = "", home: str = "") -> Path:
    """Write the player of one or two tapes of the same batch to `path`, whole or not at all; returns the path.

    With both, the first leads and the other follows with the same cursor: a network and its plain twin, or whatever
    `labels` calls them. note: what made the page, such as the command. home: the page that it belongs to, if any, to
    link to. Raises DataError where the system refuses, ConfigError without a tape.
    """
    write_text(path, page(lead, beside, labels=labels, note=note, home=home))
    return Path(path)


def page(lead: Tape | None, beside: Tape | None, *, labels=TWINS, note: str = "", home: str = "") -> str:
    """The page's text; see `write_page`."""
    tapes = {label: tape for label, tape in zip(labels, (lead, beside), strict=True) if tape is not None}
    if not tapes:
        raise ConfigError("stepper page: no tape was given: record one with minires.instruments.step.tape.record")
    lead, *others = tapes.values()
    title = " beside ".join(tape.title for tape in tapes.values())
    data = {
        "networks": [_network(label, tape) for label, tape in tapes.items()],
        "follow": [follow(lead, other) for other in others],
        "sources": {name: code for tape in tapes.values() for name, code in tape.sources().items()},
        "image": None if lead.image is None else {"shape": lead.image.shape, "pixels": _base64(lead.image)},
        "classes": lead.classes,
        "label": lead.label,
    }
    versions = f"minires {minires.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    parts = {
        "style": _read("shared.css", SHARED) + _read("page.css"),
        "shared": _read("shared.js", SHARED),
        "home": f'<a href="{html.escape(home)}">All lessons</a>' if home else "",
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
        "script": "\n".join(map(_read, SCRIPTS)),
        "about": html.escape(f"{title}. Seed {lead.seed}, a batch of {lead.batch}."),
        "reach": str(REACH),
        "note": html.escape(f"{note}  ·  {versions}" if note else versions),
    }
    frame = _read("page.html")
    for name, text in parts.items():
        frame = frame.replace("{{" + name + "}}", text)
    return frame


def follow(lead: Tape, other: Tape) -> list[tuple[int, bool]]:
    """For each step of `lead`: where the other network stands then, and whether it takes this very step.

    A plain network has no add nodes, forks and projections, a shallower one not all blocks; meanwhile its cursor waits
    at its last step.
    """
    where = {(step.direction, step.name): i for i, step in enumerate(other.steps)}
    pairs, last = [], 0
    for step in lead.steps:
        own = where.get((step.direction, step.name))
        last = last if own is None else own
        pairs.append((last, own is not None))
    return pairs


def _network(label: str, tape: Tape) -> dict:
    return {
        "label": label,
        "loss": _finite(tape.loss),
        "probs": list(map(_finite, tape.probs)),
        "steps": [{**_step(step), "text": tape.sentence(i)} for i, step in enumerate(tape.steps)],
        "tensors": list(map(_tensor, tape.tensors)),
    }


def _step(step: Step) -> dict:
    fields = {k: v for k, v in vars(step).items() if k not in ("maths", "kept", "params")}
    maths = step.maths
    held = {
        key: [{**asdict(h), "rms": _finite(h.rms), "grad_rms": _finite(h.grad_rms)} for h in getattr(step, key)]
        for key in ("kept", "params")
    }
    ops = [op.__qualname__ for op in maths.ops]
    return {**fields, **held, "formula": maths.formula, "says": maths.says, "ops": ops}


def _tensor(tensor: Tensor) -> dict:
    numbers = {k: _finite(getattr(tensor, k)) for k in ("mean", "rms", "low", "high", "zeros", "limit")}
    return {
        **numbers,
        "shape": tensor.shape,
        "finite": tensor.finite,
        "histogram": tensor.histogram.tolist(),
        "tiles": tensor.tiles.shape,
        "every": tensor.every,
        "pixels": _base64(tensor.tiles),
    }


def _finite(value: float | None) -> float | None:
    """Six digits, which is more than a page shows; JSON knows no NaN."""
    return float(f"{value:.6g}") if value is not None and np.isfinite(value) else None


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _read(name: str, room: str = "minires.instruments.step") -> str:
    return files(room).joinpath(name).read_text(encoding="utf-8")
