"""What is on images, of a whole folder as a table; and what evaluate tells of a network."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from minires import cli, resnet
from minires.commands import predicting
from minires.data import make_signs, write_signs
from minires.train import Classifier, load_classifier, save_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint for signs of 16 pixels, 70 of them in two folders and some other files, and the data as HDF5."""
    root = tmp_path_factory.mktemp("run")
    train, test = make_signs(n_train=72, n_test=24, size=16)
    c = Classifier.for_data(resnet("resnet8", train.shape, 6, widths=(4, 6, 8)), train)
    save_checkpoint(root / "model.h5", c)
    write_signs(root, train, test)
    for i in range(70):
        path = root / "new" / ("b" if i % 2 else "a") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images([i])[0]).save(path)
    (root / "new" / "notes.txt").write_text("no image")
    (root / "new" / ".hidden.png").write_text("no image either")
    return root, train


def table(path):
    with open(path, newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_a_folder_as_a_table(run, tmp_path, capsys):
    root, train = run
    out = tmp_path / "out.csv"
    assert cli.main(["predict", str(root / "model.h5"), str(root / "new"), "--csv", str(out), "--top", "3"]) == 0
    said = capsys.readouterr()
    assert "70 images" in said.out
    assert "1 other files were left out (.txt)" in said.err
    rows = table(out)
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    order = [*range(0, 70, 2), *range(1, 70, 2)]
    assert [row["file"] for row in rows] == [str(root / "new" / "ab"[i % 2] / f"{i}.png") for i in order]
    probs = load_classifier(root / "model.h5").probs(train.images(np.arange(70)))
    for row, p in zip(rows, probs[order], strict=True):
        best = np.argsort(-p, kind="stable")
        assert [row["class"], row["class_2"], row["class_3"]] == [train.classes[k] for k in best[:3]]
        assert float(row["probability_3"]) == pytest.approx(p[best[2]], rel=1e-4)


def test_json_has_the_likeliest_of_each(run, capsys):
    root, _ = run
    assert cli.main(["predict", str(root / "model.h5"), str(root / "new" / "a" / "0.png"), "--top", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["class"] == row["top"][0]["class"]
    assert len(row["top"]) == 2


def test_one_damaged_image_costs_nothing_but_itself(run, tmp_path, capsys):
    root, train = run
    folder, out = tmp_path / "new", tmp_path / "out.csv"
    folder.mkdir()
    (folder / "0.png").write_text("no image")
    for i in (1, 2, 10):
        Image.fromarray(train.images([i])[0]).save(folder / f"{i}.png")
    assert cli.main(["predict", str(root / "model.h5"), str(folder), "--csv", str(out)]) == 2
    left, last = capsys.readouterr().err.splitlines()[-2:]
    assert left.startswith(f"left out: {folder / '0.png'}")
    assert last == "minires: 1 files could not be read, as said above: all others are done"
    assert [row["file"] for row in table(out)] == [str(folder / f"{i}.png") for i in (1, 2, 10)]


@pytest.mark.parametrize("name", ["absent.png", "empty", "notes.txt"])
def test_nothing_is_written_where_nothing_is_read(run, tmp_path, capsys, name):
    root, _ = run
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    out = tmp_path / "out.csv"
    assert cli.main(["predict", str(root / "model.h5"), str(tmp_path / name), "--csv", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("minires:")]
    assert len(lines) == 1
    assert name in lines[0]
    assert not out.exists()


def test_images_are_held_a_batch_at_a_time(run, monkeypatch, tmp_path):
    root, _ = run
    read, most = [], 0

    def probs(self, images, predictor=None):
        nonlocal most
        most = max(most, len(images))
        read.append(len(images))
        return np.full((len(images), 6), 1 / 6, np.float32)

    monkeypatch.setattr(Classifier, "probs", probs)
    arguments = ["predict", str(root / "model.h5"), str(root / "new"), "--csv", str(tmp_path / "out.csv")]
    assert cli.main(arguments) == 0
    assert read == [64, 6]


def test_evaluate_tells_the_confusion_matrix(run, tmp_path, capsys):
    root, _ = run
    model, data, out = str(root / "model.h5"), str(root / "train_signs.h5"), tmp_path / "confusion.csv"
    assert cli.main(["evaluate", model, "--data", data, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert cli.main(["evaluate", model, "--data", data, "--confusion", "--csv", str(out)]) == 0
    said = capsys.readouterr().out
    assert "taken for" in said
    assert "95 % interval" in said
    assert "ECE" in said
    rows = list(csv.reader(out.open(newline="")))
    assert rows[0] == ["true class", *(f"taken for {name}" for name in told["classes"])]
    assert [[int(n) for n in row[1:]] for row in rows[1:]] == told["confusion"]
    assert np.sum(told["confusion"]) == told["images"] == 24
    assert told["top"].keys() == {"1", "2", "3", "5"}
    assert predicting._columns(1) == ["class", "probability"]
