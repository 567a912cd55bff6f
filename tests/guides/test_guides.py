"""What the guides and the examples of the API say runs, as it stands."""

import contextlib
import doctest
import inspect
import io
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from demand import on_demand

import minires
from minires import guides
from minires.cli import main

BLOCK = re.compile(r"^```(\S+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, from which Python imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=on_demand) if n != "port_weights" else n for n in guides.GUIDES]
)
def test_every_block_of_a_guide_runs(name, here, capsys):
    names = {}
    for language, file, text in BLOCK.findall(guides.text(name)):
        if file:
            Path(file).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"{name}.md", "exec"), names)
        elif language == "sh":
            for line in filter(None, text.splitlines()):
                program, *args = shlex.split(line)
                assert program == "minires"
                assert main(args) in ((0, 1) if args[0] == "diagnose" else (0,)), line
        else:
            assert language == "text", language


def examples():
    """(public name, its doctest) of each function, class and method that has one."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in minires.__all__:
        thing = getattr(minires, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            for test in finder.find(thing, name, module=False, globs={"minires": minires, "numpy": np}):
                if test.examples:
                    yield test


@pytest.mark.parametrize("example", list(examples()), ids=lambda test: test.name)
def test_the_examples_of_the_api_run(example, here):
    told = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):
        doctest.DocTestRunner(optionflags=FLAGS).run(example, out=told.write)
    assert not told.getvalue(), told.getvalue()


NEEDS_AN_EXAMPLE = (
    *("Conv2d", "BatchNorm", "GroupNorm", "ReLU", "Dense", "MaxPool2d", "Block", "Sequential", "Network", "Branches"),
    *("resnet", "resnet50", "Module", "SGD", "AdamW", "Schedule", "Recipe", "make_signs", "make_step"),
    *("Classifier", "fit", "evaluate", "predict", "load", "save", "resume", "import_weights", "export_weights"),
    *("gradflow", "gradcheck", "summarize", "audit", "gradcam", "to_device", "build"),
    *("softmax_cross_entropy_forward", "softmax_cross_entropy_backward"),
)


@pytest.mark.parametrize("name", NEEDS_AN_EXAMPLE)
def test_the_main_names_have_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(minires, name))
