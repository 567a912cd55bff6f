"""Ctrl-C and the watchdog: a run whose data, disk or step hangs says so, and can always be ended."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from threading import Event, Timer

import numpy as np
import pytest
import stripes
from stripes import RECIPE, TEST, TRAIN, StopAfter, assert_same, classifier, weights

from minires.errors import ConfigError
from minires.train import fit, loop, resume, stops
from minires.train.checkpoint import load_checkpoint
from minires.train.progress import Reporter

STALL = 0.3  # seconds


class Told(StopAfter):
    """Presses Ctrl-C after so many steps, if any; keeps what it was told of the end."""

    def __init__(self, steps=-1):
        super().__init__(steps)
        self.kept = "not told"

    def interrupted(self, out, kept=None):
        self.kept = kept


class Hanging(type(TRAIN)):
    """Stripes that are no longer to be had after so many reads, until `there` is set; Ctrl-C soon after, if asked."""

    def __init__(self, data, reads, press=True):
        self.__dict__.update(vars(data))
        self.left, self.press, self.there = reads, press, Event()

    def images(self, index):
        self.left -= 1
        if self.left < 0:
            if self.press:
                Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                self.press = False
            self.there.wait(30)
        return super().images(index)


TRAIN.fingerprint()  # which is kept
BEFORE = 1  # reads of the training images before the first batch: for the comparison with the layers


def place(out):
    progress = load_checkpoint(out / "model.h5").training["progress"]
    return progress["epoch"], progress["batch"]


def test_ctrl_c_while_data_do_not_come(tmp_path):
    """The first one ends it, with the steps that were done saved; the thread that reads hangs on."""
    data, told = Hanging(TRAIN, BEFORE + 3), Told()
    with pytest.raises(stops.Stopped) as caught:
        fit(classifier(), data, TEST, RECIPE, out=tmp_path, reporter=told)
    assert caught.value.signal == signal.SIGINT
    data.there.set()
    assert told.kept is None  # everything is saved
    assert place(tmp_path) == (0, 3)
    whole = classifier()
    fit(whole, TRAIN, TEST, RECIPE)
    assert_same(weights(resume(tmp_path, TRAIN, TEST)[0]), weights(whole))


def test_ctrl_c_while_test_images_do_not_come(tmp_path):
    data, told = Hanging(TEST, 0), Told()
    with pytest.raises(stops.Stopped):
        fit(classifier(), TRAIN, data, RECIPE, out=tmp_path, reporter=told)
    assert told.kept is None
    assert place(tmp_path) == (0, 5)  # all of the epoch but its end
    whole = classifier()
    expected = fit(whole, TRAIN, TEST, RECIPE)
    resumed, progress = resume(tmp_path, TRAIN, TEST)
    assert_same(weights(resumed), weights(whole))
    assert [r["test_loss"] for r in progress.history] == [r["test_loss"] for r in expected.history]


@pytest.fixture
def hung_disk(monkeypatch):
    """A disk that hangs in each fsync but the three of the first save."""
    there, sync, calls = Event(), os.fsync, []

    def hang(number):
        calls.append(number)
        if len(calls) > 3:
            there.wait(30)
        sync(number)

    monkeypatch.setattr(os, "fsync", hang)
    monkeypatch.setattr(loop, "NEARLY", 0.1)
    yield
    there.set()
    for thread in threading.enumerate():
        if thread.name == "minires-save":
            thread.join()


@pytest.mark.parametrize("step", [2, 8])  # it waits for that save; while another one is being written
def test_ctrl_c_while_a_save_does_not_end(tmp_path, hung_disk, capfd, step):
    """What hangs is left, and the save before it stands."""
    told = Told(step)
    with pytest.raises(stops.Stopped):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=told, stall=STALL)
    assert told.kept == "epoch 0"
    assert place(tmp_path) == (0, 0)
    assert f"saving to {tmp_path}" in capfd.readouterr().err


def test_the_second_ctrl_c_does_not_wait_for_it(tmp_path, hung_disk):
    class Twice(Told):
        def step(self, progress):
            super().step(progress)
            if self.left == 0:
                Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    told = Twice(2)
    with pytest.raises(stops.Stopped):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=told, stall=1000.0)
    assert told.kept == "epoch 0"


def test_ctrl_c_while_a_step_does_not_end(tmp_path, capfd):
    """As it may have changed half of the weights it is not saved; the save before it stands."""

    class Stuck(Told):
        def step(self, progress):
            super().step(progress)
            if self.left == 0:
                Event().wait(30)

    told = Stuck(7)
    with pytest.raises(stops.Stopped):
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=told, stall=STALL)
    assert told.kept == "epoch 1"
    assert place(tmp_path) == (1, 0)


SWALLOWS = """
import sys, time
sys.path[:0] = sys.argv[1:2]
from stripes import RECIPE, TEST, TRAIN, StopAfter, classifier
from minires.train import fit, stops

