"""Names of classes and files come from anywhere: none of them commands the terminal, or is more than a line."""

import io
import re

import pytest
from data_helpers import write_image
from rich.table import Table
from rich.text import Text

from minires import cli
from minires.console import Console

EVIL = "\x1b]0;mine\x07\x1b[31mred\x9b2J\x7f\r"
SHOWN = "␛]0;mine␇␛[31mred�2J␡␍"


@pytest.mark.parametrize("terminal", [False, True])
def test_controls_are_shown_as_pictures_of_them(terminal):
    table = Table(EVIL)
    table.add_row(EVIL, EVIL)
    for printed in (EVIL, table, Text(EVIL), Text.assemble(("a", "red"), EVIL)):
        screen = io.StringIO()
        Console(file=screen, force_terminal=terminal, width=200).print(printed, style="dim")
        said = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()) if terminal else screen.getvalue()
        assert SHOWN.split("␇")[1].removesuffix("␍") in said  # of a Text rich itself drops some
        assert not set(said) & set("\x1b\x07\x9b\x7f\r")


def test_a_name_between_colons_is_no_emoji():
    table, screen = Table("root:x:0"), io.StringIO()
    table.add_row(":warning:")
    for printed in ("root:x:0", table):
        Console(file=screen).print(printed)
    assert screen.getvalue().count("root:x:0") == 2
    assert ":warning:" in screen.getvalue()


@pytest.mark.slow
def test_names_of_classes_and_files(tmp_path, capsys):
    for name in (EVIL, "plain"):
        for i in range(6):
            write_image(tmp_path / "data" / name / f"{i}.png", seed=i)
    arguments = ["--data", str(tmp_path / "data"), "--size", "16", "--device", "cpu"]
    run = str(tmp_path / f"run{EVIL}")
    assert cli.main(["train", "--arch", "resnet8", "--epochs", "1", "--out", run, *arguments]) == 0
    assert cli.main(["evaluate", run]) == 0
    assert cli.main(["data", "show", *arguments[:4], "--out", str(tmp_path / "x.png")]) == 0
    assert cli.main(["predict", run, str(tmp_path / "data" / EVIL / "0.png")]) == 0
    (tmp_path / "data" / EVIL / "0.png").write_text("no image")
    assert cli.main(["predict", run, str(tmp_path / "data" / EVIL / "0.png")]) == 2
    assert cli.main(["evaluate", EVIL]) == 2
    assert cli.main(["summary", EVIL]) == 2
    assert cli.main(["summary", "resnet8", EVIL]) == 2
    said, complained = capsys.readouterr()
    assert SHOWN in said
    assert not set(said + complained) & set("\x1b\x07\x9b\x7f\r")


def test_a_name_that_is_no_text(tmp_path, capsys):
    """A file's name may hold any bytes."""
    name = tmp_path / "\udcff.png"
    write_image(name)
    assert cli.main(["predict", str(name), str(name)]) == 2
    assert cli.main(["diagram", "resnet8", "--out", str(tmp_path / "\udcfe.svg")]) == 0
    said = capsys.readouterr()
    assert r"\udcff.png" in said.err
    assert r"\udcfe.svg" in said.out


@pytest.fixture
def pictures(tmp_path):
    for i in range(12):
        write_image(tmp_path / "here" / "data" / "ab"[i % 2] / f"{i}.png", seed=i)
    return tmp_path / "here"


@pytest.mark.slow
def test_a_run_finds_its_data_from_anywhere_and_says_where_they_were(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(pictures)
    run = str(tmp_path / "run")
    small = ["--arch", "resnet8", "--size", "16", "--device", "cpu", "--epochs", "1"]
    assert cli.main(["train", "--data", "data", "--out", run, *small]) == 0
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", run]) == 0
    assert cli.main(["train", "--resume", run, "--epochs", "2", "--device", "cpu"]) == 0
    (pictures / "data").rename(tmp_path / "moved")
    capsys.readouterr()
    resume = ["train", "--resume", run, "--epochs", "3", "--device", "cpu"]
    for arguments in (["evaluate", run], resume):
        assert cli.main(arguments) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"its manifest.json names {pictures / 'data'}" in line
        assert "--data" in line
    assert cli.main(["evaluate", run, "--data", "moved"]) == 0
    assert cli.main([*resume, "--data", "moved"]) == 0
