"""A run's folder: one writer at a time, and files that belong together, whatever was killed between two of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from data_helpers import assert_one_line
from stripes import RECIPE, TEST, TRAIN, StopAfter, assert_same, classifier, weights

from minires.data import ArrayDataset
from minires.errors import CheckpointError, DataError
from minires.train import fit, folder, load_classifier, resume
from minires.train.checkpoint import load_checkpoint
from minires.train.progress import Reporter

# gets worse as it is learnt: the first epoch is the best
FLIPPED = ArrayDataset(TEST.images(np.arange(20)), 1 - TEST.labels, TEST.classes)


class Keep(Reporter):
    """Keeps a copy of the folder's files as they are at the end of each epoch but the last."""

    def __init__(self, out, to):
        self.out, self.to = out, to

    def step(self, progress):
        if progress.batch == 5 and progress.epoch:
            history = self.out / "history.jsonl"  # the last one to be written
            while not history.exists() or len(history.read_text().splitlines()) < progress.epoch:
                time.sleep(0.01)
            shutil.copytree(self.out, self.to / str(progress.epoch), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run whose best epoch is its first one, in "whole", and what its folder held after each epoch, in "1", "2"."""
    root = tmp_path_factory.mktemp("kept")
    fit(classifier(), TRAIN, FLIPPED, RECIPE, out=root / "whole", reporter=Keep(root / "whole", root))
    for copy in (root / "1", root / "2"):
        (copy / folder.LOCK).unlink()
    return root


def epoch_of(path):
    return load_checkpoint(path).training["progress"]["epoch"]


def assert_whole(out, whole):
    assert sorted(p.name for p in out.iterdir()) == ["best.h5", "history.jsonl", "model.h5"]
    for name in ("best.h5", "model.h5"):
        assert epoch_of(out / name) == epoch_of(whole / name)
        assert_same(weights(load_classifier(out / name)), weights(load_classifier(whole / name)))
    rows = [[json.loads(line) for line in (f / "history.jsonl").read_text().splitlines()] for f in (out, whole)]
    assert [r["test_loss"] for r in rows[0]] == [r["test_loss"] for r in rows[1]]


@pytest.mark.parametrize("state", ["no best.h5", "an older best.h5", "an older history", "remains"])
def test_killed_between_two_files_of_an_epoch(kept, tmp_path, state):
    """Between model.h5 and best.h5 of the best epoch; before the history; in the middle of a write."""
    out = tmp_path / "run"
    shutil.copytree(kept / "1", out)
    if state == "no best.h5":
        (out / "best.h5").unlink()
    elif state == "an older best.h5":
        fit(classifier(1), TRAIN, None, replace(RECIPE, epochs=2), out=tmp_path / "older")
        shutil.copy(tmp_path / "older" / "best.h5", out / "best.h5")
    elif state == "an older history":
        (out / "history.jsonl").unlink()
    else:
        for name in (".model.h5.0a1b2c3d.tmp", ".best.h5.0a1b2c3d.tmp", "pictures/.curves.png.0a1b2c3d.tmp"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes(b"half")
    resume(out, TRAIN, FLIPPED)
    if state == "remains":
        (out / "pictures").rmdir()  # it is empty
    assert_whole(out, kept / "whole")
    assert epoch_of(out / "best.h5") == 1


def test_a_complete_run_is_put_right_too(tmp_path):
    progress = fit(classifier(), TRAIN, TEST, RECIPE, out=tmp_path)
    assert progress.best_epoch == 3
    shutil.copytree(tmp_path, whole := tmp_path.with_name("whole"))
    (tmp_path / "best.h5").unlink()
    (tmp_path / "history.jsonl").write_text("")
    _, again = resume(tmp_path, TRAIN, TEST)
    assert again == progress
    assert_whole(tmp_path, whole)


def test_a_best_epoch_that_is_none_of_this_run(kept, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(kept / "2", out)
    shutil.copy(out / "model.h5", out / "best.h5")
    with pytest.raises(CheckpointError) as caught:
        resume(out, TRAIN, FLIPPED)
    assert_one_line(caught, out / "best.h5", "holds epoch 2", "epoch 1 was the best", "remove it")


def test_nothing_of_an_earlier_run_stays_for_a_new_one_to_be_taken_for(kept, tmp_path):
    shutil.copytree(kept / "whole", tmp_path, dirs_exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(1), TRAIN, TEST, RECIPE, out=tmp_path, reporter=StopAfter(2))
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]


class Meanwhile(Reporter):
    """Does something once, in the first step, and keeps what that raises."""

    def __init__(self, do):
        self.do, self.error = do, None

    def step(self, progress):
        if do := self.do:
            self.do = None
            try:
                do()
            except CheckpointError as error:
                self.error = error


def test_two_threads_one_folder(tmp_path):
    def other():
        thread = threading.Thread(target=refused.append, args=(attempt(tmp_path),))
        thread.start()
        thread.join()

    def attempt(out):
        with pytest.raises(CheckpointError) as caught:
            threaded(lambda: fit(classifier(5), TRAIN, TEST, RECIPE, out=out))
        return caught

    refused, c = [], classifier()
    fit(c, TRAIN, TEST, RECIPE, out=tmp_path, reporter=Meanwhile(other))
    assert_one_line(refused[0], tmp_path, "the thread MainThread of this process", "another folder")
    assert_same(weights(c), weights(load_classifier(tmp_path)))


def threaded(do):
    """What `do` gives in a thread of its own, or raises."""
    found = []

    def run():
        try:
            found.append((do(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if found[0][1]:
        raise found[0][1]
    return found[0][0]


def test_a_child_is_another_and_does_not_keep_the_lock(tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    told, go = os.pipe(), os.pipe()
    with folder.locked(tmp_path):
        if not (pid := os.fork()):
            try:
                with folder.locked(tmp_path):
                    status = 1
            except CheckpointError as error:
                status = 0 if f"process {os.getppid()} trains in it" in str(error) else 2
            os.write(told[1], b"1")
            os.read(go[0], 1)  # it lives on, after its parent has given up the lock
            os._exit(status)
        os.read(told[0], 1)
    with folder.locked(tmp_path):
        pass
    os.write(go[1], b"1")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for end in (*told, *go):
        os.close(end)


HOLD = """
import sys, time
from minires.train import folder
with folder.locked(sys.argv[1]):
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_who_holds_it_is_said_and_a_stale_lock_is_taken_over(tmp_path, holder):
    with pytest.raises(CheckpointError) as caught, folder.locked(tmp_path):
        pass
    assert_one_line(caught, tmp_path, f"process {holder.pid} trains in it since")
    holder.send_signal(signal.SIGSTOP)
    while folder.state(f"/proc/{holder.pid}/stat") not in ("stopped", ""):
        pass
    with pytest.raises(CheckpointError) as caught, folder.locked(tmp_path):
        pass
    if os.path.exists("/proc/self/stat"):
        assert_one_line(caught, "and is stopped", f"kill -CONT {holder.pid}")
    holder.kill()
    holder.wait()
    assert (tmp_path / folder.LOCK).exists()
    with folder.locked(tmp_path):
        pass
    assert not (tmp_path / folder.LOCK).exists()


def test_without_locks_of_the_system_the_file_says_who_lives(tmp_path, monkeypatch):
    if not os.path.exists("/proc/self/stat"):
        pytest.skip("no /proc")
    monkeypatch.setattr(folder, "fcntl", None)
    lock = tmp_path / folder.LOCK

    def left(**what):
        with folder.locked(tmp_path):
            me = json.loads(lock.read_text())
        lock.write_text(json.dumps(me | what))

    left()
    with pytest.raises(CheckpointError, match="of this process"), folder.locked(tmp_path):
        pass
    lock.unlink()
    left(host="elsewhere", pid=7)
    with pytest.raises(CheckpointError, match="process 7 on elsewhere"), folder.locked(tmp_path):
        pass
    lock.unlink()
    for gone in ({"started": "1"}, {"pid": 2**22 + 1}):  # its number is another process's now; there is none
        left(**gone)
        with folder.locked(tmp_path):
            pass


def test_the_same_thread_enters_again_and_an_empty_folder_goes(tmp_path):
    out = tmp_path / "run"
    with folder.locked(out), folder.locked(out):
        assert (out / folder.LOCK).exists()
    assert not out.exists()


@pytest.mark.parametrize("where", ["at a file", "below a file"])
def test_a_folder_that_cannot_be(tmp_path, where):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" if where == "at a file" else tmp_path / "file" / "run"
    with pytest.raises(DataError) as caught:
        fit(classifier(), TRAIN, TEST, RECIPE, out=out)
    assert_one_line(caught, out, "cannot be written", "choose a")


def test_the_best_is_the_last_where_a_kill_came_before_its_own_file(tmp_path):
    recipe = replace(RECIPE, epochs=1)
    fit(classifier(), TRAIN, None, recipe, out=tmp_path)  # without test images the last epoch is the best
    shutil.copy(tmp_path / "best.h5", tmp_path / "older.h5")
    last, _ = resume(tmp_path, TRAIN, epochs=2)
    (tmp_path / "older.h5").replace(tmp_path / "best.h5")
    assert_same(weights(load_classifier(tmp_path, best=True)), weights(last))
    (tmp_path / "model.h5").write_bytes(b"gone")
    load_classifier(tmp_path, best=True)


def test_remains_that_cannot_be_removed(kept, tmp_path, monkeypatch):
    shutil.copytree(kept / "1", out := tmp_path / "run")
    (out / ".model.h5.0a1b2c3d.tmp").write_bytes(b"half")

    def refuse(path, missing_ok=False):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(type(out), "unlink", refuse)
    with pytest.raises(DataError) as caught:
        resume(out, TRAIN, FLIPPED)
    assert_one_line(caught, out, "cannot be written (Operation not permitted)")


def test_nothing_was_saved_yet(tmp_path):
    with pytest.raises(CheckpointError, match="nothing was saved there yet: start that run again"):
        resume(tmp_path, TRAIN)
    assert list(tmp_path.iterdir()) == []
