"""An HDF5 file that is being written is in use, not damaged: data, checkpoints and weights alike."""

import subprocess
import sys

import pytest
from data_helpers import assert_one_line, random_set
from stripes import classifier

from minires import load
from minires.data import load_parts, write_signs
from minires.errors import MiniresError
from minires.train import save_checkpoint
from minires.weights import export_weights, import_weights

HOLD = """
import sys, h5py
file = h5py.File(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
if sys.argv[2] == "w":
    file.create_dataset("train_set_x", (9, 8, 8, 3), "u1", chunks=(3, 8, 8, 3))[...] = 1
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(request):
    """A function that has another program open a file; it closes it at the end."""
    started = []

    def hold(path, mode="r+", **options):
        words = [sys.executable, "-c", HOLD, str(path), mode, repr(options)]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "open\n"
        return started[-1].pid

    yield hold
    for process in started:
        process.communicate(timeout=60)


def data(path):
    write_signs(path, random_set(9), random_set(6))
    return lambda: load_parts(path)


def checkpoint(path):
    save_checkpoint(path, classifier())
    return lambda: load(path)


def weights(path):
    export_weights(classifier().model, path)
    return lambda: import_weights(classifier().model, path)


@pytest.mark.parametrize(("name", "make"), [("a.h5", data), ("a.h5", checkpoint), ("a.weights.h5", weights)])
def test_another_program_writes_to_it(name, make, tmp_path, held):
    read = make(tmp_path / name)
    read()
    pid = held(tmp_path / name)
    with pytest.raises(MiniresError) as error:
        read()
    assert_one_line(error, tmp_path / name, "in use", "another program has it open for writing", pid)
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("options", [{}, {"locking": False}, {"libver": "latest"}])
def test_a_file_that_is_not_finished(options, tmp_path, held):
    """What HDF5 keeps in memory for now makes it look empty or cut off; without a lock as well."""
    pid = held(tmp_path / "a.h5", "w", **options)
    with pytest.raises(MiniresError) as error:
        load_parts(tmp_path / "a.h5")
    assert_one_line(error, "in use", pid)


def test_this_program_itself_has_it_open(tmp_path):
    """As in a notebook where a file was never closed."""
    data(tmp_path / "a.h5")
    with (tmp_path / "a.h5").open("r+b") as file:
        file.truncate(3000)
        with pytest.raises(MiniresError) as error:
            load_parts(tmp_path / "a.h5")
    assert_one_line(error, "in use", "this program has it open for writing: close it first")


def test_one_who_only_reads_is_no_trouble(tmp_path, held):
    read = data(tmp_path / "a.h5")
    held(tmp_path / "a.h5", "r")
    assert len(read().train) == 9


def test_damage_stays_damage(tmp_path):
    data(tmp_path / "a.h5")
    content = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(MiniresError, match="truncated"):
        load_parts(tmp_path / "a.h5")
