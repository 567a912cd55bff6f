"""One instruction set for all sides of a comparison: `minires bench step --isa avx2`.

What a processor has differs from machine to machine, and which of it a library uses from library to library. Each is
held to a set by variables of its own, which it reads once, when it is loaded: the harness sets them in a contender's
process before anything is imported. "default" holds nobody to anything, and takes away what the shell has set of these
variables, since one alone would slow down one side.
"""

import os
import re
import sys
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from minires.errors import ConfigError

NAMES = {"avx2": "AVX2", "avx512": "AVX-512"}
CHOICES = ("default", *NAMES)
# what PyTorch, oneDNN and onnxruntime ask of a processor before they take their kernels
FLAGS = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
NUMPY = "NPY_DISABLE_CPU_FEATURES"
VARIABLES = {
    "avx2": {
        "MINIRES_ISA": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",  # torch.compile reads it too
        "ONEDNN_MAX_CPU_ISA": "AVX2",  # in PyTorch and in TensorFlow
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "MINIRES_ISA": "avx512",
        "OPENBLAS_CORETYPE": "SkylakeX",
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}


def flags() -> list[str]:
    """The vector instructions of this processor, as Linux calls them; none where the system does not tell."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return sorted(word for word in words if re.match(r"(sse4_|avx|fma$|f16c$|amx)", word))


def check(isa) -> None:
    """ConfigError where this processor is not known to have the set."""
    if missing := FLAGS.get(isa, set()) - set(flags()):
        told = f"this processor has no {', '.join(sorted(missing))}" if flags() else "only Linux tells what a CPU has"
        raise ConfigError(f"--isa {isa}: {told}: choose another, or default")


def environment(isa="default") -> dict[str, str | None]:
    """The variables of a process that keeps to the set; None: not set."""
    every = dict.fromkeys([NUMPY, *(name for chosen in VARIABLES.values() for name in chosen)])
    return every | VARIABLES.get(isa, {}) | ({NUMPY: _beyond_avx2()} if isa == "avx2" else {})


def _beyond_avx2() -> str | None:
    """What NumPy has to leave out: it warns of names that it does not know, so only those that it found here."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    already = re.split(r"[ ,]+", os.environ.get(NUMPY, ""))  # and therefore not found
    return " ".join(sorted({*already, *(f for f in found if f.startswith(("AVX512", "X86_V4")))} - {""})) or None


def print_choice(isa, has) -> None:
    """What the contenders may use, what the processor has, and which variables of the shell they do not see."""
    print(f"Instructions: {NAMES.get(isa, 'as each library chooses')}; the processor has {' '.join(has) or 'not told'}")
    if shadowed := [f"{k}={os.environ[k]}" for k, v in environment(isa).items() if os.environ.get(k, v) != v]:
        print(f"Not taken over from the shell: {' '.join(shadowed)}; --isa sets them for all")
    print()


def reported() -> dict[str, str]:
    """What the libraries in this process say that they use."""
    if "torch" in sys.modules:
        return {"PyTorch": sys.modules["torch"].backends.cpu.get_cpu_capability()}
    if "onnxruntime" in sys.modules:
        return {"onnxruntime": "chooses for itself"}  # MLAS asks the processor and reads no variable
    if "tensorflow" in sys.modules:
        return {"TensorFlow": "does not tell"}
    from minires.fast.cpu import description

    cores = [lib["architecture"] for lib in threadpool_info() if lib["internal_api"] == "openblas"]
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return {"minires": description(), "OpenBLAS": ", ".join(cores), "NumPy": ", ".join(found)}


def widest(record) -> str:
    """The widest set that the processor has, in words; nothing for older records, which do not tell."""
    has = set(record.get("flags", ()))
    return ["", *(NAMES[isa] for isa in NAMES if FLAGS[isa] <= has)][-1]


def name(record) -> str:
    """The set in words: what was asked for, else the widest that the processor has."""
    return NAMES.get(record.get("options", {}).get("isa")) or widest(record)


def exception(record) -> str:
    """In brackets the set of a contender that could not be held to the one asked for."""
    held = record["contender"] != "onnxruntime" or name(record) == widest(record)
    return "" if held else f" ({widest(record)})"
