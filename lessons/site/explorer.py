"""A chart that a reader turns by sliders: every setting measured beforehand, nothing computed in the page.

What `Explorer.data` gives is drawn by explorer.js:

    controls  name, label, slider or not, values, labels, start (an index)
    charts    title, x and y labels, y range and ticks, perhaps x ticks
    curves    id -> at, mean, low and high where there are several seeds, and theory as [at, values]
    cells     the controls' values, joined by '|' -> for each chart the curve that is shown, the faint ones behind
              it and a mark; the numbers as text, the sentence that says them, the command that repeats them
    strips    heat strips by the first two controls, or none
    keys      what the looks of the curves mean
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from minires.lessons.harness import number
from minires.lessons.site.words import tick

# what the looks of the curves mean, where a page does not say it in its own words
SMALLEST = 1e-16  # what is drawn of an error of 0
KEYS = {"this": "this network", "band": "lowest to highest seed", "theory": "theory", "faint": "other settings"}


@dataclass(frozen=True)
class Control:
    """A slider, or a few choices beside each other. start: a value; the last where it is not among them."""

    name: str
    label: str
    values: Sequence
    labels: Sequence[str]
    start: object
    slider: bool = False

    def data(self) -> dict:
        """For the page."""
        start = list(self.values).index(self.start) if self.start in self.values else len(self.values) - 1
        return {
            "name": self.name,
            "label": self.label,
            "slider": self.slider,
            "values": [str(value) for value in self.values],
            "labels": list(self.labels),
            "start": start,
        }


@dataclass(frozen=True)
class Chart:
    """powers: the curves are log10 of what the axis says. ticks: of x, as (position, text)."""

    title: str
    x: str
    y: str
    powers: bool = True
    ticks: Sequence[tuple[float, str]] = ()


@dataclass
class Explorer:
    """Gathers curves and cells."""

    controls: Sequence[Control]
    charts: Sequence[Chart]
    keys: dict = field(default_factory=dict)  # look -> its meaning, where it is not that of KEYS
    curves: dict = field(default_factory=dict)
    cells: dict = field(default_factory=dict)
    strips: dict = field(default_factory=dict)
    ranges: dict = field(default_factory=dict)  # chart -> [lowest, highest] of all its curves

    def curve(self, chart: int, name: str, at, mean, low=None, high=None, theory=None) -> str:
        """Adds a curve to a chart; returns its id. theory: (at, values)."""
        parts = {"at": at, "mean": mean, "low": low, "high": high}
        added = {key: None if values is None else _short(values) for key, values in parts.items()}
        added["theory"] = theory and [_short(values) for values in theory]
        seen = [*added["mean"], *(added["low"] or ()), *(added["high"] or ()), *(theory[1] if theory else ())]
        before = self.ranges.get(chart, [min(seen), max(seen)])
        self.ranges[chart] = [min(before[0], *seen), max(before[1], *seen)]
        name = f"{chart} {name}"
        self.curves[name] = added
        return name

    def cell(self, values: Sequence, *, says: str, numbers: Sequence[tuple[str, str]], command: str, **drawn) -> None:
        """What is shown for one value of each control. drawn: for each chart `show`, and maybe `faint`, `marks`."""
        self.cells[key(values)] = {
            "says": says,
            "numbers": [list(pair) for pair in numbers],
            "command": command,
        } | drawn

    def data(self) -> dict:
        """All of it, for the page."""
        charts = [self._chart(i, chart) for i, chart in enumerate(self.charts)]
        return {
            "controls": [control.data() for control in self.controls],
            "charts": charts,
            "curves": self.curves,
            "cells": self.cells,
            "strips": self.strips,
            "keys": KEYS | self.keys,
        }

    def _chart(self, index: int, chart: Chart) -> dict:
        low, high = self.ranges[index]
        if chart.powers:
            low, high = math.floor(low), math.ceil(high)
            step = max(1, math.ceil((high - low) / 8))
            ticks = [[power, tick(power)] for power in range(low - low % -step if low < 0 else 0, high + 1, step)]
        else:
            low, high = min(low, 0), high * 1.05
            step = next(s for s in (0.2, 0.5, 1, 2, 5) if high / s <= 8)
            ticks = [[round(i * step, 1), f"{i * step:g}"] for i in range(math.ceil(low / step), int(high / step) + 1)]
        said = {"title": chart.title, "x": chart.x, "y": chart.y, "xticks": [list(pair) for pair in chart.ticks]}
        return said | {"range": [low, high], "yticks": ticks}


def _short(values) -> list[float]:
    return [round(float(value), 4) for value in values]


def key(values: Sequence) -> str:
    """The name of a cell."""
    return "|".join(map(str, values))


def with_range(values, form=number) -> str:
    """'3.92 (3.87 … 3.99)': the mean, and the lowest and highest seed where there are several, kept on one line."""
    values = np.asarray(values)
    mean = form(float(values.mean()))
    return mean if len(values) == 1 else f"{mean} ({form(float(values.min()))}\u00a0…\u00a0{form(float(values.max()))})"


def two_digits(value: float) -> str:
    """Of a logarithm or a cosine."""
    return f"{value:.2f}"


def band(curves: np.ndarray) -> tuple:
    """Lowest and highest of the rows; none of a single one."""
    return (curves.min(axis=0), curves.max(axis=0)) if len(curves) > 1 else (None, None)


def seeds(result: dict) -> str:
    """'5 seeds'."""
    several = result["knobs"]["seeds"]
    return "one seed" if several == 1 else f"{several} seeds"


def slider(name: str, label: str, values, labels, start) -> Control:
    """A control that is a slider."""
    return Control(name, label, list(values), list(labels), start, slider=True)


def logs(values) -> np.ndarray:
    """log10, for a chart of powers; 0 is drawn as SMALLEST."""
    return np.log10(np.maximum(values, SMALLEST))
