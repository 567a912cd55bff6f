"""Turns, failures and records of the benchmarks' harness; contenders here do next to nothing."""

import json
import os
import sys
import threading
import time

import pytest
from minires.benchmarks import harness, watch
from minires.benchmarks.harness import Spread, Unavailable, Worker

pytestmark = pytest.mark.slow

SLEEPS = {"short": 0.004, "shorter": 0.0005}  # seconds of a call


def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def build(name, task, options):
    """Contenders that succeed, fail when built, fail in a turn, or never answer."""
    if name == "not installed":
        raise ImportError("No module named 'nothing'")
    if name == "wrong":
        raise ValueError("a bad\nargument")
    count = [0]

    def turn(*message):
        count[0] += 1
        if name == "out of memory" and count[0] == options["fails_at"]:
            raise MemoryError("cannot take 80 GB")
        if name == "slow" and count[0] > 1:
            time.sleep(60)
        if name == "spins":  # its turn is over, its thread is not
            threading.Thread(target=spin, args=(0.2,)).start()
        if name == "dies":
            os._exit(1)
        if name in SLEEPS:
            time.sleep(SLEEPS[name] * message[0])
        return (task, os.environ.get("OMP_NUM_THREADS"), *message)

    turn.told = {"a library": os.environ.get("A_VARIABLE", "not set")}
    return turn


def test_spread_is_of_order_statistics():
    spread = Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (spread.median, spread.low, spread.high, spread.best) == (3, 2, 4, 1)
    assert Spread.of([7.0]) == Spread(7, 7, 7, 7)


def test_who_fails_leaves_and_the_others_go_on(capsys):
    missing = {}
    names = ["fine", "not installed", "wrong", "out of memory", "dies"]
    options = {"fails_at": 3}
    results, load = harness.compare(build, names, "task", options, rounds=3, warmup=1, missing=missing)
    assert [r.name for r in results] == ["fine"]
    assert len(results[0].seconds) == 3
    assert results[0].peak_mib > 1
    assert set(missing) == set(names) - {"fine"}
    assert missing["not installed"] == "No module named 'nothing'"
    assert missing["wrong"] == "ValueError: a bad"
    assert missing["out of memory"] == "cannot take 80 GB"
    assert "process ended" in missing["dies"]
    assert "out of memory: left out: cannot take 80 GB" in capsys.readouterr().err
    assert load.as_dict()["load_average"][0] >= 0


def test_a_process_outlives_a_failed_turn_but_not_its_parents_patience():
    worker = Worker(build, "out of memory", "task", {"fails_at": 1})
    with pytest.raises(Unavailable, match="80 GB"):
        worker.turn()
    assert worker.turn("x").value == ("task", None, "x")
    worker.close()
    worker = Worker(build, "slow", "task", {}, patience=30)
    worker.turn()
    worker.patience = 0.2
    with pytest.raises(Unavailable, match="no answer"):
        worker.turn()
    assert not worker.process.is_alive()
    with pytest.raises(Unavailable, match="was ended"):
        worker.turn()


def test_threads_are_told_and_forgotten(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with harness.started(build, ["fine"], "task", {}, threads=1) as (worker,):
        assert worker.turn().value == ("task", "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in os.environ or os.environ["OPENBLAS_NUM_THREADS"] != "1"


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the system does not tell")
def test_threads_that_spin_between_turns_are_the_contenders_own():
    results, load = harness.compare(build, ["spins"], "task", {}, rounds=3, warmup=1)
    assert load.own > sum(results[0].cpu_seconds) + 0.1


def test_short_work_is_called_many_times_a_turn():
    (short, shorter), _ = harness.compare(build, ["short", "shorter"], "", {}, rounds=2, warmup=2, least=0.03)
    assert 1 < short.calls < shorter.calls
    assert all(0.004 <= s < 0.03 for s in short.seconds)  # of a call
    (once,), _ = harness.compare(build, ["short"], "", {}, rounds=2, warmup=1)
    assert once.calls == 1


def test_each_contender_has_its_own_environment(monkeypatch):
    """Set before its process starts, and as before in this one."""
    monkeypatch.setenv("A_VARIABLE", "of the shell")
    chosen = {"fine": {"A_VARIABLE": "chosen"}, "short": {"A_VARIABLE": None}, "slow": {}}
    with harness.started(build, chosen, "task", {}, environment=lambda name, options: chosen[name]) as workers:
        told = {worker.name: worker.told["a library"] for worker in workers}
    assert told == {"fine": "chosen", "short": "not set", "slow": "of the shell"}
    assert os.environ["A_VARIABLE"] == "of the shell"
    results, _ = harness.compare(build, ["fine"], "task", {}, rounds=1, warmup=1)
    assert results[0].told == {"a library": "of the shell"}


def test_a_time_limit_ends_the_rounds():
    results, _ = harness.compare(build, ["fine"], "task", {}, rounds=50, warmup=1, seconds=0.01)
    assert len(results[0].seconds) == 1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/somewhere/bin/minires", "bench", "step"], "minires bench step"),
        (["/somewhere/benchmarks/bench_ops.py", "--batch", "8"], "python benchmarks/bench_ops.py --batch 8"),
    ],
)
def test_the_command_is_what_one_types(monkeypatch, argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    assert watch.machine()["command"] == expected


def test_records_survive_json(tmp_path):
    path = tmp_path / "r.jsonl"
    facts = watch.machine(threads=2)
    options = {"arch": "resnet8", "json": str(path), "out": "pictures"}
    first = harness.record("step", facts, options, [{"seconds": [0.25, 0.125]}])
    second = harness.record("step", facts, options, [{"left_out": "no torch"}, {"seconds": [1.0]}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == first + second
    assert first[0]["options"] == {"arch": "resnet8"}
    assert first[0]["versions"]["numpy"]
    assert harness.record("step", facts, {"arch": "resnet8"}, [{}])[0]["threads"] == 2  # no file asked for


def test_contention_is_named():
    load = watch.Load()
    assert load.warning() == ""
    load.others, load.steal = 0.5, 0.1
    assert "50% of a core" in load.warning()
    assert "took away 10%" in load.warning()
