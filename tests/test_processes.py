"""A team of processes: what it computes against a team of threads, how it fails, and the memory that it shares."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_fused import NETWORKS, assert_close, batch, network, results, step

from minires import nn, processes
from minires.errors import ConfigError, DeviceError, StateError, WorkerError
from minires.nn import parallel
from minires.nn.fastconv import FastConv
from minires.nn.parallel import Parallel, Part
from minires.processes import Processes, best_team
from minires.shared import Outbox, Region
from minires.team import Team
from minires.train import SGD, Adam
from minires.train.step import Step, TeamStep, make_step

pytestmark = pytest.mark.skipif(not processes.possible(), reason="a team of processes takes Linux on x86-64")


def told(team, arch, shape, options, n=5, steps=2, **ways):
    """Logits of the last of two steps, and gradients and buffers after it."""
    model, (x, labels) = network(arch, shape, options), batch(shape, n)
    with team:
        net = Parallel(model, team, **ways)
        for _ in range(steps):
            logits = step(net, x, labels)
    return results(model, logits)


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
@pytest.mark.parametrize("fused", [True, False])
def test_the_same_bits_as_threads(arch, shape, options, fused):
    ours, theirs = (told(team, arch, shape, options, fused=fused) for team in (Processes(2), Team(2)))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_teams_of_other_sizes(size):
    ours, theirs = (told(team, *NETWORKS[0]) for team in (Processes(size), Team(size)))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("arch", "shape", "options"), NETWORKS)
def test_plain_ops_give_what_the_layers_give(arch, shape, options):
    model, (x, labels) = network(arch, shape, options), batch(shape)
    expected = results(model, step(model, x, labels))
    assert_close(told(Processes(2), arch, shape, options, steps=1, fused=False), expected, 1e-10)


def test_fewer_images_than_processes():
    ours, theirs = (told(team, *NETWORKS[0], n=2) for team in (Processes(4), Team(4)))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_recomputed_blocks_too():
    ours, theirs = (told(Processes(2), *NETWORKS[0], recompute=again) for again in (True, False))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, nesterov=True, weight_decay=0.1), lambda p: Adam(p, clip_norm=0.5, weight_decay=0.1)]
)
def test_steps_with_updates_are_those_of_the_layers(make):
    """Float64, three steps: weights, state and norms."""
    arch, shape, options = NETWORKS[0]
    (x, labels), runs = batch(shape), []
    for shared in (True, False):
        model = network(arch, shape, options)
        optimizer = make(model.params())
        if shared:
            way = TeamStep(model, optimizer)
            assert isinstance(way.team, Processes) or way.team.size == 1
        else:
            way = Step(model, optimizer)
        with way as train:
            norms = [train(x, labels, 0.01)[2] for _ in range(3)]
        runs.append({"norms": np.array(norms), **model.state(), **optimizer.named_state()})
        assert optimizer.steps == 3
    assert_close(*runs, 1e-9)


def test_an_optimiser_of_the_users_own():
    """No other process could load its class."""

    class Signs(SGD):
        def update(self, w, grad, state, lr, decay):
            w -= lr * np.sign(grad)

    arch, shape, options = NETWORKS[0]
    (x, labels), model = batch(shape), network(arch, shape, options)
    before = {p.name: p.data.copy() for p in model.params()}
    with make_step(model, Signs(model.params())) as train:
        train(x, labels, 0.5)
    for p in model.params():
        np.testing.assert_allclose(before[p.name] - p.data, 0.5 * np.sign(p.grad), atol=1e-12)


def test_what_fit_runs_here():
    model = network(*NETWORKS[0], np.float32)
    team = make_step(model, Adam(model.params())).team
    assert isinstance(team, Processes) == (team.size > 1)
    assert isinstance(best_team(1), Team)
    with pytest.raises(ConfigError, match="33 processes: at most 32"):
        Processes(33)


def test_a_model_that_was_converted_must_be_put_on_a_team_again():
    model, (x, _) = network(*NETWORKS[0]), batch((16, 16, 3))
    with Processes(2) as team:
        net = Parallel(model, team)
        net.forward(x)
        model.astype(np.float32)
        with pytest.raises(StateError, match="do so again"):
            net.forward(x)


# --- what goes wrong --------------------------------------------------------------------------------------


class Breaking(Part):
    """A part of a network that can be told to fail on its way back, after a gradient was asked for."""

    def break_next(self):
        if self.member.rank:
            conv = next(m for m in self.body.modules() if isinstance(m, FastConv))
            whole, conv.backward = conv.backward, None

            def broken(dy, need_dx=True):
                conv.backward = whole
                assert conv.w.grad is not None
                raise ZeroDivisionError("in the middle")

            conv.backward = broken


def test_a_step_that_was_broken_off_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(parallel, "Part", Breaking)
    arch, shape, options = NETWORKS[0]
    (x, labels), model = batch(shape), network(arch, shape, options)
    with Processes(2) as team:
        net = Parallel(model, team)
        logits = net.forward(x)
        net.crew.call("break_next", [(), ()])
        with pytest.raises(ZeroDivisionError, match="in the middle"):
            net.backward(np.ones_like(logits))
        for b, fresh in zip(model.buffers(), network(arch, shape, options).buffers(), strict=True):
            b.data[...] = fresh.data
        logits = step(net, x, labels)
    expected = told(Team(2), arch, shape, options, steps=1)
    assert all(np.array_equal(results(model, logits)[name], expected[name]) for name in expected)


class Piece:
    """Something to assemble."""

    def __init__(self, member, failing=None):
        self.member, self.failing, self.kept = member, failing, None

    def gather(self, value):
        if self.member.rank == self.failing:
            raise DeviceError("the third wheel")
        return self.member.gather(value)

    def total(self, *values):
        return sum(self.member.meet(np.array(values))[0])

    def keep(self, value):
        self.kept = value

    def sleep(self, seconds):
        time.sleep(seconds)

    def die(self):
        if self.member.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.member.gather(1)

    def count(self):
        return self.member.gather(sum(isinstance(o, Piece) for o in gc.get_objects()))


def test_members_gather_any_value():
    with Processes(3) as team:
        crew = team.assemble(Piece)
        for turn in range(20):
            shares = [
                ({"rank": rank, "array": np.full((rank, 2), turn, np.float32), "text": "x"},) for rank in range(3)
            ]
            for rank, value in enumerate(crew.call("gather", shares)):
                assert value["rank"] == rank
                np.testing.assert_array_equal(value["array"], shares[rank][0]["array"])
            assert crew.call("total", [(rank, turn) for rank in range(3)]).tolist() == [3, 3 * turn]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_one_member_reaches_the_caller_and_the_team_goes_on(failing):
    with Processes(3) as team:
        crew = team.assemble(Piece, failing)
        for _ in range(2):
            with pytest.raises(DeviceError, match="third wheel"):
                crew.call("gather", [(1,)] * 3)
            assert crew.call("total", [(1,)] * 3) == [3]


def test_an_interrupt_reaches_the_caller_once_all_have_come_to_rest():
    with Processes(2) as team:
        crew = team.assemble(Piece)
        crew.mine.sleep = lambda _: signal.raise_signal(signal.SIGINT)
        before = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            crew.call("sleep", [(0,), (0.3,)])
        assert time.perf_counter() - before > 0.25
        assert crew.call("total", [(1,), (2,)]) == [3]


def test_a_process_that_is_gone_is_one_clear_error_and_the_next_team_has_new_ones():
    with Processes(2) as team:
        crew = team.assemble(Piece)
        with pytest.raises(WorkerError, match="ended by signal 9: the machine may be short of memory"):
            crew.call("die", [(), ()])
        with pytest.raises(WorkerError, match="ended by signal 9"):
            crew.call("total", [(1,), (2,)])
    with Processes(2) as team:
        assert team.assemble(Piece).call("total", [(1,), (2,)]) == [3]


def test_what_a_crew_held_goes_with_it():
    with Processes(2) as team:
        crew, other = team.assemble(Piece), team.assemble(Piece)
        both = crew.call("count", [(), ()])[1]
        assert both >= 2
        del other
        gc.collect()
        assert crew.call("count", [(), ()])[1] == both - 1


def test_processes_end_with_the_one_that_started_them():
    code = (
        "import os\nfrom minires.processes import Processes\nteam = Processes(3)\n"
        "print(*(worker.pid for worker in team.pool.workers), flush=True)\n{}"
    )
    for end in ("", "os._exit(1)", "os.kill(os.getpid(), 9)"):
        ran = subprocess.run([sys.executable, "-c", code.format(end)], stdout=subprocess.PIPE, text=True, check=False)
        pids = ran.stdout.split()
        assert len(pids) == 2
        until = time.perf_counter() + 20
        while any(alive(pid) for pid in pids) and time.perf_counter() < until:
            time.sleep(0.05)
        assert not any(map(alive, pids)), f"after {end!r}"


def alive(pid: str) -> bool:
    """Whether it runs still; one that has ended may wait for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# --- shared memory ----------------------------------------------------------------------------------------


