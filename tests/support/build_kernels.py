"""The compiled kernels, built with flags of one's own, and tests run over that build.

python tests/support/build_kernels.py build -O1 -DMINIRES_WIDE             # prints the file
python tests/support/build_kernels.py FILE tests/fast/test_kernels_cpu.py  # pytest, with FILE in the extension's place
"""

import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "minires/fast/cpu"
COMPILED = [FOLDER / f"{name}.c" for name in ("module", "base", "avx2", "avx512")]
NAME = "minires.fast.cpu._kernels"
FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-pthread", "-shared", "-fPIC", "-w"]


def build(*flags: str) -> Path:
    """The shared object, in the temporary folder; made once for the same sources and flags."""
    compiler = os.environ.get("CC", "cc").split()
    sources = [source.read_bytes() for source in sorted(FOLDER.glob("*.[ch]"))]
    key = hashlib.sha256(repr((compiler, FLAGS, flags, sources)).encode()).hexdigest()
    library = Path(tempfile.gettempdir(), f"minires-cpu-{key}.so")
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            part, include = Path(folder, "kernels.so"), f"-I{sysconfig.get_path('include')}"
            subprocess.run([*compiler, *FLAGS, *flags, include, *COMPILED, "-o", part], check=True)
            part.replace(library)  # whole, also where several are at it
    return library


def load(library: Path) -> None:
    """Put it in the place of the extension; before anything imports minires."""
    loader = ExtensionFileLoader(NAME, str(library))
    sys.modules[NAME] = module_from_spec(spec_from_loader(NAME, loader))
    loader.exec_module(sys.modules[NAME])


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "build":
        print(build(*rest))
    else:
        load(Path(what))
        import pytest

        sys.exit(pytest.main(rest))
