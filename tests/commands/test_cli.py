"""The command line as a user meets it: results, files, and one clear line for what went wrong."""

import argparse
import concurrent.futures
import json
import math
import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import slowed
from PIL import Image

from minires import cli, train
from minires.commands import common
from minires.data import make_signs
from minires.train import load_classifier, save_checkpoint


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    """A small SIGNS pair of the built-in hands, 24x24."""
    from minires.data import write_signs

    folder = tmp_path_factory.mktemp("signs")
    write_signs(folder, *make_signs(n_train=96, n_test=24, size=24))
    return folder


@pytest.fixture(scope="module")
def run(signs, tmp_path_factory):
    """A finished run on them."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    arguments = ["--arch", "resnet8", "--size", "24", "--epochs", "2", "--batch-size", "32", "--device", "cpu"]
    assert cli.main(["train", "--data", str(signs), "--out", str(folder), *arguments]) == 0
    return folder


def fails(capsys, *arguments, status=2) -> str:
    """The one line that a failing command prints."""
    assert cli.main(list(map(str, arguments))) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("device:")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("minires: ")
    return lines[0]


def test_a_run_leaves_its_folder(run):
    assert {p.name for p in run.iterdir()} >= {
        "model.h5",
        "best.h5",
        "history.jsonl",
        "manifest.json",
        "report.html",
        "pictures",
    }
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["arch"] == "resnet8"
    assert manifest["data"]["train images"] == 96
    assert len(manifest["data"]["train fingerprint"]) == 64
    assert {"numpy", "minires", "python"} <= set(manifest["versions"])
    assert "minires" in manifest["command"]
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2]
    assert manifest["result"]["test accuracy"] == history[-1]["test_accuracy"]
    assert "<html" in (run / "report.html").read_text()


def test_evaluate_reads_the_data_from_the_manifest(run, signs, capsys):
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    manifest = json.loads((run / "manifest.json").read_text())
    assert numbers["accuracy"] == manifest["result"]["test accuracy"]
    assert numbers["images"] == 24
    assert set(numbers["classes"]) == set("012345")
    assert cli.main(["evaluate", str(run), "--data", str(signs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == numbers["accuracy"]
    assert cli.main(["evaluate", str(run), "--part", "train"]) == 0
    assert "in 96)" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_network_of_nan_predicts_nothing(run, signs, tmp_path, capsys):
    classifier, image, model = load_classifier(run), tmp_path / "hand.png", tmp_path / "model.h5"
    weights = classifier.model.params()[-2]
    weights.data[0, 0] = np.nan
    save_checkpoint(model, classifier)
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(image)
    for arguments in (["predict", model, image], ["evaluate", model, "--data", signs]):
        said = fails(capsys, *arguments, "--device", "cpu")
        assert f"{weights.name} holds values that are not finite" in said


@pytest.mark.parametrize("option", ["--lr 0.1", "--no-skip", "--seed 1", "--out elsewhere", "--optimizer sgd"])
def test_a_resumed_run_takes_no_setting_of_another(run, capsys, option):
    said = fails(capsys, "train", "--resume", run, *option.split(), "--epochs", "9")
    assert said.startswith(f"minires: {option.split()[0]}: --resume goes on as the run began")


def test_predict_applies_the_training_preprocessing(run, tmp_path, capsys):
    _, test = make_signs(n_train=96, n_test=24, size=24)
    paths = []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(test.images(np.array([i]))[0]).save(paths[-1])
    assert cli.main(["predict", str(run), *paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    probs = load_classifier(run).probs(test.images(np.arange(4)))
    for row, p in zip(rows, probs, strict=True):
        np.testing.assert_allclose(list(row["probabilities"].values()), p, rtol=1e-4, atol=1e-6)
        assert row["class"] == str(p.argmax())
    assert cli.main(["predict", str(run), *paths]) == 0
    text = capsys.readouterr().out
    assert all(row["class"] in text for row in rows)


@pytest.mark.slow
def test_resume_after_ctrl_c(signs, tmp_path):
    """A real process, a real signal; the run goes on and ends as if nothing had happened."""
    folder = tmp_path / "run"
    base = [sys.executable, "-m", "minires.cli", "train", "--device", "cpu"]
    options = ["--data", str(signs), "--arch", "resnet8", "--size", "24", "--batch-size", "8", "--epochs", "60"]
    process = subprocess.Popen(
        [*base, *options, "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch 1/60"):
            process.send_signal(2)
            break
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert f"minires train --resume {folder}" in output
    assert "Traceback" not in errors
    done = len((folder / "history.jsonl").read_text().splitlines())
    finished = subprocess.run(
        [*base, "--resume", str(folder), "--epochs", str(done + 1)], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    assert len((folder / "history.jsonl").read_text().splitlines()) == done + 1
    assert (folder / "report.html").exists()


def test_a_finished_run_is_not_overwritten(run, signs, capsys):
    line = fails(capsys, "train", "--data", signs, "--out", run, "--arch", "resnet8")
    assert "already holds a run" in line
    assert "--resume" in line


class Full:
    """A disk that is full for files of that name."""

    def __init__(self, name, monkeypatch):
        self.name, self.replace = name, os.replace
        monkeypatch.setattr(os, "replace", self)

    def __call__(self, source, target):
        if os.path.basename(target) == self.name:
            raise OSError(28, "No space left on device")
        self.replace(source, target)


@pytest.fixture
def no_pictures(monkeypatch):
    slowed.undrawn(monkeypatch.setattr)


TINY = ["--arch", "resnet8", "--size", "24", "--epochs", "1", "--batch-size", "32", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifest.json", "curves.png", "report.html"])
@pytest.mark.parametrize("again", ["report", "resume"])
def test_what_a_full_disk_left_out_at_the_end_is_made_later(
    signs, tmp_path, capsys, monkeypatch, no_pictures, name, again
):
    out, arguments = tmp_path / "run", ["train", "--data", signs, "--out", tmp_path / "run", *TINY]
    fit, replace = train.fit, os.replace

    def full_after(*args, **options):
        progress = fit(*args, **options)
        Full(name, monkeypatch)
        return progress

    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", full_after, raising=False)
        line = fails(capsys, *arguments, status=1)
    assert "No space left" in line
    assert f"epoch 1 is saved; for the report: minires report {out}" in line
    monkeypatch.setattr(os, "replace", replace)
    command = ["report", out] if again == "report" else ["train", "--resume", out]
    assert cli.main([*map(str, command), "--device", "cpu"]) == 0
    history = json.loads((out / "history.jsonl").read_text())
    assert json.loads((out / "manifest.json").read_text())["result"]["test loss"] == history["test_loss"]
    assert "</html>" in (out / "report.html").read_text()
    assert not [p.name for p in (*out.iterdir(), *(out / "pictures").iterdir()) if p.name.startswith(".")]


def test_a_stop_in_the_report_says_how_to_make_it(signs, tmp_path, capsys, monkeypatch, no_pictures):
    from minires.instruments import report

    def press(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(report, "picture_bytes", press)
    out = tmp_path / "run"
    assert cli.main(["train", "--data", str(signs), "--out", str(out), *TINY]) == 128 + signal.SIGTERM
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped")]
    assert said == [f"stopped; epoch 1 is saved; for the report: minires report {out}"]


def test_the_report_of_a_run_that_is_not_at_its_end(run, tmp_path, capsys, monkeypatch, no_pictures):
    from stripes import StopAfter

    from minires.train import progress

    out = tmp_path / "run"
    source = json.loads((run / "manifest.json").read_text())["data"]["spec"]
    monkeypatch.setattr(progress.ConsoleReporter, "step", StopAfter(4).step)
    assert cli.main(["train", "--data", source, "--out", str(out), *TINY, "--epochs", "2"]) == 130
    assert cli.main(["report", str(out), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert f"not trained to its end: epoch 1 and 1 batches of the next of 2: minires train --resume {out}" in text
    assert (out / "report.html").exists()


def test_report_makes_no_folder(tmp_path, capsys):
    assert "no such file or folder" in fails(capsys, "report", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_second_training_is_told_who_has_the_folder(signs, tmp_path, capsys):
    from minires.train import folder

    with folder.locked(tmp_path), concurrent.futures.ThreadPoolExecutor(1) as other:
        line = other.submit(fails, capsys, "train", "--data", signs, "--out", tmp_path, *TINY).result()
    assert "the thread MainThread of this process trains in it" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_step_at_a_rate_far_too_high_leaves_no_report(signs, tmp_path, capsys):
    out = tmp_path / "run"
    line = fails(capsys, "train", "--data", signs, "--out", out, *TINY, "--batch-size", 96, "--lr", "1e38")
    assert "epoch 1, batch 1" in line
    assert "lower the learning rate (now at most 1e+38)" in line
    assert "still holds epoch 0" in line
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "model.h5"]


def test_json_has_no_nan(capsys):
    from minires.console import print_json

    print_json({"loss": math.nan, "rows": [(math.inf, 1.5), {"x": -math.inf}], "name": "nan"})
    assert capsys.readouterr().out == '{"loss": null, "rows": [[null, 1.5], {"x": null}], "name": "nan"}\n'


def test_summary_counts(capsys):
    assert cli.main(["summary", "resnet50", "--input", "64x64x3", "--classes", "6", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["total"] == 23_600_006
    assert cli.main(["summary", "resnet50"]) == 0
    text = capsys.readouterr().out
    assert "23,600,006" in text
    assert "res2a_branch2a" in text


@pytest.mark.slow
def test_gradflow_compares_and_draws(tmp_path, signs, capsys):
    picture = tmp_path / "flow.png"
    arguments = ["--data", str(signs), "--size", "24", "--arch", "resnet8", "--batch-size", "8", "--out", str(picture)]
    assert cli.main(["gradflow", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert Image.open(picture).size[0] > 400
    assert cli.main(["gradflow", *arguments]) == 0
    assert str(picture) in capsys.readouterr().out


@pytest.mark.slow
def test_data_make_and_convert(tmp_path, capsys):
    assert cli.main(["data", "make", str(tmp_path / "made"), "--size", "16"]) == 0
    with h5py.File(tmp_path / "made" / "train_signs.h5") as file:
        assert file["train_set_x"].shape == (1080, 16, 16, 3)
    _, test = make_signs(n_train=12, n_test=24, size=16)
    for i, label in enumerate(test.labels):
        (tmp_path / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(test.images(np.array([i]))[0]).save(tmp_path / "photos" / str(label) / f"{i}.png")
    target = tmp_path / "photos.h5"
    assert cli.main(["data", "convert", str(tmp_path / "photos"), str(target), "--size", "20"]) == 0
    with h5py.File(target) as file:
        assert file["train_set_x"].shape[1:] == (20, 20, 3)
        assert len(file["train_set_y"]) + len(file["test_set_y"]) == 24


def test_data_show(tmp_path, signs, capsys):
    picture = tmp_path / "samples.png"
    assert cli.main(["data", "show", "--data", str(signs), "--size", "24", "--out", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "│ all   │    96 │   24 │" in said
    assert "96 training images" in said
    assert "24x24 pixels" in said
    assert Image.open(picture).size[0] > 400


def test_doctor(capsys, signs):
    status = cli.main(["doctor", "--data", str(signs)])
    assert status in (0, 1)
    assert "numpy" in capsys.readouterr().out.lower()


def test_square_brackets_survive_the_console(run, capsys):
    """The advice to install 'minires[cuda12]' must not be eaten as markup."""
    cli.main(["evaluate", str(run), "--json", "--device", "gpu"])
    message = capsys.readouterr().err
    assert "device: gpu" in message or "minires[cuda12]" in message or "nvidia-smi" in message


def test_a_gpu_is_named_and_why_there_is_none_only_where_one_was_asked_for(capsys, monkeypatch):
    for chosen, said in (("cpu", ""), ("gpu", "device: gpu (a card)\n")):
        monkeypatch.setattr(common, "choose_device", lambda request, chosen=chosen: (chosen, "a card"))
        assert common.device(argparse.Namespace(device="auto")) == chosen
        assert capsys.readouterr().err == said


def test_help_teaches(capsys):
    for command in ("train", "evaluate", "predict", "summary", "gradflow", "doctor"):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0
        assert f"example: minires {command}" in capsys.readouterr().out


def test_help_states_the_defaults_that_hold(capsys):
    from minires.train import Recipe
    from minires.train.recipe import USUAL

    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    r = Recipe()
    assert f"--epochs N default: {r.epochs} " in text
    assert f"--batch-size N default: {r.batch_size} " in text
    assert f"default: {r.optimizer} " in text
    assert f"default: {r.schedule} " in text
    assert f"(default: {r.lr:g}; sgd {USUAL['sgd'][0]:g}, adam {USUAL['adam'][0]:g})" in text
    assert f"default: {r.weight_decay:g}; sgd {USUAL['sgd'][1]:g}, adam {USUAL['adam'][1]:g}" in text
    assert "rising rate (default: 1, of a short run no more than 30 %)" in text
    assert f"--label-smoothing X default: {r.label_smoothing:g} " in text
    assert f"augmentation (default: {r.seed})" in text


def test_errors_are_one_line(tmp_path, run, capsys):
    page = tmp_path / "signs.h5"
    page.write_text("<!doctype html><title>Not Found</title>")
    assert "a web page (title: 'Not Found')" in fails(capsys, "train", "--data", page, "--out", tmp_path / "r")
    assert "no such file or folder" in fails(capsys, "train", "--data", tmp_path / "x", "--out", tmp_path / "r")
    assert "--batch-size" in fails(
        capsys, "train", "--arch", "resnet8", "--batch-size", "0", "--size", "16", "--out", tmp_path / "r"
    )
    assert "avg_pool" in fails(capsys, "summary", "resnet50", "--input", "32x32x3")
    assert "--classes: expected a whole number from 2" in fails(capsys, "summary", "resnet50", "--classes", "1")
    assert "web page" in fails(capsys, "evaluate", page)
    assert "no model.h5" in fails(capsys, "evaluate", tmp_path)
    assert "no such file" in fails(capsys, "predict", run, tmp_path / "absent.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    assert "broken.jpg" in fails(capsys, "predict", run, tmp_path / "broken.jpg")
    assert not (tmp_path / "r").exists()


def test_no_traceback_from_a_real_process(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "minires.cli", "evaluate", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "40"},
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr
