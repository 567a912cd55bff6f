"""Proofs that take minutes each and hold whatever is edited from day to day: they run where MINIRES_ALL is set."""

import os

import pytest

ALL = "MINIRES_ALL" in os.environ
on_demand = pytest.mark.skipif(not ALL, reason="takes minutes: MINIRES_ALL=1")
