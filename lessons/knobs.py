"""The knobs of a lesson as widgets: what the signature of its `measure` says about sliders, lists and switches.

Only descriptions; `app.py` turns them into marimo's widgets.
"""

import inspect
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from minires.lessons.harness import default_knobs, knob_help

from minires.errors import ConfigError

# lessons whose quick form takes a second or so: measured anew at every move of a knob
LIVE = (1, 3, 4, 6, 7)

# the steps of a slider, by the knob's name; any other number gets a few multiples of its default
STEPS = {
    "depth": tuple(range(2, 101, 2)),  # a residual block has two layers
    "width": (16, 32, 64, 128, 256),
    "batch": (8, 16, 32, 64, 128, 256),
    "block": (1, 2, 3),
    "shallow": (8, 14, 20, 32, 44, 56, 110),
    "deep": (8, 14, 20, 32, 44, 56, 110),
    "epochs": tuple(range(1, 21)),
    "seeds": tuple(range(1, 11)),
    "seed": tuple(range(21)),
}
FACTORS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4)


@dataclass(frozen=True)
class Widget:
    """kind: slider (choices are its steps), dropdown, several (any of the choices), switch or text."""

    name: str
    kind: str
    help: str
    value: object
    choices: tuple = ()


def widgets(measure, start: dict | None = None) -> list[Widget]:
    """A widget for each knob. start: the values to begin with, by default those of the signature."""
    hints, helps = get_type_hints(measure), knob_help(measure)
    start = default_knobs(measure) | (start or {})
    return [_widget(name, hints[name], p.default, helps.get(name, ""), start[name]) for name, p in _knobs(measure)]


def arguments(measure, chosen: dict) -> dict:
    """What the widgets hold -> the arguments of `measure`; ConfigError where nothing was chosen of several."""
    defaults, found = default_knobs(measure), {}
    for name, value in chosen.items():
        several = isinstance(defaults[name], tuple)
        if several and not value:
            raise ConfigError(f"{name}: expected one or more, got none; choose some")
        # in the order of the lesson, whatever was clicked first
        found[name] = tuple(sorted(value, reverse=_falls(defaults[name]))) if several else value
    return found


def _falls(values: tuple) -> bool:
    return values[0] > values[-1]


def _knobs(measure):
    return inspect.signature(measure).parameters.items()


def _widget(name, hint, default, text, value) -> Widget:
    if hint is bool:
        return Widget(name, "switch", text, value)
    if get_origin(hint) is Literal:
        return Widget(name, "dropdown", text, value, get_args(hint))
    if get_origin(hint) is tuple:
        return Widget(name, "several", text, value, tuple(sorted({*default, *value}, reverse=_falls(default))))
    if hint in (int, float):
        return Widget(name, "slider", text, value, _steps(name, hint, default, value))
    return Widget(name, "text", text, value)


def _steps(name, kind, default, value) -> tuple:
    """In ascending order, the default and the value to begin with among them."""
    steps = STEPS.get(name) or [kind(float(f"{default * factor:.3g}")) for factor in FACTORS]
    return tuple(sorted({*steps, default, value}))
