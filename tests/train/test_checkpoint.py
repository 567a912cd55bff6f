"""Saves while the next epoch trains: nothing waits for them, nothing is lost, and what fails is said."""

import os
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Timer

import h5py
import numpy as np
import pytest
from stripes import RECIPE, TEST, TRAIN, assert_same, classifier, weights

from minires.errors import DataError, DivergedError
from minires.train import checkpoint, fit, load_classifier, resume, save_checkpoint
from minires.train.checkpoint import Snapshot, load_checkpoint
from minires.train.progress import Reporter

STEPS = 5  # an epoch of RECIPE
FILES = ["best.h5", "history.jsonl", "model.h5"]


class Disk:
    """Waits for `free` before it writes the first epoch; is full from the write number `full` on; keeps copies.

    rows: how long the history was before each write.
    """

    def __init__(self, folder, monkeypatch):
        self.free, self.failed, self.full = Event(), Event(), 99
        self.kept, self.rows = [], []
        atomic, fsync, writes = checkpoint.atomic_hdf5, os.fsync, []

        @contextmanager
        def slow(path):
            writes.append(path)
            history = path.with_name("history.jsonl")
            self.rows.append(len(history.read_text().splitlines()) if history.exists() else 0)
            if len(writes) == 2:
                assert self.free.wait(20), "training waited for the disk"
            with atomic(path) as file:
                yield file
            self.kept.append(shutil.copy(path, folder / f"{len(writes) - 1}.h5"))

        def sync(number):
            if len(writes) > self.full:
                self.failed.set()
                raise OSError(28, "No space left on device")
            fsync(number)

        monkeypatch.setattr(checkpoint, "atomic_hdf5", slow)
        monkeypatch.setattr(os, "fsync", sync)


@pytest.fixture
def disk(tmp_path_factory, monkeypatch):
    return Disk(tmp_path_factory.mktemp("kept"), monkeypatch)


class At(Reporter):
    """Does something after the step of that number."""

    def __init__(self, number, do):
        self.number, self.do, self.steps = number, do, 0

    def step(self, progress):
        self.steps += 1
        if self.steps == self.number:
            self.do()


def epoch_of(path) -> int:
    return load_checkpoint(path).training["progress"]["epoch"]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_slow_disk_does_not_hold_up_the_next_epoch(tmp_path, disk):
    c = classifier()
    progress = fit(c, TRAIN, None, RECIPE, out=tmp_path, reporter=At(2 * STEPS - 1, disk.free.set))
    assert names(tmp_path) == FILES
    assert_same(weights(c), weights(load_classifier(tmp_path)))
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == len(progress.history) == 3
    assert [epoch_of(path) for path in disk.kept] == [0, 1, 2, 3]


@pytest.mark.parametrize("step", [STEPS + 2, 2 * STEPS])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_save_is_the_end_of_its_epoch_whatever_was_trained_since(tmp_path, disk, step, optimizer):
    recipe, whole = replace(RECIPE, optimizer=optimizer, lr=0.01), classifier(dropout=0.2)
    later = Timer(0.3, disk.free.set)
    expected = fit(whole, TRAIN, TEST, recipe, out=tmp_path / "whole", reporter=At(step, later.start))
    (tmp_path / "again").mkdir()
    shutil.copy(disk.kept[1], tmp_path / "again" / "model.h5")
    assert epoch_of(disk.kept[1]) == 1
    assert disk.rows == [0, 0, 1, 2]
    resumed, progress = resume(tmp_path / "again", TRAIN, TEST)
    assert_same(weights(whole), weights(resumed))
    assert [row["test_loss"] for row in progress.history] == [row["test_loss"] for row in expected.history]


def test_what_fails_meanwhile_is_said_at_the_next_step(tmp_path, disk):
    def wait():
        assert disk.failed.wait(20)
        time.sleep(0.5)

    disk.full, reporter = 1, At(STEPS + 1, wait)
    Timer(0.3, disk.free.set).start()
    with pytest.raises(DataError, match=r"model.h5: cannot be written \(No space left on device\)") as caught:
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=reporter)
    assert "\n" not in str(caught.value)
    assert reporter.steps <= STEPS + 1
    assert names(tmp_path) == ["model.h5"]
    assert epoch_of(tmp_path / "model.h5") == 0


@pytest.mark.parametrize(("full", "epoch"), [(0, None), (3, 2)])  # before the first step; after the last one
def test_a_full_disk_is_said_before_the_first_step_and_after_the_last(tmp_path, disk, full, epoch):
    disk.free.set()
    disk.full, reporter = full, At(0, None)
    with pytest.raises(DataError, match="No space left"):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=reporter)
    assert reporter.steps == (0 if epoch is None else 3 * STEPS)
    assert names(tmp_path) == ([] if epoch is None else FILES)
    assert epoch is None or epoch_of(tmp_path / "model.h5") == epoch


