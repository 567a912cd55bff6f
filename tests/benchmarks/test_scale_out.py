"""`minires bench scale-out`: the model against messages that are passed one by one, its fit, tables and picture."""

import itertools
import json
import os
from dataclasses import replace

import pytest
from minires.benchmarks import plots, scale_model, scale_out, tables
from minires.benchmarks.hosts import MPIEXEC
from minires.benchmarks.scale_model import Link, Network

from minires import cli

LINK = Link(alpha=5e-5, beta=2e-9, gamma=3e-10)
NETWORK = Network(buckets=(4e6, 4e6, 1e6), channels=(64, 128))


class Passing:
    """Ranks that pass messages of some bytes: each has a clock."""

    def __init__(self, p, link):
        self.clocks, self.link = [0.0] * p, link

    def exchange(self, pairs, n, adding, one_way=False):
        for a, b in pairs:
            there = max(self.clocks[a], self.clocks[b]) + self.link.alpha + self.link.beta * n
            self.clocks[b] = there + adding * self.link.gamma * n
            self.clocks[a] = there if one_way else self.clocks[b]


def passed(p, n, link):
    """The seconds of MPICH's sum: what is beyond a power of two first joins a neighbour."""
    ranks, q = Passing(p, link), 2 ** (p.bit_length() - 1)
    beyond = [(2 * i + 1, 2 * i) for i in range(p - q)]
    ranks.exchange(beyond, n, adding=True, one_way=True)
    left = [i for i in range(p) if (i, i - 1) not in beyond]
    rounds = [[(left[i], left[i ^ 2**k]) for i in range(q) if not i & 2**k] for k in range(q.bit_length() - 1)]
    if n <= scale_model.SHORT:
        for pairs in rounds:
            ranks.exchange(pairs, n, adding=True)
    else:
        for k, pairs in enumerate(rounds):
            ranks.exchange(pairs, n / 2 ** (k + 1), adding=True)
        for k, pairs in reversed(list(enumerate(rounds))):
            ranks.exchange(pairs, n / 2 ** (k + 1), adding=False)
    ranks.exchange([(b, a) for a, b in beyond], n, adding=False, one_way=True)
    return max(ranks.clocks)


@pytest.mark.parametrize("p", [2, 3, 4, 6, 7, 8, 64])
@pytest.mark.parametrize("n", [24, 2048, 4096, 10**6])
def test_a_sum_takes_what_its_messages_take(p, n):
    assert scale_model.all_reduce(p, n, LINK) == pytest.approx(passed(p, n, LINK), rel=1e-12)


def test_a_gather_takes_what_its_messages_take():
    doubling = Passing(8, LINK)
    for k in range(3):
        doubling.exchange([(i, i ^ 2**k) for i in range(8) if not i & 2**k], 1000 * 2**k, adding=False)
    assert scale_model.all_gather(8, 1000, LINK) == pytest.approx(max(doubling.clocks), rel=1e-12)
    ring = 7 * (LINK.alpha + 10**6 * LINK.beta)
    assert scale_model.all_gather(8, 10**6, LINK) == pytest.approx(ring, rel=1e-12)


def test_one_host_has_nobody_to_speak_to():
    assert scale_model.step(1, 0.3, 0.1, NETWORK, LINK) == 0.3
    assert scale_model.all_reduce(1, 10**6, LINK) == scale_model.all_gather(1, 10**6, LINK) == 0


@pytest.mark.parametrize("p", [2, 3, 5])
@pytest.mark.parametrize("gamma", [0.0, 3e-10])
def test_the_fit_finds_the_link(p, gamma):
    link = replace(LINK, gamma=gamma)
    verbs = {"all_reduce": scale_model.all_reduce, "all_gather": scale_model.all_gather}
    found = scale_model.fit(p, {name: {n: verb(p, n, link) for n in scale_out.SIZES} for name, verb in verbs.items()})
    assert (found.alpha, found.beta) == pytest.approx((link.alpha, link.beta))
    assert found.gamma == pytest.approx(gamma, abs=1e-15)


