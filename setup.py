"""Packages and the compiled kernels; every other setting stands in pyproject.toml. The folder `lessons` is installed as
`minires.lessons`, `benchmarks` as `minires.benchmarks`.

Without a C compiler the kernels are left out: everything then runs on NumPy, and `minires doctor` says so.
"""

from setuptools import Extension, find_packages, setup

BESIDE = ("lessons", "benchmarks")
CPU = "minires/fast/cpu"

kernels = Extension(
    "minires.fast.cpu._kernels",
    [f"{CPU}/module.c"],
    depends=[f"{CPU}/{name}" for name in ("kernels.c", "winograd.c", "passes.c", "geometry.h")],
    # the loops that matter are unrolled by hand: -O3 is no faster and takes twice as long to compile
    extra_compile_args=["-O2", "-fno-math-errno", "-fno-trapping-math", "-pthread"],
    extra_link_args=["-pthread"],
    py_limited_api=True,
    optional=True,
)

setup(
    packages=[
        *find_packages(include=["minires*"]),
        *(f"minires.{name}" for folder in BESIDE for name in find_packages(include=[f"{folder}*"])),
    ],
    package_dir={f"minires.{folder}": folder for folder in BESIDE},
    ext_modules=[kernels],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
