"""Packages; every other setting stands in pyproject.toml. The folder `lessons` is installed as `minires.lessons`."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["minires*"]),
        *(f"minires.{name}" for name in find_packages(include=["lessons*"])),
    ],
    package_dir={"minires.lessons": "lessons"},
)
