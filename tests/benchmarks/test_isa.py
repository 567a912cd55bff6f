"""One instruction set for all contenders: the variables, and that the libraries go by them."""

import os

import numpy as np
import pytest
from minires.benchmarks import contenders, harness, isa
from minires.benchmarks.harness import Unavailable

from minires.errors import ConfigError
from minires.fast.cpu import _kernels

pytestmark = pytest.mark.slow

OPTIONS = {"arch": "resnet8", "size": 8, "batch": 2, "optimizer": "adam", "threads": 1}
WIDE = {"flags": sorted(set.union(*isa.FLAGS.values()))}
needs_avx2 = pytest.mark.skipif(not isa.FLAGS["avx2"] <= set(isa.flags()), reason="this processor has no AVX2")


def told(names, asked="default") -> dict:
    options = OPTIONS | {"isa": asked}
    with harness.started(contenders.build, names, "inference", options, environment=contenders.environment) as workers:
        return {worker.name: worker.told for worker in workers}


def test_every_set_speaks_of_the_same_variables():
    """What one choice sets, every other sets or takes away."""
    default, *others = (isa.environment(choice) for choice in isa.CHOICES)
    assert all(chosen.keys() == default.keys() for chosen in others)
    assert set(default.values()) == {None}
    assert isa.environment("avx2")["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert isa.environment(None) == default


def test_numpy_is_told_of_features_that_it_found(monkeypatch):
    """It warns of others."""
    found = ["X86_V3", "X86_V4", "AVX512_ICL"]
    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": {"found": found}})
    assert isa.environment("avx2")[isa.NUMPY] == "AVX512_ICL X86_V4"
    assert isa.environment("avx512")[isa.NUMPY] is None
    monkeypatch.setenv(isa.NUMPY, "AVX512_SPR, X86_V4")  # which it therefore did not find
    assert isa.environment("avx2")[isa.NUMPY] == "AVX512_ICL AVX512_SPR X86_V4"
    monkeypatch.delenv(isa.NUMPY)
    found[:] = ["X86_V3"]
    assert isa.environment("avx2")[isa.NUMPY] is None


@needs_avx2
def test_our_contenders_keep_to_what_they_are_told(monkeypatch):
    """OpenBLAS by a core of which the shell knows nothing; the kernels in C for one of them alone."""
    for name, value in (("OPENBLAS_CORETYPE", "Nehalem"), ("MINIRES_ISA", "sse2"), ("MINIRES_KERNELS", "numpy")):
        monkeypatch.setenv(name, value)
    by_default, held = told(contenders.OURS), told(contenders.OURS, "avx2")
    assert {t["OpenBLAS"] for t in held.values()} == {"Haswell"}
    assert "Nehalem" not in {t["OpenBLAS"] for t in by_default.values()}
    assert all(t["minires"].startswith("NumPy") for name, t in held.items() if name != "ours")
    if _kernels is not None:
        assert "avx2" in held["ours"]["minires"]
        assert by_default["ours"]["minires"].startswith("compiled kernels")
        assert "sse2" not in by_default["ours"]["minires"]
    assert os.environ["OPENBLAS_CORETYPE"] == "Nehalem"


@needs_avx2
@pytest.mark.parametrize("library", ["torch", "onnxruntime"])
def test_peers_tell_what_they_use(monkeypatch, library):
    pytest.importorskip(library)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    expected = {"torch": {"PyTorch": "AVX2"}, "onnxruntime": {"onnxruntime": "chooses for itself"}}[library]
    assert told([library], "avx2")[library] == expected
    if library == "torch":
        assert told([library])[library]["PyTorch"] != "DEFAULT"  # the shell's variable is taken away


def test_a_set_that_the_processor_lacks(monkeypatch):
    monkeypatch.setattr(isa, "flags", lambda: ["avx2", "fma", "sse4_2"])
    isa.check("default")
    isa.check("avx2")
    with pytest.raises(ConfigError, match="avx512bw"):
        isa.check("avx512")


def test_records_name_their_set():
    assert isa.name({"options": {}}) == isa.name({}) == ""  # older ones
    assert isa.name({"options": {"isa": "default"}, "flags": ["avx2", "fma"]}) == "AVX2"
    assert isa.name({"options": {"isa": "default"}} | WIDE) == "AVX-512"
    held = {"options": {"isa": "avx2"}} | WIDE
    assert isa.name(held) == "AVX2"
    assert isa.exception(held | {"contender": "torch"}) == ""
    assert isa.exception(held | {"contender": "onnxruntime"}) == " (AVX-512)"
    assert isa.exception({"contender": "onnxruntime", "options": {"isa": "default"}} | WIDE) == ""


def test_onnxruntime_does_not_train():
    with pytest.raises(Unavailable, match="for inference"):
        contenders.build("onnxruntime", "training", OPTIONS)
