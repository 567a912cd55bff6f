"""Packages; every other setting stands in pyproject.toml. The folder `lessons` is installed as `minires.lessons`,
`benchmarks` as `minires.benchmarks`."""

from setuptools import find_packages, setup

BESIDE = ("lessons", "benchmarks")

setup(
    packages=[
        *find_packages(include=["minires*"]),
        *(f"minires.{name}" for folder in BESIDE for name in find_packages(include=[f"{folder}*"])),
    ],
    package_dir={f"minires.{folder}": folder for folder in BESIDE},
)
