"""Some of the campaign's mutants, always the same: none believed in our files, none that ends in a traceback."""

import os
import signal
from collections import Counter
from dataclasses import replace

import pytest

mutants = pytest.importorskip("mutants", reason="the campaign forks and watches memory", exc_type=ImportError)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in mutants.KINDS if "pth" not in name])
def test_mutants_are_refused_in_one_line_or_equal(tmp_path, name):
    if "safetensors" in name:
        pytest.importorskip("safetensors")
    if "bfloat16" in name:
        pytest.importorskip("torch")
    if "onnx" in name:
        pytest.importorskip("onnx")
    if name == "data, mat":
        pytest.importorskip("scipy")
    results = list(mutants.Campaign(tmp_path, [name], seed=1).run(0, 12))
    assert len(results) == 12
    outcomes = Counter((how, outcome) for _, _, how, outcome, _, _ in results)
    failed = [r for r in results if r[3] in ("traceback", "crash", "hang")]
    assert not failed
    assert not (mutants.KINDS[name].ours and outcomes["bytes", "other"])
    assert max(r[5] for r in results) < 1024


def test_a_mutant_that_breaks_down_is_counted_and_the_next_ones_go_on(tmp_path, monkeypatch):
    def fatal(path):
        if path.read_bytes() != campaign.valid["png"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        return [b"x"]

    campaign = mutants.Campaign(tmp_path, ["png"])
    monkeypatch.setitem(mutants.KINDS, "png", replace(mutants.KINDS["png"], open=fatal))
    assert [r[3] for r in campaign.run(0, 3)] == ["crash"] * 3