def test_no_part_of_a_fit_is_negative():
    sums = {n: scale_model.all_reduce(2, n, replace(LINK, gamma=-1e-9)) for n in scale_out.SIZES}
    gathers = {n: scale_model.all_gather(2, n, LINK) for n in scale_out.SIZES}
    found = scale_model.fit(2, {"all_reduce": sums, "all_gather": gathers})
    assert found.gamma == 0
    assert min(found.alpha, found.beta) > 0


def test_backward_hides_sums_but_the_last_bucket():
    def step(**options):
        return scale_model.step(4, 1.0, 0.005, NETWORK, LINK, local_bn=True, **options)

    last = scale_model.all_reduce(4, NETWORK.buckets[-1], LINK)
    sums = sum(scale_model.all_reduce(4, n, LINK) for n in NETWORK.buckets)
    assert step() - 1 - scale_model.syncs(4, NETWORK, LINK, True) == pytest.approx(sums)
    assert step() - step(overlap=0.5) == pytest.approx(0.0025)
    long = scale_model.step(4, 1.0, 10.0, NETWORK, LINK, local_bn=True, overlap=1.0)
    assert long - 1 - scale_model.syncs(4, NETWORK, LINK, True) == pytest.approx(last)


@pytest.mark.parametrize(("local_bn", "slack"), [(True, {"overlap": 0.7}), (False, {"drift": 0.2})])
def test_slack_is_what_a_step_shows(local_bn, slack):
    seconds = scale_model.step(3, 0.2, 0.01, NETWORK, LINK, local_bn=local_bn, **slack)
    assert scale_model.slack(3, 0.2, 0.01, NETWORK, LINK, seconds, local_bn) == pytest.approx(slack)


def test_a_link_carries_frames():
    assert LINK.at(1).beta == pytest.approx(8e-9, rel=0.05)
    assert LINK.at(1).beta > 8e-9
    assert (LINK.at(10).alpha, LINK.at(10).gamma) == (LINK.alpha, LINK.gamma)


