"""What is said to a terminal and read from a command line.

stdout carries results, stderr all that is said on the way, so that `--json` output stays clean. Names of classes and
files come from anywhere: what in them would command the terminal is shown as a picture of it instead.
"""

import argparse
import io
import json
import math
import sys
from html import escape
from pathlib import Path

from rich.console import Console as RichConsole
from rich.segment import Segment

from minires.errors import ConfigError
from minires.ranges import RANGES, check_options

WIDTH = 120  # columns that a table may take where the terminal is narrower: names stay whole

# control characters but the tab and the end of a line -> Unicode's pictures of them; the C1 ones have none
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
_PICTURES |= {0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}


def visible(text: str) -> str:
    """`text` with its control characters as pictures of themselves."""
    return text.translate(_PICTURES)


class Console(RichConsole):
    """rich's, as all of minires uses it: lines are not broken, nothing is taken for markup, controls are shown."""

    def __init__(self, **options):
        super().__init__(**{"soft_wrap": True, "highlight": False, "markup": False, "emoji": False} | options)

    def on_broken_pipe(self):
        raise  # rich would end the process with status 1

    def render_str(self, text, **options):
        return super().render_str(visible(text), **options)  # rich would drop some and let others pass

    def render(self, renderable, options=None):
        for segment in super().render(renderable, options):
            plain = visible(segment.text)
            yield segment if segment.control or plain == segment.text else Segment(plain, segment.style)


out = Console()
err = Console(stderr=True)


class Shown:
    """What has a `table()`, a rich table: `print` and a prompt show it as text, a notebook as HTML."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__str__  # before @dataclass writes one of all fields

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=max(out.width, WIDTH)).print(self.table())
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        table = self.table()
        rows = [("th", [c.header for c in table.columns])]
        rows += [("td", row) for row in zip(*(c.cells for c in table.columns), strict=True)]
        head, *body = (
            "".join(_cell(tag, text, c.justify) for text, c in zip(row, table.columns, strict=True))
            for tag, row in rows
        )
        title, caption = (
            escape(visible(str(text or ""))).replace("\n", "<br>") for text in (table.title, table.caption)
        )
        body = "".join(f"<tr>{row}</tr>" for row in body)
        return (
            f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{caption}</p>"
        )


def _cell(tag: str, text, align: str) -> str:
    return f'<{tag} style="text-align: {align}">{escape(visible(str(text)))}</{tag}>'


def print_json(value) -> None:
    """Results for programs, on stdout. JSON has no NaN and no infinity: they become null."""
    print(json.dumps(_finite(value), allow_nan=False))


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Parser(argparse.ArgumentParser):
    """Options, each held to its range (ranges.py), no text empty; ConfigError, one line, for what cannot be."""

    def __init__(self, *args, ranges=RANGES, **options):
        super().__init__(*args, **options)
        self.ranges = ranges
        for kind in (None, str, Path):
            self.register("type", kind, lambda text, kind=kind: (kind or str)(_text(text)))

    def add_subparsers(self, **options):
        found = super().add_subparsers(**options)
        found.type = lambda text: text  # of all that follows the command, which looks at it itself
        return found

    def parse_known_args(self, args=None, namespace=None):
        if nul := [text for text in args or () if "\0" in text]:
            raise ConfigError(f"{nul[0]!r}: no name and no number can hold a NUL byte: leave it out")
        found, rest = super().parse_known_args(args, namespace)
        check_options(vars(found), self.ranges)
        return found, rest

    def error(self, message):
        raise ConfigError(f"{message}; see `{self.prog} --help`")

    def _print_message(self, message, file=None):
        (file or sys.stderr).write(message)  # argparse's own is silent where nothing can be written

    def exit(self, status=0, message=None):
        sys.stdout.flush()  # a reader that is gone shows here, not when Python ends
        super().exit(status, message)


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a text, got an empty one")
    return text
