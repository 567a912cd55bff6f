"""Where nothing can be written or read: one clear line and status 2, for every kind of output; and a run's own data."""

import json
import os
from pathlib import Path

import pytest
from data_helpers import write_image
from stripes import TEST, TRAIN, classifier

from minires.cli import main
from minires.data import write_signs
from minires.files import write_text
from minires.train import save_checkpoint
from minires.weights import export_weights

pytestmark = pytest.mark.slow

WRITES = {
    "weights import": "weights import w.npz --out @.h5",
    "weights export": "weights export model.h5 --out @.npz",
    "predict": "predict model.h5 p.png --csv @.csv",
    "evaluate": "evaluate model.h5 --data signs.h5 --csv @.csv",
    "convert": "data convert signs.h5 @.h5",
    "show": "data show signs.h5 --out @.png",
    "make": "data make @ --size 16",
    "diagram": "diagram resnet8 --out @.svg",
    "kernels": "kernels model.h5 --out @.pdf",
    "recalibrate": "bn-doctor model.h5 --data signs.h5 --recalibrate @.h5",
    "train": "train --data signs.h5 --arch resnet8 --device cpu --epochs 1 --out @",
}
READS = ["weights import @ --out q.h5", "predict model.h5 @", "evaluate @", "evaluate model.h5 --data @", "data show @"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_signs("signs.h5", TRAIN, TEST)
    save_checkpoint(Path("model.h5"), classifier())
    export_weights(classifier(), "w.npz")
    write_image(Path("p.png"))
    Path("file").write_text("mine")
    return tmp_path


def line(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 2
    lines = [said for said in capsys.readouterr().err.splitlines() if said.startswith("minires: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("command", WRITES)
@pytest.mark.parametrize(
    ("place", "words"), [("n" * 260, "File name too long"), ("a\0b", "NUL byte"), ("file/x", "Not a directory")]
)
def test_places_that_cannot_be(command, place, words, files, capsys):
    said = line([word.replace("@", place) for word in WRITES[command].split()], capsys)
    assert words in said
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("command", [c for c in WRITES if "." in WRITES[c].split("@")[1]])
def test_a_folder_where_a_file_should_be(command, files, capsys):
    words = WRITES[command].replace("@", "folder").split()
    (files / next(word for word in words if word.startswith("folder"))).mkdir()
    assert "expected a file to write, but it is a folder" in line(words, capsys)


@pytest.mark.parametrize("command", READS)
@pytest.mark.parametrize("place", ["n" * 300, "a\0b", "file/x", "none"])
def test_names_that_nothing_has(command, place, files, capsys):
    line([word.replace("@", place) for word in command.split()], capsys)


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    """The temporary file beside it must not need a longer one."""
    for name in ("n" * 255, "é" * 127):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 2


# --- the data that a run's manifest names


@pytest.fixture
def run(files):
    words = ["train", "--data", "signs.h5", "--arch", "resnet8", "--device", "cpu", "--epochs", "1", "--out", "run"]
    assert main(words) == 0
    return files / "run"


def rename(run, spec):
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"]["spec"] = spec
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_s_own_data_are_told_as_its_manifest_s(run, capsys):
    """A relative name, as older runs have them; a place that is gone; data that are damaged."""
    rename(run, "photos/hands.h5")
    said = line(["evaluate", "run"], capsys)
    assert "run: its manifest.json names photos/hands.h5 as the run's data" in said
    assert f"no such file or folder is in {os.getcwd()}: say with --data where they are" in said
    rename(run, "/none/hands.h5")
    assert "its manifest.json names /none/hands.h5 as the run's data" in line(["evaluate", "run"], capsys)
    rename(run, str(run.parent / "file"))
    said = line(["evaluate", "run"], capsys)
    assert "run: of the data that its manifest.json names, " in said
    assert said.endswith("or give others with --data")
    assert main(["evaluate", "run", "--data", "signs.h5"]) == 0


def test_a_manifest_of_others(run, capsys):
    for content in ("[]", "{}", '{"data": 3}', '{"data": {"spec": 3}}', "\udcff", "[" * 100_000):
        (run / "manifest.json").write_bytes(os.fsencode(content))
        assert "--data" in line(["evaluate", "run"], capsys)
        assert main(["evaluate", "run", "--data", "signs.h5"]) == 0


def test_a_run_s_folder_is_no_data_and_data_are_no_run(run, capsys):
    assert "it is a run's folder: name it where a command asks for RUN" in line(["data", "show", "run"], capsys)
    write_image(Path("photos/a/1.png"))
    assert "name images with --data" in line(["evaluate", "photos"], capsys)
