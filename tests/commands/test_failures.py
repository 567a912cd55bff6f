"""What the system does to a command: one line and the right exit status. Real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from data_helpers import write_image

from minires import cli
from minires.commands import common
from minires.errors import DataError
from minires.files import atomic_path, write_text

SMALL = ["--arch", "resnet8", "--size", "16", "--device", "cpu"]
TRAIN = ["train", *SMALL, "--epochs", "1", "--batch-size", "8"]
STEP = ["step", "--arch", "resnet8", "--batch-size", "2"]


def shell(script: str, *arguments, **options) -> subprocess.CompletedProcess:
    """Bash runs the script; "$@" in it is minires with the arguments."""
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "minires", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **options)


def python(script: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)


def assert_one_line(status, errors, expected_status, *expected):
    assert status == expected_status, errors
    lines = [line for line in errors.splitlines() if not line.startswith("device:")]
    assert len(lines) == 1, errors
    assert lines[0].startswith("minires: ")
    for text in expected:
        assert str(text) in lines[0]


@pytest.fixture
def ends(capsys):
    """A function that runs a command here, and asserts on its status and its one line."""

    def run(arguments, status, *expected):
        returned = cli.main(list(map(str, arguments)))
        assert_one_line(returned, capsys.readouterr().err, status, *expected)

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of eight images of two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        write_image(folder / "ab"[i % 2] / f"{i}.png", seed=i)
    return folder


# --- places where nothing can be written


@pytest.fixture
def read_only(tmp_path):
    """A function that makes a folder read-only, as even root finds it."""
    mounted = []

    def seal(folder):
        done = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"may not mount: {done.stderr.strip()}")
        mounted.append(folder)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder, folder], check=True)

    yield seal
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "file/run", "file/a/b", "/dev/null", "/dev/full", "/proc/run", "n" * 300])
def test_a_run_where_none_can_be(place, pictures, tmp_path, monkeypatch, ends):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    ends([*TRAIN, "--data", pictures, "--out", place], 2, place, "cannot be")
    assert Path("file").read_text() == "mine"
    assert Path("/dev/full").is_char_device()


@pytest.mark.slow
def test_a_run_on_a_read_only_file_system(pictures, tmp_path, read_only, ends):
    run = tmp_path / "run"
    assert cli.main([*TRAIN, "--data", str(pictures), "--out", str(run)]) == 0
    read_only(tmp_path)
    ends([*TRAIN, "--data", pictures, "--out", tmp_path / "other"], 2, tmp_path / "other", "Read-only file system")
    ends(["train", "--resume", run, "--epochs", 2, "--device", "cpu"], 2, run, "Read-only file system")


@pytest.mark.parametrize("place", ["file/net.svg", "none/net.svg", "/proc/net.svg", "folder", "n" * 300])
def test_a_picture_where_none_can_be(place, tmp_path, monkeypatch, ends):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("folder").mkdir()
    ends(["diagram", "resnet8", "--out", place], 2, place)


# --- devices and pipes


def test_devices_stay_devices(ends):
    assert cli.main(["diagram", "resnet8", "--out", "/dev/null"]) == 0
    ends(["diagram", "resnet8", "--out", "/dev/full"], 1, "/dev/full: cannot be written (No space left on device)")
    for device in (Path("/dev/null"), Path("/dev/full")):
        assert device.is_char_device()


def test_a_text_into_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    write_text(pipe, "through")
    assert reader.communicate(timeout=60)[0] == "through"
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_hdf5_into_a_device():
    """What is written to and fro needs a file at first."""
    with atomic_path("/dev/null") as temporary, h5py.File(temporary, "w-") as file:
        file["x"] = np.arange(3)
    assert not temporary.exists()
    assert Path("/dev/null").is_char_device()


def test_below_a_file_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"cannot be written \(Not a directory\): a file is where a folder is needed"):
        write_text(tmp_path / "file" / "deep" / "x", "text")


# --- output that goes nowhere


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["summary", "resnet50"], ["--help"], ["--version"]])
def test_output_to_a_full_device(arguments):
    done = shell('"$@" > /dev/full', *arguments)
    assert_one_line(done.returncode, done.stderr, 1, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["summary", "resnet50"], ["--help"]])
def test_a_reader_that_leaves(arguments):
    done = shell('"$@" | true; exit ${PIPESTATUS[0]}', *arguments)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams(closed, tmp_path):
    """Their numbers must not go to the files that are opened next."""
    done = shell(f'"$@" {closed}', *STEP, "--html", tmp_path / "page.html")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "page.html").read_text().startswith("<!")
    done = shell(f'"$@" {closed}', *STEP)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (0, "", False), done.stderr


# --- what is used up


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        ("MemoryError('Unable to allocate 3.2 GiB for an array')", 1, "does not suffice (Unable to allocate 3.2 GiB"),
        ("OSError(24, 'Too many open files', 'x.h5')", 1, "x.h5: cannot be read or written (Too many open files)"),
        ("OSError(28, 'No space left on device')", 1, "No space left on device"),
        ("PermissionError(13, 'Permission denied', '/else/x')", 2, "/else/x: cannot be read or written (Permission"),
        (r"ImportError('libx.so: failed to map segment\n from shared object')", 1, "failed to map segment from shared"),
        ('RuntimeError("can\'t start new thread")', 1, "no more threads"),
        (r"DataError('a\x1b[31m\nb: no data')", 2, "a␛[31m␊b: no data"),
    ],
)
def test_what_the_system_refuses_in_the_midst(error, status, expected, monkeypatch, ends):
    def fail(*args, **options):
        raise eval(error)

    monkeypatch.setattr(common, "resnet", fail)
    ends(["summary", "resnet8"], status, expected)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(common, "resnet", lambda *_, **__: [].pop())
    with pytest.raises(IndexError):
        cli.main(["summary", "resnet8"])


@pytest.mark.slow
def test_memory_used_up():
    """`ulimit -v` where the weights of a network do not fit."""
    done = shell('ulimit -v 2000000; exec "$@"', "summary", "resnet50", "--classes", "1000000")
    assert_one_line(done.returncode, done.stderr, 1, "the memory does not suffice (Unable to allocate")


def test_files_used_up():
    """`ulimit -n` just below what is needed: Python starts, and opens not one more."""
    script = "import resource, sys; from minires.cli import main; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    done = python(f"{script}; sys.exit(main(['summary', 'resnet8']))")
    assert_one_line(done.returncode, done.stderr, 1, "Too many open files", "`ulimit -n`")


# --- signals


INTERRUPTED = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Interrupts())
from minires.cli import main
sys.exit(main({arguments}))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("module", ["numpy._core.multiarray", "minires.commands.weights"])
def test_a_signal_while_importing(name, status, module):
    arguments = ["train", *SMALL, "--data", "nowhere"]
    done = python(INTERRUPTED.format(module=module, signal=name, arguments=arguments))
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_a_command_leaves_nothing_half_written(name, status, tmp_path):
    script = f"""
import os, signal, sys
from minires import cli, files

def half(temporary, content):
    with open(temporary, "wb") as file:
        file.write(b"half")
    os.kill(os.getpid(), signal.{name})

files.Path.write_bytes = half
sys.exit(cli.main(["diagram", "resnet8", "--out", {str(tmp_path / "net.svg")!r}]))
"""
    done = python(script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert not list(tmp_path.iterdir())


def test_signals_are_as_before_after_a_command(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    cli.main(["diagram", "resnet8", "--out", str(tmp_path / "net.svg")])
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
