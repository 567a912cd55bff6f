"""A short round of the campaigns; by their arguments they go on for hours."""

import subprocess
import sys
from pathlib import Path

import pytest
from demand import on_demand

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "blows",
    [
        "--kills 1 --full 1",
        pytest.param("--kills 1 --stops 1 --readonly 1 --together 1", marks=on_demand),
        pytest.param("--kills 8 --stops 2 --full 4 --readonly 3 --together 1", marks=on_demand),
    ],
)
def test_nothing_is_lost(blows):
    command = [sys.executable, HERE / "kills.py", "--slow", "0.03", *blows.split()]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "SIGKILL" in ended.stdout