def test_ctrl_c_saves_after_the_save_in_flight(tmp_path, disk):
    def press():
        Timer(0.3, disk.free.set).start()
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=At(STEPS + 2, press))
    progress = load_checkpoint(tmp_path / "model.h5").training["progress"]
    assert (progress["epoch"], progress["batch"]) == (1, 2)
    assert epoch_of(tmp_path / "best.h5") == 1
    assert load_checkpoint(tmp_path / "best.h5").training["progress"]["batch"] == 0


def test_a_second_ctrl_c_lets_the_save_in_flight_end(tmp_path, disk):
    def press_twice():
        Timer(0.3, disk.free.set).start()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    reporter = At(STEPS + 2, press_twice)
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=reporter)
    assert reporter.steps == STEPS + 2
    assert names(tmp_path) == FILES
    assert epoch_of(tmp_path / "model.h5") == epoch_of(tmp_path / "best.h5") == 1
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_a_second_ctrl_c_while_the_first_one_saves_leaves_the_last_epoch(tmp_path, disk, monkeypatch):
    def press(array=None):
        os.kill(os.getpid(), signal.SIGINT)
        return array

    def press_now_and_while_it_saves():
        disk.free.set()
        while not (tmp_path / "best.h5").exists():
            time.sleep(0.01)
        monkeypatch.setattr(checkpoint, "to_numpy", press)
        press()

    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=At(STEPS + 2, press_now_and_while_it_saves))
    assert names(tmp_path) == FILES
    assert epoch_of(tmp_path / "model.h5") == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("full", [False, True])
def test_a_divergence_tells_which_epoch_is_kept_once_it_is(tmp_path, disk, full):
    c = classifier()

    def spoil():
        c.model.params()[0].data[...] = np.nan
        Timer(0.3, disk.free.set).start()

    if full:
        disk.full = 1
    error, match = (DataError, "No space left") if full else (DivergedError, "still holds epoch 1")
    with pytest.raises(error, match=match):
        fit(c, TRAIN, TEST, RECIPE, out=tmp_path, reporter=At(STEPS + 1, spoil))
    assert epoch_of(tmp_path / "model.h5") == (0 if full else 1)


def test_data_are_read_from_hdf5_while_a_save_is_written(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["images"] = TRAIN.images(np.arange(len(TRAIN)))

    class Lazy(type(TRAIN)):
        def images(self, index):
            with h5py.File(tmp_path / "data.h5") as file:
                return np.stack([file["images"][i] for i in index])

    lazy = Lazy(TRAIN.images(np.arange(len(TRAIN))), TRAIN.labels, TRAIN.classes)
    a, b, recipe = classifier(), classifier(), replace(RECIPE, epochs=6)
    fit(a, TRAIN, None, recipe)
    fit(b, lazy, None, recipe, out=tmp_path / "run")
    assert_same(weights(a), weights(b))
    assert_same(weights(a), weights(load_classifier(tmp_path / "run")))


def test_a_snapshot_writes_the_same_file_from_the_same_memory(tmp_path):
    c, snapshot = classifier(dropout=0.5), Snapshot()
    optimizer = {"velocity": np.arange(5, dtype=np.float32)}
    snapshot.take(c, optimizer=optimizer, training={"steps": 1})
    first = snapshot.groups["weights"] | snapshot.groups["optimizer"]
    assert not any(np.shares_memory(first[name], array) for name, array in (c.model.state() | optimizer).items())
    optimizer["velocity"] += 1
    snapshot.take(c, optimizer=optimizer, training={"steps": 2})
    again = snapshot.groups["weights"] | snapshot.groups["optimizer"]
    assert all(array is again[name] for name, array in first.items())
    snapshot.write(tmp_path / "a.h5")
    save_checkpoint(tmp_path / "b.h5", c, optimizer=optimizer, training={"steps": 2})
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("most", [0, 10_000, 34_000, 40_000, 41_000])
def test_a_full_disk_is_one_error_and_nothing_else_on_stderr(tmp_path, capfd, most):
    """HDF5 would tell of each array that it could not close."""
    resource = pytest.importorskip("resource")
    c, path = classifier(), tmp_path / "model.h5"
    save_checkpoint(path, c)
    good = path.read_bytes()
    assert len(good) > 41_000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(DataError, match=r"model.h5: cannot be written \(File too large\)"):
            save_checkpoint(path, c)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr().err == ""
    assert path.read_bytes() == good
    assert names(tmp_path) == ["model.h5"]