def test_arrays_of_a_region_are_seen_by_whoever_maps_it():
    ours = Region()
    theirs = Region(ours.fd)
    array = ours.empty((3, 4), np.float64)
    array[...] = np.arange(12).reshape(3, 4)
    ours.write(0, {"part": array[1:, ::2], "copied": np.ones(2), "both": nn.Param("w", array)})
    told = theirs.read(0)
    np.testing.assert_array_equal(told["part"], array[1:, ::2])
    told["part"][...] = -1
    told["both"].data[0] = 7
    assert array.tolist() == [[7, 7, 7, 7], [-1, 5, -1, 7], [-1, 9, -1, 11]]
    assert theirs.place(told["copied"]) is None


def test_memory_of_a_region_goes_back_and_is_used_again():
    region = Region()

    def held():
        return os.fstat(region.fd).st_blocks * 512

    array = region.empty(2**20, np.float64)
    array[...] = 1
    place, view = region.place(array), array[5:9].reshape(2, 2)
    assert 8 * 2**20 <= held() < 9 * 2**20
    del array
    gc.collect()
    assert view.tolist() == [[1, 1], [1, 1]]  # a view keeps the whole
    del view
    gc.collect()
    assert held() < 2**20
    again = region.empty(2**20, np.float64)
    assert region.place(again) == place
    assert not again.any()


def test_an_outbox_holds_two_messages_and_copies_no_array_of_its_own():
    region = Region()
    box = Outbox(region, 2**30, 2**20)
    box.turn(1)
    first = box.empty((2, 3), np.float32)
    first[...] = 5
    box.leave(([first], np.arange(4), "text", np.empty(0)))
    box.turn(2)
    box.leave("second")
    (mine,), numbers, text, nothing = Outbox(region, 2**30, 2**20).read(1)
    assert (region.place(mine), text, nothing.size) == (region.place(first), "text", 0)
    assert numbers.tolist() == [0, 1, 2, 3]
    assert box.read(2) == "second"
    with pytest.raises(MemoryError, match="more than 1048576 bytes"):
        box.empty((2**20,), np.float64)