class Deaf(StopAfter):
    def step(self, progress):
        super().step(progress)
        while self.left <= 0:
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                pass

with stops.heard(owns_process=True):
    fit(classifier(), TRAIN, TEST, RECIPE, out=sys.argv[2], reporter=Deaf(2), stall=0.3)
"""


@pytest.mark.slow
def test_a_step_that_is_deaf_to_it_ends_with_its_process(tmp_path):
    """As one that hangs outside of Python: only where the process is the command's own."""
    command = [sys.executable, "-c", SWALLOWS, os.path.dirname(stripes.__file__), tmp_path / "run"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 128 + signal.SIGINT
    assert "the last save stands" in ended.stderr.splitlines()[-1]
    assert place(tmp_path / "run") == (0, 0)


def test_sigterm_is_told_from_ctrl_c(tmp_path):
    class Terminated(Told):
        def step(self, progress):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stops.Stopped, match="SIGTERM") as caught:
        fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path, reporter=Terminated())
    assert caught.value.signal == signal.SIGTERM
    assert place(tmp_path) == (0, 1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_one_hears_already_another_only_changes_the_manner():
    with stops.heard() as stop:
        with stops.heard(patient=True) as same:
            assert same is stop
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal == signal.SIGINT
            assert stop.unless_stopped(lambda: "not called") is None
        with pytest.raises(stops.Stopped):
            os.kill(os.getpid(), signal.SIGINT)


# --- the watchdog ---------------------------------------------------------------------------------------------------


def slow(data, reads, seconds):
    """`data` that come late, once."""
    data = Hanging(data, reads, press=False)
    Timer(seconds, data.there.set).start()
    return data


def lines(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if "no progress" in line]


def test_the_watchdog_says_what_is_waited_for_and_ends_nothing(tmp_path, capfd):
    data = slow(TRAIN, BEFORE + 7, 4 * STALL)
    progress = fit(classifier(), data, TEST, RECIPE, out=tmp_path, stall=STALL)
    assert progress.epoch == 3
    said = lines(capfd)
    assert 1 <= len(said) <= 3  # after once and twice the time, not over and over
    for piece in ("minires: no progress for", "since ", "epoch 2, batch 3", "last save: epoch 1", "Ctrl-C stops"):
        assert piece in said[0], said[0]
    assert f"waiting for images of {TRAIN.source}" in said[0]
    assert not os.path.exists("/proc/self/task") or "(that thread is sleeping)" in said[0]


def test_the_watchdog_tells_test_images_from_training_images(capfd):
    fit(classifier(), TRAIN, slow(TEST, 1, 3 * STALL), RECIPE, stall=STALL)
    assert f"evaluating on {TEST.source}" in lines(capfd)[0]


def test_a_run_that_moves_is_not_spoken_of(capfd):
    class Steady(Reporter):
        def step(self, progress):
            Event().wait(0.1)  # 15 times

    fit(classifier(), TRAIN, None, RECIPE, reporter=Steady(), stall=1.0)
    assert not capfd.readouterr().err


@pytest.mark.slow
def test_slow_steps_are_spoken_of_once(capfd):
    """What each step takes is no reason to speak again."""

    class Slow(Reporter):
        def step(self, progress):
            Event().wait(1.5 * STALL)

    fit(classifier(), TRAIN, None, replace(RECIPE, epochs=1), reporter=Slow(), stall=STALL)
    assert len(lines(capfd)) == 1


@pytest.mark.parametrize("stall", [0, -1, np.inf, np.nan])
def test_a_time_that_is_none(stall):
    with pytest.raises(ConfigError, match="stall: expected a number of seconds above 0"):
        fit(classifier(), TRAIN, TEST, RECIPE, stall=stall)
