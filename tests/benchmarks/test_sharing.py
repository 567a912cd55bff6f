"""What the measurement beside other programs is made of."""

import pytest
from minires.benchmarks import sharing


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(sharing, "TURNS", 2)
    monkeypatch.setattr(sharing, "STEPS", 1)


def test_a_step_tells_its_milliseconds_turn_by_turn(capsys):
    sharing.step()
    times = [float(line) for line in capsys.readouterr().out.split()]
    assert len(times) == 2
    assert min(times) > 0


def test_the_neighbour_is_gone_afterwards(monkeypatch):
    started, real = [], sharing.subprocess.Popen
    monkeypatch.setattr(sharing.subprocess, "Popen", lambda *args: started.append(real(*args)) or started[0])
    with sharing.busy_neighbour():
        assert started[0].poll() is None
    assert started[0].poll() is not None


def test_each_row_is_measured_and_the_group_is_removed(monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(sharing, "measured", lambda threads, before=None: asked.append((threads, before)) or 5.0)
    monkeypatch.setattr(sharing, "usable_cores", lambda: 4)
    monkeypatch.setattr(sharing, "quota_group", lambda: tmp_path / "group")
    (tmp_path / "group").mkdir()
    assert sharing.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "threads",
        "alone",
        "beside a busy program",
        "a quota of 1.5 cores",
    ]
    assert [threads for threads, _ in asked] == [1, 2, 4, None] * 3
    assert not (tmp_path / "group").exists()
    monkeypatch.setattr(sharing, "quota_group", lambda: None)
    sharing.main()
    assert "needs root and Linux's cgroups" in capsys.readouterr().out
