"""site: the lessons as pages to open in a browser."""

import argparse
from pathlib import Path

from minires.console import err, out


def site(args) -> int:
    from minires.lessons.site.build import build

    folder = Path(args.folder)
    with err.status("measuring ...") as status:
        say = status.update if err.is_terminal else err.print  # a file or a pipe has lines
        failures = build(folder, lessons=args.lessons, quick=args.quick, say=say)
    out.print(f"site: {(folder / 'index.html').resolve()}")
    for text in failures:
        err.print(f"FAILS: {text}", style="red")
    return int(bool(failures))


def _numbers(text: str) -> list[int]:
    """'3,5' -> [3, 5]."""
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"expected numbers of lessons such as 3,5, got {text!r}")
    return [int(part) for part in parts]


def register(commands, command) -> None:
    text = (
        "Write all lessons as a static site, with their measurements, sliders and the step-through; needs no network."
    )
    p = command(commands, "site", site, text, "minires site pages/; minires site pages/ --quick --lessons 3,5")
    p.add_argument("folder", metavar="OUT", help="a folder of its own; a second build measures only what has changed")
    p.add_argument("--quick", action="store_true", help="the lessons' quick form and a coarse grid: under a minute")
    p.add_argument("--lessons", type=_numbers, default=(), metavar="3,5", help="only these (default: all)")
