"""A short round of side_by_side.py; by its arguments, or MINIRES_SECONDS, it goes on for hours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from demand import on_demand

SECONDS = os.environ.get("MINIRES_SECONDS", "2")


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["auto", pytest.param("numpy", marks=on_demand)])
def test_at_once_is_as_alone(kernels):
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("side_by_side.py"), "--seconds", SECONDS]
    environment = {**os.environ, "MINIRES_KERNELS": kernels, "MINIRES_THREADS": "2"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(result.stdout.splitlines()) >= 7
