"""Data on the command line: three parts from training to the report, whole folders measured, a look, conversion."""

import json
import shutil

import h5py
import layouts
import numpy as np
import pytest
from PIL import Image

from minires import cli, load_classifier
from minires.data import load_parts
from minires.seal import sealed
from minires.train import evaluate
from minires.train.checkpoint import load_checkpoint

TINY = ["--arch", "resnet8", "--batch-size", "4", "--size", "16", "--lr", "0.05", "--no-augment", "--no-check"]


def run(capsys, *arguments):
    assert cli.main(list(map(str, arguments))) == 0
    return capsys.readouterr()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """(a folder in three parts, a run on it, what training said)."""
    root = tmp_path_factory.mktemp("three")
    data = layouts.images(
        root / "data", *(f"{part}/{c}" for part in ("Train", "dev", "test_set") for c in "ab"), count=6
    )
    (data / "Train/a/notes.HEIC").touch()
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("minires.commands.training.out.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        assert cli.main(["train", "--data", str(data), "--out", str(root / "run"), *TINY, "--epochs", "4"]) == 0
    return data, root / "run", "\n".join(said)


def test_validation_chooses_the_epoch_and_the_test_part_is_reported_once(three):
    data, folder, said = three
    assert f"12 validation images, which choose the epoch: {data}/dev" in said
    assert f"12 test images, reported at the end: {data}/test_set" in said
    assert "left out: 1 .HEIC" in said
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows]
    assert not any("test_loss" in row for row in rows)
    best = 1 + int(np.argmin(losses))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"]["chooses the epoch"] == "validation"
    assert manifest["data"]["validation images"] == 12
    assert manifest["result"]["epoch"] == best
    assert f"epoch {best}, chosen by the validation loss: test accuracy" in said
    assert "which chose that epoch" in (folder / "report.html").read_text()
    progress = load_checkpoint(folder / "best.h5").training["progress"]
    assert progress["epoch"] == best
    chosen, parts = load_classifier(folder), load_parts(data, size=16)
    assert min(losses) == pytest.approx(evaluate(chosen, parts.validation).loss)
    assert manifest["result"]["test loss"] == pytest.approx(evaluate(chosen, parts.test).loss)


def test_a_run_in_three_parts_goes_on_with_them(three, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minires.run.write_report", lambda *_, **__: None)
    folder = shutil.copytree(three[1], tmp_path / "run")
    run(capsys, "train", "--resume", folder, "--epochs", 5)
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert "validation_loss" in rows[4]


def test_evaluate_measures_all_of_a_folder_or_its_test_part_and_says_which(three, tmp_path, capsys):
    folder = three[1]
    other = layouts.images(tmp_path / "other", "a", "b", count=20)
    found = run(capsys, "evaluate", folder, "--data", other, "--json")
    assert json.loads(found.out)["images"] == 40
    assert "not split, all 40 images are the test part" in found.err
    found = run(capsys, "evaluate", folder, "--data", layouts.images(tmp_path / "some", "b", count=3))
    assert "in 3)" in found.out
    assert "no test images of a" not in found.err
    split = layouts.images(tmp_path / "split", "train/a", "train/b", "Testing/a", "Testing/b", count=4)
    assert "8 test images: " in run(capsys, "evaluate", folder, "--data", split).out
    asked = run(capsys, "evaluate", folder, "--data", other, "--test-fraction", 0.25, "--json")
    assert json.loads(asked.out)["images"] == 10
    for part, images in (("validation", 12), ("train", 12)):
        assert json.loads(run(capsys, "evaluate", folder, "--part", part, "--json").out)["images"] == images


def test_evaluate_knows_the_data_of_the_run_wherever_they_are(tmp_path, capsys, monkeypatch):
    """All of them would be mostly what it was trained on."""
    monkeypatch.setattr("minires.run.write_report", lambda *_, **__: None)
    data = layouts.images(tmp_path / "data", "a", "b", count=10)
    run(capsys, "train", "--data", data, "--out", tmp_path / "run", *TINY, "--epochs", 1, "--split-seed", 3)
    data = data.rename(tmp_path / "moved")
    found = run(capsys, "evaluate", tmp_path / "run", "--data", data, "--json")
    assert json.loads(found.out)["images"] == 4
    assert "the data of the run itself, split as they were for training" in found.err


@pytest.mark.slow
def test_data_show_counts_and_finds_leaks_and_odd_files(tmp_path, capsys):
    root = tmp_path / "data"
    layouts.images(root, "train/a", "train/b", "test/a", "test/b", count=10)
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((80, 80), Image.Resampling.BICUBIC)
    scene.save(root / "train/a/scene.png")
    scene.convert("L").save(root / "test/b/copy.jpg", quality=60)
    Image.new("RGB", (8, 8), "red").save(root / "test/a/red.png")
    (root / "train/b/bad.png").write_bytes(b"none")
    found = run(capsys, "data", "show", root, "--out", tmp_path / "x.svg", "--json")
    report = json.loads(found.out)
    assert report["parts"]["train"]["classes"] == {"a": 11, "b": 11}
    (pair,) = report["alike"]
    assert (pair["image"], pair["other image"]) == (str(root / "test/b/copy.jpg"), str(root / "train/a/scene.png"))
    odd = report["odd"]
    assert odd["of one colour"] == [str(root / "test/a/red.png")]
    assert odd["not readable"] == [str(root / "train/b/bad.png")]
    assert odd["80x80 pixels, where most are 8x8"] == [str(root / "train/a/scene.png"), str(root / "test/b/copy.jpg")]
    assert odd["L, where most are RGB"] == [str(root / "test/b/copy.jpg")]
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    said = run(capsys, "data", "show", "--data", root, "--out", tmp_path / "x.png").out
    assert "1 of 22 test images are in the train part too, or nearly" in said
    assert f"1 of one colour: {root / 'test/a/red.png'}" in said


def test_data_convert_seals_what_it_reads(tmp_path, capsys):
    found = run(capsys, "data", "convert", layouts.cifar(tmp_path / "cifar"), tmp_path / "cifar.h5")
    assert "6 training images" in found.err
    assert sealed(tmp_path / "cifar.h5")
    with h5py.File(tmp_path / "cifar.h5") as file:
        assert file["train_set_x"].shape == (6, 32, 32, 3)
        assert file["test_set_x"].shape == (4, 32, 32, 3)


def test_an_npz_given_as_a_checkpoint_is_told_what_it_is(tmp_path, capsys):
    path = layouts.npz(tmp_path / "a.npz", {"": 4})
    assert cli.main(["evaluate", str(path)]) == 2
    line = capsys.readouterr().err
    assert "NumPy arrays (.npz)" in line
    assert "unpack" not in line
