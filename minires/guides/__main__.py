"""The pages of the API and the guides: `python -m minires.guides FOLDER`, with the extra `docs`."""

import sys
from pathlib import Path

import pdoc

import minires
from minires.lazy import load_all

ROOMS = ("ops", "data", "train", "weights", "errors")


def build(folder: Path) -> Path:
    """Write them; returns the first one, which opens from the file system."""
    for package in (minires, minires.train, minires.data):  # some of their names are loaded late
        load_all(package)
    pdoc.render.configure(footer_text=f"minires {minires.__version__}", search=True)
    rooms = (f"minires.{room}" for room in ROOMS)
    pdoc.pdoc("minires", "minires.guides", *rooms, output_directory=folder)
    return folder / "minires.html"


if __name__ == "__main__":
    print(build(Path(sys.argv[1])).resolve())
