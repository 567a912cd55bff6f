"""Ranks that are processes train what one process trains: over MPI, in 1 to 4 of them, on however few cores."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
from mpiexec import mpiexec, needed

needed()
SUPPORT = Path(ranks.__file__)


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


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(what four ranks stopped in the middle of an epoch, the weights and losses of four that went through)."""
    folder = tmp_path_factory.mktemp("stopped")
    done = mpiexec(4, sys.executable, SUPPORT, folder, "begin")
    assert done.returncode == 0, done.stderr
    return folder, _gone_on(4, folder)


def _gone_on(count, folder):
    work = folder.parent / f"{folder.name}-{count}"
    shutil.copytree(folder, work, dirs_exist_ok=True)
    done = mpiexec(count, sys.executable, SUPPORT, work, "go-on")
    assert done.returncode == 0, done.stderr
    return dict(np.load(work / "go-on.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_what_four_ranks_began_any_number_goes_on_with(count, stopped):
    """With the optimiser's state shared and a part that thaws: four to the same bits, others to rounding."""
    folder, expected = stopped
    found = _gone_on(count, folder)
    for name, value in expected.items():
        far = np.abs(found[name] - value).max(initial=0)
        assert far <= (0 if count == 4 else 1e-10 * max(1.0, np.abs(value).max(initial=0))), name


@pytest.mark.slow
def test_a_stop_changes_nothing(stopped, tmp_path):
    """Against one process that was never stopped."""
    _, found = stopped
    changes = ranks.THAWING | {"epochs": 3}
    ranks.CASES["through"] = ("resnet", changes, {})
    for name, value in ranks.trained("through").items():
        if name in found:
            assert np.abs(found[name] - value).max(initial=0) <= 1e-10 * max(1.0, np.abs(value).max(initial=0)), name


MEMORY = """
import json
from pathlib import Path
import numpy as np
import minires
from minires.fast.communicator import gather, speaking_through
from minires.fast.mpi import world

with speaking_through(world()) as ranks:
    model = minires.resnet("resnet8", (8, 8, 3), 2)
    optimizer = minires.SGD(model.params())
    with minires.make_step(model, optimizer) as step:
        step(np.ones((2, 8, 8, 3), "f4"), np.arange(2), 0.1)
    lines = Path("/proc/self/maps").read_text().splitlines()
    start = optimizer.weights.ctypes.data
    of_weights = [x for x in lines if int(x.split("-")[0], 16) <= start < int(x.split()[0].split("-")[1], 16)]
    found = gather([of_weights[0].split()[-2:], sum("minires-ranks" in x for x in lines)])
if not ranks.rank:
    print(json.dumps(found))
ranks.leave()
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2), of Linux")
def test_weights_and_gradients_of_one_host_lie_in_memory_that_all_reach(tmp_path):
    (tmp_path / "memory.py").write_text(MEMORY)
    done = mpiexec(3, sys.executable, tmp_path / "memory.py")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[["/memfd:minires-ranks", "(deleted)"], 2 * 3]] * 3


CORES = """
import json, os
from minires.fast import cores, cpu
from minires.fast.communicator import gather, speaking_through
from minires.fast.mpi import world

cpu.enabled()
with speaking_through(world()) as ranks:
    found = gather([sorted(os.sched_getaffinity(0)), cores.usable_cores(), cpu.threads()])
if not ranks.rank:
    print(json.dumps(found))
ranks.leave()
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity masks")
@pytest.mark.parametrize("bound", [(), ("-bind-to", "core:1")])
@pytest.mark.parametrize("count", [2, 3])
def test_ranks_share_the_cores_of_their_host(count, bound, tmp_path):
    """Each core has as few ranks as can be, and a rank a thread a core; bound by the launcher or not."""
    (tmp_path / "cores.py").write_text(CORES)
    everything = sorted(os.sched_getaffinity(0))
    done = mpiexec(count, *bound, sys.executable, tmp_path / "cores.py", MINIRES_THREADS="")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    uses = [sum(core in mask for mask, *_ in found) for core in everything]
    if not bound:
        assert max(uses) <= -(-count // len(everything))
        assert sorted({core for mask, *_ in found for core in mask}) == everything[: max(count, len(everything))]
    for mask, usable, threads in found:
        assert usable <= len(mask)
        assert threads == usable
