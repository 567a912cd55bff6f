"""The benchmark of data larger than memory, small."""

import json

import numpy as np
import pytest
from minires.benchmarks.large_data import BLOCK, TASKS, Drawn

from minires import cli


def test_pictures_are_a_function_of_their_place():
    data = Drawn(2 * BLOCK + 9, 16, 0)
    whole = data.images(np.arange(len(data)))
    assert whole.shape == (2 * BLOCK + 9, 16, 16, 3)
    index = np.array([3, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 8])
    np.testing.assert_array_equal(Drawn(2 * BLOCK + 9, 16, 0).images(index), whole[index])
    assert len({image.tobytes() for image in whole}) == len(whole)
    assert (Drawn(BLOCK, 16, 1).images(np.arange(BLOCK)) != whole[:BLOCK]).any()


@pytest.mark.slow
def test_a_small_run(tmp_path, capsys):
    path, folder = tmp_path / "r.jsonl", tmp_path / "files"
    small = ["--images", "400", "900", "--size", "8", "--batch", "16", "--steps", "3", "--threads", "1"]
    arguments = ["bench", "large-data", *small, "--folder", str(folder), "--json", str(path)]
    assert cli.main(arguments) == 0
    assert "the network alone" in capsys.readouterr().out
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["train_images"], r["what"]) for r in records] == [(n, what) for n in (400, 900) for what in TASKS]
    for record in records:
        assert record["images_per_second"] > 0
        if record["what"] in ("training", "resumed"):
            assert 0 <= record["wait_share"] < 1
            assert record["images"] == 16 * 3
    assert len(list(folder.iterdir())) == 2
    assert cli.main(["bench", "table", str(path)]) == 0
    assert "| 900 | evaluation |" in " ".join(capsys.readouterr().out.split())
