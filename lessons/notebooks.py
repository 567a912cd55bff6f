"""A lesson as a Jupyter notebook: `python -m minires.lessons.notebooks 3 lesson_03.ipynb --run`.

The notebook holds the text and calls the lesson's measure, check and plot; its knobs are a cell to edit. With `--run`
it is executed first, so that it holds the numbers and the picture too; that takes nbclient and ipykernel.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from minires.lessons import harness, shown
from minires.lessons.prose import paragraphs

from minires.errors import ConfigError, MiniresError
from minires.files import write_text

PLAIN = re.compile(r"(\$[^$]+\$|`[^`]+`)|[&<*_~^]")
INSTALL = """import importlib.util
import subprocess
import sys

if importlib.util.find_spec("minires") is None:  # in place of its name: a wheel or an address, where you have one
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "minires"], check=True)"""
SETUP = """from IPython.display import Image

from minires.lessons import harness, shown
from minires.lessons.terminal import claim_table
from minires.instruments.style import picture_bytes

lesson = harness.load({number})"""
MEASURE = """result = lesson.measure(**knobs)
Image(picture_bytes(lesson.plot(result)))"""
CHECK = """claims = harness.judged(lesson.check, result)
claim_table(claims)"""


def write(number: int, path: Path, quick: bool = False, run: bool = False) -> Path:
    """Write lesson `number` as a notebook (nbformat 4.5), whole or not at all; returns the path. run: with its outputs.

    ConfigError where nbclient is missing.
    """
    module = harness.load(number)
    start = harness.default_knobs(module.measure, module.LESSON if quick else None)
    notebook = as_notebook([cell(f"cell-{i}", kind, text) for i, (kind, text) in enumerate(_cells(module, start))])
    notebook = executed(notebook) if run else notebook
    write_text(path, json.dumps(notebook, indent=1, ensure_ascii=False))
    return path


def executed(notebook: dict) -> dict:
    """The notebook with what each of its cells gave, in a process of its own; an error in a cell is raised."""
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError as error:
        raise ConfigError(f"--run needs {error.name}: pip install 'minires[notebooks]'") from None
    found = nbformat.from_dict(notebook)
    with TemporaryDirectory() as folder:  # where it may leave files
        NotebookClient(found, timeout=None, resources={"metadata": {"path": folder}}).execute()
    return dict(found)


def markdown(text: str) -> str:
    """A lesson's text as Markdown, in which '<w, dw>' is no tag and an asterisk no emphasis."""
    return escaped("\n\n".join(paragraphs(text)))


def escaped(text: str) -> str:
    """Plain text as Markdown; formulas and code stay as they are."""
    return PLAIN.sub(lambda found: found[1] or f"&#{ord(found[0])};", text)


def _cells(module, start: dict) -> list[tuple[str, str]]:
    said, helps = module.LESSON, harness.knob_help(module.measure)
    lines = [f"    {name}={value!r},  # {helps.get(name, '')}" for name, value in start.items()]
    sources = "\n".join(f"- {markdown(source)}" for source in said.sources)
    names = ", ".join(f"`{shown.name(item)}`" for item in said.shows)
    return [
        ("markdown", f"# {said.number}. {said.title}\n\n*{markdown(said.question)}*"),
        ("markdown", markdown(said.idea)),
        ("code", INSTALL),
        ("code", SETUP.format(number=said.number)),
        ("markdown", "Edit the knobs and run the cells below again."),
        ("code", "\n".join(["knobs = dict(", *lines, ")"])),
        ("code", MEASURE),
        ("markdown", f"**Look for.** {markdown(said.look_for)}"),
        ("code", CHECK),
        ("markdown", f"**Wrong if.** {markdown(said.wrong_if)}\n\n**Exercise.** {markdown(said.exercise)}"),
        ("markdown", f"The code: {names}"),
        ("code", "for item in lesson.LESSON.shows:\n    print(shown.source(item))"),
        ("markdown", f"From:\n\n{sources}"),
    ]


def cell(name: str, kind: str, text: str, metadata: dict | None = None) -> dict:
    """A cell of nbformat 4.5."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": name, "metadata": metadata or {}, "source": text} | code


def as_notebook(cells: list[dict]) -> dict:
    """The cells as a whole notebook of nbformat 4.5, for Python."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m minires.lessons.notebooks", description="Write a lesson for Jupyter.")
    p.add_argument("lesson", type=int, metavar="N", help="its number")
    p.add_argument("out", type=Path, metavar="OUT.ipynb")
    p.add_argument("--quick", action="store_true", help="begin with the knobs of its quick form")
    p.add_argument("--run", action="store_true", help="execute it, and keep the numbers and the picture in it")
    args = p.parse_args(argv)
    try:
        print(write(args.lesson, args.out, args.quick, args.run))
    except MiniresError as error:
        print(f"minires: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
