"""Packages and the compiled kernels; every other setting stands in pyproject.toml. The folder `lessons` is installed as
`minires.lessons`, `benchmarks` as `minires.benchmarks`.

Without a C compiler the kernels are left out: everything then runs on NumPy, and `minires doctor` says so.
"""

import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

BESIDE = ("lessons", "benchmarks")
KEPT_BACK = ("lessons.exercises.solutions",)  # a checkout has them, an installed package does not show them at a glance
CPU = "minires/fast/cpu"

kernels = Extension(
    "minires.fast.cpu._kernels",
    [f"{CPU}/{name}.c" for name in ("avx512", "avx2", "base", "module")],
    depends=sorted(map(str, Path(CPU).glob("*.[ch]"))),
    # the loops that matter are unrolled by hand: -O3 is no faster and takes twice as long to compile
    # and vectorised by hand: GCC would put the pointers to a tile's rows into vectors, and take them out again
    extra_compile_args=[
        *("-O2", "-g0", "-fno-math-errno", "-fno-trapping-math", "-fno-tree-slp-vectorize"),
        *("-fvisibility=hidden", "-pthread"),
    ],
    extra_link_args=["-pthread"],
    py_limited_api=True,
    optional=True,
)


class Build(build_ext):
    """Compile the sources side by side; in a checkout keep the result beside them, until one is newer."""

    def build_extensions(self):
        compile_all = self.compiler.compile

        def side_by_side(sources, **options):
            with ThreadPoolExecutor() as pool:
                compiled = pool.map(lambda source: compile_all([source], **options), sources)
            return [made for objects in compiled for made in objects]

        self.compiler.compile = side_by_side
        super().build_extensions()

    def build_extension(self, ext):
        beside, sources = Path(self.get_ext_filename(ext.name)), [*ext.sources, *ext.depends, __file__]
        if self.editable_mode and beside.exists():
            if beside.stat().st_mtime > max(Path(source).stat().st_mtime for source in sources):
                target = Path(self.get_ext_fullpath(ext.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(beside), str(target))
                return
            beside.unlink()  # for good, should there be no compiler any more
        super().build_extension(ext)


setup(
    packages=[
        *find_packages(include=["minires*"]),
        *(f"minires.{name}" for folder in BESIDE for name in find_packages(include=[f"{folder}*"], exclude=KEPT_BACK)),
    ],
    package_dir={f"minires.{folder}": folder for folder in BESIDE},
    ext_modules=[kernels],
    cmdclass={"build_ext": Build},
    # one wheel for Python 3.11 and all that follow; without the GIL there is no limited API yet, and no kernels
    options={} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
