"""Packaging entry point; every setting stands in pyproject.toml."""

from setuptools import setup

setup()
