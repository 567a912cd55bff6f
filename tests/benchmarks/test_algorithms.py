"""`minires bench algorithms` as a user meets it."""

import json

import pytest
from minires.benchmarks import bench_algorithms

from minires import cli
from minires.fast import cpu


def test_rates_of_every_algorithm(tmp_path, monkeypatch, capsys):
    if not cpu.enabled():
        pytest.skip("there are no compiled kernels")
    monkeypatch.setattr(bench_algorithms, "CONVOLUTIONS", (((2, 8, 8, 16), 16, 3, 1), ((2, 8, 8, 3), 16, 3, 2)))
    monkeypatch.setattr(bench_algorithms, "PRODUCTS", ((30, 4, 20),))
    path = tmp_path / "r.jsonl"
    assert cli.main(["bench", "algorithms", "--rounds", "2", "--json", str(path)]) == 0
    unit, strided, product = (json.loads(line) for line in path.read_text().splitlines())
    assert unit["chosen"] == "winograd"
    assert strided["chosen"] == "direct"
    assert list(unit["gflops"]) == ["im2col", "direct", "winograd"]
    assert list(strided["gflops"]) == ["im2col", "direct"]
    assert list(product["gflops"]) == ["kernel", "BLAS"]
    assert all(rate > 0 for parts in unit["gflops"].values() for rate in parts.values())
    assert "2x8x8x16 -> 16, 3x3 / 1" in capsys.readouterr().out


def test_without_kernels_it_says_so(capsys):
    with cpu.as_read():
        assert cli.main(["bench", "algorithms"]) == 2
    assert "needs the compiled kernels" in capsys.readouterr().err
