"""`mpiexec -n N minires ...`: what one process would do; where a rank fails one line, a whole checkpoint, an end."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from mpiexec import MINIRES, mpiexec, needed, ranks, started, wait_for
from PIL import Image
from stripes import TEST, TRAIN

from minires.data import write_signs
from minires.train.checkpoint import load_checkpoint

needed()
pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/environ"), reason="ranks are found through Linux's /proc"
)
STALL = 2  # seconds; a rank names who is missing after twice as many


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_signs(folder, TRAIN, TEST)
    return folder


def training(data, out, *more, epochs=2):
    options = "--arch", "resnet8", "--size", "8", "--batch-size", "16", "--epochs", epochs, "--stall", STALL
    return *MINIRES, "train", "--data", data, "--out", out, *map(str, options), *more


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """The folders of a run of one process and of one of three ranks, and what the latter said."""
    one, three = (tmp_path_factory.mktemp(name) / "run" for name in ("one", "three"))
    subprocess.run([*map(str, training(data, one))], check=True, capture_output=True)
    done = mpiexec(3, *training(data, three, "--no-shard-optimizer"))
    assert done.returncode == 0, done.stderr
    return one, three, done


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_three_ranks_leave_the_run_of_one(runs):
    one, three, done = runs
    for alone, shared in zip(history(one), history(three), strict=True):
        for key in ("train_loss", "test_loss", "grad_norm"):
            assert shared[key] == pytest.approx(alone[key], rel=2e-3), key
    assert sorted(p.name for p in three.iterdir()) == sorted(p.name for p in one.iterdir())
    assert done.stdout.count("epoch 2/2") == 1, "one rank speaks"
    assert done.stderr == ""


@pytest.mark.slow
def test_evaluate_and_predict_share_the_work(runs, data, tmp_path):
    one, *_ = runs
    folder = tmp_path / "new"
    folder.mkdir()
    for i, image in enumerate(TEST.images(range(7))):
        Image.fromarray(image).save(folder / f"{i}.png")
    (folder / "torn.png").write_bytes(b"none")
    said = {}
    for count in (1, 3):
        table = tmp_path / f"{count}.csv"
        run = _alone if count == 1 else partial(mpiexec, count)
        found = run(*MINIRES, "evaluate", one, "--data", data, "--json")
        assert found.returncode == 0, found.stderr
        named = run(*MINIRES, "predict", one, folder, "--csv", table, "--top", "2")
        assert named.returncode == 2
        assert "1 files could not be read" in named.stderr
        rows = list(csv.reader(table.open()))
        said[count] = json.loads(found.stdout), [[row[0], row[1], float(row[2])] for row in rows[1:]]
    (alone, rows), (shared, others) = said[1], said[3]
    assert alone["confusion"] == shared["confusion"]
    assert alone["loss"] == pytest.approx(shared["loss"], rel=1e-5)
    assert [row[:2] for row in rows] == [row[:2] for row in others]
    np.testing.assert_allclose([row[2] for row in rows], [row[2] for row in others], rtol=1e-4)


def _alone(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


@pytest.mark.slow
def test_other_commands_run_alone():
    done = mpiexec(2, *MINIRES, "doctor")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "this command runs alone: leave the launcher of MPI out" in line


@pytest.mark.slow
def test_what_is_wrong_on_all_ranks_is_said_once(tmp_path):
    done = mpiexec(3, *MINIRES, "train", "--data", tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.count("no such file or folder") == 1
    assert "Traceback" not in done.stderr


def test_a_launcher_of_another_mpi():
    """Each process then sees itself alone, and would train for itself into one folder."""
    settings = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}
    done = subprocess.run([*MINIRES, "train"], capture_output=True, text=True, env=os.environ | settings)
    assert done.returncode == 2
    assert "the launcher started 4 processes, but each one's MPI (MPICH" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_mpi4py(tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('libmpi.so.12: cannot open shared object file')")
    settings = {"PMI_RANK": "0", "PMI_SIZE": "2", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*MINIRES, "train"], capture_output=True, text=True, env=os.environ | settings)
    assert done.returncode == 2
    assert "mpi4py cannot be used (libmpi.so.12: cannot open shared object file): pip install" in done.stderr


# --- ranks that fail ----------------------------------------------------------------------------------------------


def in_training(launcher, out):
    """The processes of three ranks that train."""
    assert wait_for(lambda: (out / "history.jsonl").exists() and len(ranks(launcher.pid)) == 3), launcher.poll()
    return ranks(launcher.pid)


def ended(data, out, rank, sign, *more):
    """(launcher, what it printed, what it said of faults, seconds) where one of three ranks gets this signal."""
    with started(3, *training(data, out, *more, epochs=500)) as launcher:
        os.kill(in_training(launcher, out)[rank], sign)
        began = time.monotonic()
        told, said = launcher.communicate(timeout=60)
        return launcher, told, said, time.monotonic() - began


def goes_on(data, out, count):
    """The last checkpoint is whole, and `count` ranks go on with it."""
    before = load_checkpoint(out / "model.h5").training["progress"]["epoch"]
    done = mpiexec(count, *MINIRES, "train", "--resume", out, "--epochs", str(before + 1))
    assert done.returncode == 0, done.stderr
    assert len(history(out)) == before + 1


@pytest.mark.slow
def test_a_rank_that_is_killed(data, tmp_path):
    out = tmp_path / "run"
    launcher, _, said, seconds = ended(data, out, 1, signal.SIGKILL, "--local-bn")
    (line,) = [line for line in said.splitlines() if line.startswith("minires: ")]
    assert "rank 1 of 3 on " in line
    assert "was killed by SIGKILL with " in line
    assert seconds < 10
    assert launcher.returncode
    goes_on(data, out, 2)


@pytest.mark.slow
def test_a_rank_that_is_stopped(data, tmp_path):
    out = tmp_path / "run"
    launcher, _, said, seconds = ended(data, out, 2, signal.SIGSTOP, "--shard-optimizer")
    (line,) = said.splitlines()
    assert "rank 2 of 3 on " in line
    assert "has been stopped (SIGSTOP) for 4 s" in line or "not heard of for " in line  # its guardian, or another rank
    assert 2 * STALL - 1 < seconds < 20
    assert launcher.returncode
    goes_on(data, out, 2)


@pytest.mark.slow
def test_one_signal_stops_all_ranks_at_one_batch(data, tmp_path):
    out = tmp_path / "run"
    launcher, told, said, _ = ended(data, out, 1, signal.SIGTERM)
    assert launcher.returncode == 143
    assert said == ""
    assert "Go on with: minires train --resume" in told
    goes_on(data, out, 3)


@pytest.mark.slow
def test_a_rank_that_runs_out_of_memory(data, tmp_path):
    """Its own limit, set by itself as the launcher would: the other ranks have none."""
    code = tmp_path / "limited.py"
    code.write_text(
        "import os, resource, sys\n"
        "if os.environ['PMI_RANK'] == '1': resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29))\n"
        "from minires.cli import main\n"
        "sys.exit(main())\n"
    )
    options = "train", "--data", data, "--arch", "resnet50", "--batch-size", "72", "--stall", STALL
    done = mpiexec(2, sys.executable, code, *options, "--size", "64", "--out", tmp_path / "run", timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "rank 1 of 2 on " in line
    assert "llocate" in line
