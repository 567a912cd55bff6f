"""Ranks that are processes train what one process trains: over MPI, in 1 to 4 of them, on however few cores."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks

pytest.importorskip("mpi4py", reason="needs 'minires[mpi]'")
MPIEXEC = Path(sys.executable).with_name("mpiexec")
SUPPORT = Path(ranks.__file__)


def mpiexec(count, *command, timeout=300, **environment):
    """A finished `mpiexec -n COUNT COMMAND`."""
    settings = os.environ | {"MINIRES_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | environment
    command = [str(MPIEXEC), "-n", str(count), *map(str, command)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=settings)


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def together(request, tmp_path_factory):
    """(how many, {case: what came of it}) of ranks that train every case together."""
    folder = tmp_path_factory.mktemp(f"ranks{request.param}")
    done = mpiexec(request.param, sys.executable, SUPPORT, folder)
    assert done.returncode == 0, done.stderr
    return request.param, {case: dict(np.load(folder / f"{case}.npz")) for case in ranks.CASES}


ALONE = {}


def alone(case):
    if case not in ALONE:
        ALONE[case] = ranks.trained(case)
    return ALONE[case]


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in ranks.CASES if case not in ("single", "local")])
def test_ranks_train_the_network_of_one(case, together):
    """Weights, running statistics, losses and gradient norms, in float64."""
    count, found = together
    for name, expected in alone(case).items():
        if name != "ranks":
            far = np.abs(found[case][name] - expected).max(initial=0)
            assert far <= 1e-10 * max(1.0, np.abs(expected).max(initial=0)), name
    sums = found[case]["ranks"]
    assert len(sums) == count
    assert len(set(sums.tolist())) == 1, "all ranks hold the same bits"


@pytest.mark.slow
def test_in_float32_they_differ_by_rounding(together):
    _, found = together
    for name, expected in alone("single").items():
        if name != "ranks":
            far = np.abs(found["single"][name] - expected).max(initial=0)
            assert far <= 2e-4 * max(1.0, np.abs(expected).max(initial=0)), name


@pytest.mark.slow
def test_normalisation_over_shares_is_another_training(together):
    count, found = together
    assert len(set(found["local"]["ranks"].tolist())) == 1
    same = np.allclose(found["local"]["train_loss"], alone("local")["train_loss"], rtol=1e-9)
    assert same == (count == 1)
