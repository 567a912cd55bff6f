"""`minires bench ways` as a user meets it."""

import json

import pytest
from minires.benchmarks import bench_ways

from minires import cli
from minires.ops import products


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ways_and_pieces(tmp_path, monkeypatch, capsys):
    kept = products.unpacked_product
    monkeypatch.setattr(bench_ways, "SHAPES", ((2, 8, 8, 16), (2, 8, 8, 32)))
    monkeypatch.setattr(bench_ways, "PRODUCTS", ((30, 4, 20),))
    path = tmp_path / "r.jsonl"
    assert cli.main(["bench", "ways", "--rounds", "2", "--json", str(path)]) == 0
    few, many, pieces = lines(path)
    assert few["chosen"] == "rowwise"
    assert set(few["seconds"]) == set(many["seconds"]) == {"direct", "rowwise", "tapwise", "2", "4"}
    assert all(len(s) == 2 and min(s) > 0 for r in (few, many, pieces) for s in r["seconds"].values())
    assert "2x8x8x16" in capsys.readouterr().out
    assert products.unpacked_product is kept

    def stopped(a, b):
        raise KeyboardInterrupt

    monkeypatch.setattr(products, "product", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench_ways.compare_pieces(2)
    assert products.unpacked_product is kept