def records(rounds=2):
    """What a machine would measure that behaves as the model says."""
    options = {"arch": "resnet18", "size": 64, "batch": 32}
    told = {"buckets": NETWORK.buckets, "channels": NETWORK.channels}
    run = {"benchmark": "scale-out", "date": "2026-01-02", "command": "minires bench", "cpu": "a processor", "cores": 2}
    run |= {"python": "3", "versions": {}, "options": options, "network": told, "window": 0.01, "spent": 0.05}
    made = []
    places = [(1, False, 0.0), (2, False, 0.0), (2, True, 0.0), (2, True, 0.5), (3, True, 0.0), (3, True, 1.0)]
    for number, (ranks, hosts, gbit) in itertools.product(range(rounds), places):
        where = {"round": number, "ranks": ranks, "hosts": hosts, "gbit": gbit}
        link = LINK.at(gbit) if gbit else LINK
        for scaling, compute in (("strong", 0.4 / ranks + 0.01 * number), ("weak", 0.4)):
            row = run | where | {"scaling": scaling, "images": 32 // ranks}
            made.append(row | {"kind": "alone", "seconds": compute})
            for bn, slack in (("exact", {"drift": 0.1}), ("local", {"overlap": 0.8})) if ranks > 1 else ():
                seconds = scale_model.step(ranks, compute, 0.01, NETWORK, link, local_bn=bn == "local", **slack)
                made.append(row | {"kind": "step", "bn": bn, "seconds": seconds})
        for verb, n in itertools.product(("all_reduce", "all_gather"), scale_out.SIZES if ranks > 1 else ()):
            seconds = getattr(scale_model, verb)(ranks, n, link)
            made.append(run | where | {"kind": verb, "bytes": n, "seconds": seconds})
    return made


def test_what_behaves_as_the_model_is_met_by_it():
    found = scale_out.checks(records())
    assert [(c["ranks"], c["gbit"], c["bn"]) for c in found] == [
        (ranks, gbit, bn) for ranks, gbit in ((2, 0.5), (3, 1.0)) for bn in ("exact", "local")
    ]
    for check in found:
        assert check["error"] == pytest.approx(0, abs=1e-9)
        assert check["alone"] < check["seconds"]


def test_more_hosts_and_slower_links_are_less_efficient():
    found = scale_out.predictions(records())
    assert len(found) == 6
    for values in found.values():
        assert values == sorted(values, reverse=True)
        assert 0 < values[-1] < values[0] < 1
    for bn in ("exact", "local"):
        assert found[bn, 1][0] < found[bn, 10][0] < found[bn, 100][0]


@pytest.mark.slow
def test_tables_and_picture(tmp_path):
    made = records()
    text = tables.markdown(made)
    assert "| 2 ranks, strong, exact | 16 |" in text
    assert "| 3 hosts, 1.0 Gbit/s, local |" in text
    assert "fitted without a limit: drift 0.10, overlap 0.80" in text
    (path,) = plots.draw(made, tmp_path)
    assert path.name == "resnet18-64-32-scale-out.png"
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert plots.draw([r for r in made if not r["hosts"]], tmp_path), "without hosts the predictions alone"


@pytest.mark.slow
def test_ranks_are_measured(tmp_path, capsys):
    pytest.importorskip("mpi4py", reason="needs 'minires[mpi]'")
    path = tmp_path / "r.jsonl"
    small = ["--arch", "resnet8", "--size", "8", "--batch", "4", "--steps", "2", "--rounds", "1"]
    assert cli.main(["bench", "scale-out", *small, "--json", str(path)]) == 0
    told = capsys.readouterr().out
    assert "| 2 ranks, weak, local " in told
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {r["kind"] for r in rows} - {"gradients"} == {"alone", "step", "all_reduce", "all_gather", "threads"}
    steps = [r for r in rows if r["kind"] == "step"]
    assert {(r["ranks"], r["scaling"], r["images"]) for r in steps} == {(2, "strong", 2), (2, "weak", 4)}
    assert all(0 < r["spent"] < r["seconds"] for r in steps)
    assert all(r["spent"] == 0 for r in rows if r["kind"] == "alone")
    table = tables.markdown(rows)
    assert "step / that of threads" in table
    if hasattr(os, "memfd_create"):
        assert "| 2 ranks, gather, 0 MB |" in table
    strong = next(line for line in table.splitlines() if line.startswith("| 2 ranks, strong, exact"))
    (one,) = (r for r in rows if r["kind"] == "threads" and r["scaling"] == "strong")
    both = next(r for r in steps if (r["scaling"], r["bn"]) == ("strong", "exact"))
    assert f" {both['seconds'] / one['seconds']:.2f} (" in strong


def test_what_cannot_be_measured_is_refused(monkeypatch, capsys):
    def fails(*arguments) -> str:
        assert cli.main(["bench", "scale-out", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--ranks: expected a whole number from 1" in fails("--ranks", "0,2")
    assert "--gbit: expected a finite number above 0" in fails("--gbit", "1,-1")
    assert "expected numbers, such as 1,2" in fails("--ranks", "two")
    monkeypatch.setattr(scale_out, "reason_against", lambda: "this takes root")
    if MPIEXEC.exists():
        assert "--gbit: this takes root" in fails("--gbit", "1")
        assert "4 ranks cannot share 2 images" in fails("--batch", "2", "--ranks", "1,4")
    monkeypatch.setattr(scale_out, "MPIEXEC", MPIEXEC.with_name("no-mpiexec"))
    assert "pip install 'minires[mpi]'" in fails()
