"""The logs of a run hold each epoch once, whatever stopped it; and the hook that they hang on is called as it says."""

import csv
import shutil
import struct
import sys
from contextlib import contextmanager

import pytest
from stripes import RECIPE, TEST, TRAIN, StopAfter, classifier

from minires import cli
from minires.errors import ConfigError
from minires.train import fit, resume
from minires.train.logs import make_logs
from minires.train.progress import Reporter, Reporters

MODELS = ["model.h5", "best.h5"]


def stopped(out, steps, *reporters):
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=out, reporter=Reporters(StopAfter(steps), *reporters))


def rows_of(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events_of(folder):
    """(step, tag, value) of each scalar: the records of the one event file, length and checksums around each."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="no tensorboardX")
    (path,) = (folder / "tensorboard").iterdir()
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        at += 16 + length
    return found


def test_csv_is_the_history(tmp_path):
    told = fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=Reporters(*make_logs(["csv"])))
    rows = rows_of(tmp_path)
    assert [{name: float(value) for name, value in row.items()} for row in rows] == told.history
    assert rows[0].keys() >= {"test_accuracy_low", "test_accuracy_high"}
    assert (tmp_path / "history.jsonl").exists()


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_resumed_run_has_each_epoch_once(tmp_path, kind, ahead):
    """ahead: the log is an epoch further than model.h5, as a kill between the two leaves it."""
    if kind == "tensorboard":
        pytest.importorskip("tensorboardX")
    fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path / "whole", reporter=Reporters(*make_logs([kind])))
    stopped(tmp_path / "run", 7, *make_logs([kind]))
    if ahead:
        shutil.copytree(tmp_path / "whole", tmp_path / "run", dirs_exist_ok=True, ignore=lambda *_: MODELS)
    resume(tmp_path / "run", TRAIN, TEST, reporter=make_logs([kind])[0])
    if kind == "csv":
        assert [row["epoch"] for row in rows_of(tmp_path / "run")] == ["1", "2", "3"]
    else:
        whole, again = events_of(tmp_path / "whole"), events_of(tmp_path / "run")
        assert [event[:2] for event in whole] == [event[:2] for event in again]
        steady = {"loss/train", "loss/test", "accuracy/test", "lr"}
        assert [e for e in whole if e[1] in steady] == [e for e in again if e[1] in steady]
        assert [step for step, tag, _ in again if tag == "loss/test"] == [1, 2, 3]


def test_a_log_that_was_lost_comes_back_when_the_run_is_opened(tmp_path):
    fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path)
    resume(tmp_path, TRAIN, TEST, reporter=make_logs(["csv"])[0])
    assert len(rows_of(tmp_path)) == 3


def test_what_is_missing_is_said_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--log", "csv,tensorboard"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'minires[tensorboard]'" in line
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="unknown log 'cvs': choose of csv, tensorboard"):
        make_logs(["cvs"])
    assert cli.main(["train", "--log", "csv,"]) == 2


class Told(Reporter):
    """Writes down what is called."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def running(self, epochs, steps, progress):
        self.calls.append(f"running {epochs} x {steps} from {progress.epoch}.{progress.batch}")
        yield
        self.calls.append("over")

    def batch(self, step, x, labels):
        assert x.shape == (len(labels), 8, 8, 3)
        self.calls.append(f"batch {step.optimizer.steps}")

    def step(self, progress):
        self.calls.append(f"step {progress.epoch}.{progress.batch}")

    def epoch(self, row, progress):
        self.calls.append(f"epoch {row['epoch']}")

    def save(self, out, progress):
        self.calls.append(f"save {progress.epoch}.{progress.batch}")

    def interrupted(self, out, kept=None):
        self.calls.append("interrupted")


def test_the_hook_is_called_as_it_says(tmp_path):
    """`save` comes from a thread of its own, at some time before the next one."""
    first, again = Told(), Told()
    stopped(tmp_path, 6, first)
    assert first.calls[:2] == ["running 3 x 5 from 0.0", "save 0.0"]
    others = [call for call in first.calls if not call.startswith("save")]
    steps = [(f"batch {i}", f"step 0.{i + 1}") for i in range(5)]
    assert others[1:] == [*sum(steps, ()), "epoch 1", "batch 5", "step 1.1", "interrupted"]
    assert [call for call in first.calls if call.startswith("save")] == ["save 0.0", "save 1.0", "save 1.1"]
    resume(tmp_path, TRAIN, TEST, reporter=again)
    assert again.calls[:3] == ["save 1.1", "running 3 x 5 from 1.1", "batch 6"]
    assert "over" in again.calls
