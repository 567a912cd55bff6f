"""What a file of unknown origin does to the process that looks at it stays in that process."""

import os
import signal
import sys
import time

import h5py
import pytest

from minires.data import probe
from minires.data.probe import in_child
from minires.errors import DataError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the look runs in this process where nothing can fork")


def crash(source, size):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(source, size):
    time.sleep(60)


def eat(source, size):
    bytearray(4 * probe.MEMORY)


def interrupt(source, size):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("look", "words"),
    [(crash, "breaks down on it"), (hang, "more than 0.2 s"), (eat, "more memory"), (interrupt, "KeyboardInterrupt")],
)
def test_whatever_happens_in_the_child_is_one_line_here(monkeypatch, look, words):
    if look is eat and not sys.platform.startswith("linux"):
        pytest.skip("only Linux limits a process's memory")
    monkeypatch.setattr(probe, "SECONDS", 0.2)
    if look is not hang:
        monkeypatch.undo()
    children, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: children.append(fork()) or children[-1])
    with pytest.raises(DataError, match=words) as error:
        in_child(look, None, 5000)
    assert "\n" not in str(error.value)
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)


def test_a_file_that_is_sound_passes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/x"] = [1, 2, 3]
        file["again"] = file["group"]
        file["soft"] = h5py.SoftLink("/group/x")
        file.attrs["text"] = "words"
        file["names"] = ["of", "any", "length"]
    in_child(probe.open_and_walk, tmp_path / "a.h5", 9999)


def elsewhere(file, kind, other):
    """What refers to the array x of another file."""
    if kind == "link":
        file["x"] = h5py.ExternalLink(other, "/x")
    elif kind == "virtual":
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(other, "x", (3,))
        file.create_virtual_dataset("x", layout)
    else:
        file.create_dataset("x", (3,), "f8", external=[(other, 0, 24)])


@pytest.mark.parametrize(
    ("kind", "words"), [("link", "/x is a link to"), ("virtual", "/x is kept in"), ("external", "/x is kept in")]
)
def test_what_lies_in_another_file_is_not_followed(kind, words, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0, 2.0, 3.0]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        elsewhere(file, kind, str(tmp_path / "other.h5"))
    with pytest.raises(DataError, match=f"{words} another file"):
        in_child(probe.open_and_walk, tmp_path / "a.h5", 9999)
