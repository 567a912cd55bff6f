"""Numbers out of their range, and texts that are empty: every option of every command, and the same in Python."""

import argparse
from dataclasses import fields

import pytest
from minires.lessons import harness, terminal

from minires import cli
from minires.data import Augment
from minires.errors import ConfigError
from minires.nn import Config
from minires.ranges import RANGES, check
from minires.run import DataSource
from minires.train import Recipe


def commands(parser, path=()):
    """(words of a command, its parser) for all of them, those of the lessons too."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield path, parser
    for name, inner in nested[0].choices.items() if nested else ():
        yield from commands(inner, (*path, name))


COMMANDS = [
    *commands(cli.parser()),
    *((("lesson", str(m.LESSON.number)), terminal.parser(m.LESSON, m.measure)) for m in harness.discover()),
]
OPTIONS = [(path, p, action) for path, p in COMMANDS for action in p._actions if action.nargs != 0]
OPTIONS = [(*option, " ".join([*option[0], option[2].dest])) for option in OPTIONS]
NUMBERS = [option for option in OPTIONS if option[2].type in (int, float)]


def filled(parser, action, text) -> list[str]:
    """Arguments that hold `text` for this action, and something for all that has to be there."""
    arguments, positional = [], []
    for each in parser._actions:
        usual = "resnet8" if each.dest == "arch" else "1"
        value = text if each is action else str(next(iter(each.choices))) if each.choices else usual
        if not each.option_strings and (each is action or each.nargs not in ("?", "*", argparse.REMAINDER)):
            positional.append(value)
        elif each.option_strings and (each is action or each.required):
            arguments += [f"{each.option_strings[-1]}={value}"]
    return [*arguments, *positional]


@pytest.mark.parametrize(("path", "parser", "action", "_"), NUMBERS, ids=[name for *_, name in NUMBERS])
def test_every_number_has_a_range(path, parser, action, _):
    assert action.dest in parser.ranges
    hostile = ["nan", "inf", "1e400", "", "x", "9" * 400, "9" * 5000]
    hostile += ["-inf"] if action.option_strings else []  # else it looks like an option
    hostile += [] if action.dest in ("last_gamma", "scales") else ["-1"]  # those have a sign
    hostile += (
        ["0"]
        if parser.ranges[action.dest].words.startswith(("a whole number from 1 ", "a finite number above"))
        else []
    )
    for text in hostile:
        with pytest.raises(ConfigError) as error:
            parser.parse_args(filled(parser, action, text))
        message = str(error.value)
        assert "\n" not in message
        assert (action.option_strings or [action.metavar])[-1] in message or action.dest in message
        assert "expected" in message or "invalid" in message


TEXTS = [option for option in OPTIONS if option not in NUMBERS and option[2].nargs != argparse.REMAINDER]


@pytest.mark.parametrize(("path", "parser", "action", "_"), TEXTS, ids=[name for *_, name in TEXTS])
def test_no_text_is_empty(path, parser, action, _):
    """`--resume ""` would start a new run, `--data ""` train on the folder that one stands in."""
    with pytest.raises(ConfigError):
        parser.parse_args(filled(parser, action, ""))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("train --label-smoothing 2", "--label-smoothing: expected a number of at least 0 and below 1, got 2.0"),
        ("train --weight-decay -5", "--weight-decay: expected a finite number of at least 0, got -5.0"),
        ("train --clip-norm 0", "--clip-norm: expected a finite number above 0, got 0.0"),
        ("train --last-gamma nan", "--last-gamma: expected a finite number, got nan"),
        ("train --size 0", "--size: expected a whole number from 1 to 65,535, got 0"),
        ("train --seed -1", "--seed: expected a whole number from 0 to 4,294,967,295, got -1"),
        ("train --warmup-epochs nan", "--warmup-epochs: expected a finite number of at least 0, got nan"),
        (
            "train --warmup-epochs 20",
            "a warm-up of 20 epochs fills the whole run of 11: shorten it, or train for longer",
        ),
        ("train --bn-momentum 2", "--bn-momentum: expected a number of at least 0 and below 1, got 2.0"),
        ("train --lr 1e400", "--lr: expected a finite number above 0, got inf"),
        ("train --epochs x", "argument --epochs: invalid int value: 'x'; see `minires train --help`"),
        ("train --resume ", "argument --resume: expected a text, got an empty one; see `minires train --help`"),
        ("summary resnet8 --oops", "unrecognized arguments: --oops; see `minires --help`"),
        ("lesson 1 --seeds 0", "lesson 1: --seeds: expected a whole number from 1 to 1,000,000, got 0"),
        ("lesson all --repeat 0", "--repeat: expected a whole number from 1 to 1,000,000, got 0"),
    ],
)
def test_one_line_names_the_option_as_it_was_typed(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments.split(" ")) == 2
    assert capsys.readouterr().err == f"minires: {line}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [Recipe, Augment, Config, DataSource])
def test_the_same_ranges_in_python(kind):
    needed = {"arch": "resnet8", "input_shape": (8, 8, 3), "classes": 2} if kind is Config else {}
    checked = [f.name for f in fields(kind) if f.type in (int, float, int | None, float | None, tuple | None)]
    assert set(checked) <= set(RANGES)
    for name in checked:
        for value in (
            float("nan"),
            float("inf"),
            10**400,
            "1",
            True,
            [],
            -(10**9) - 0.5 if name != "last_gamma" else "",
        ):
            with pytest.raises(ConfigError, match=f"^{name}: expected "):
                kind(**needed | {name: value})


def test_a_schedule_that_does_not_exist():
    with pytest.raises(ConfigError, match="unknown schedule 'linear': choose one of constant, step, cosine, onecycle"):
        Recipe(schedule="linear")


TINY = 1e-9
EDGES = {  # a name of each range: its outermost values, and those just outside
    "epochs": ((1, 10**6), (0, 10**6 + 1, 1.5)),
    "lr": ((TINY, 1e300), (0, -TINY)),
    "shards": ((1, 10**5), (0, 10**5 + 1)),
    "ranks": ((1, 1024), (0, 1025)),
    "weight_decay": ((0, 1e300), (-TINY,)),
    "label_smoothing": ((0, 1 - TINY), (-TINY, 1, 1.0)),
    "betas": (((0, 1 - TINY),), ((0, 1), (-TINY, 0), (0.9,), (0.9, 0.9, 0.9), 0.9)),
    "seed": ((0, 2**32 - 1), (-1, 2**32)),
    "shift": ((0, 1), (-TINY, 1 + TINY)),
    "scale": ((0, 0.9), (-TINY, 0.9 + TINY)),
    "rotate": ((0, 180), (-TINY, 180 + TINY)),
    "classes": ((2, 10**6), (1, 10**6 + 1)),
    "last_gamma": ((-1e300, 0, 1e300), (float("inf"), float("nan"))),
    "widths": (((1, 10**6),), ((0, 1), (1, 10**6 + 1), ())),
    "size": ((1, 65_535), (0, 65_536)),
    "warmup": ((0, 10**6), (-1, 10**6 + 1)),
    "threads": ((1, 1024), (0, 1025)),
}


def test_every_range_ends_where_it_says():
    assert {id(RANGES[name]) for name in EDGES} == {id(each) for each in RANGES.values()}
    for name, (inside, outside) in EDGES.items():
        for value in inside:
            check(**{name: value})
        for value in outside:
            with pytest.raises(ConfigError, match=f"^{name}: expected "):
                check(**{name: value})
