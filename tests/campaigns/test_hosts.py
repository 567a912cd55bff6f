"""A host is lost in mid-training: a try of the campaign; by its arguments it goes on for hours."""

import subprocess
import sys
from pathlib import Path

import pytest
from demand import on_demand
from minires.benchmarks import hosts

HERE = Path(__file__).parent


@pytest.mark.slow
@on_demand
@pytest.mark.parametrize("tries", ["--host 3 --cut silent", "--tries 2"])
def test_a_run_survives_the_loss_of_a_host(tries):
    if reason := hosts.reason_against():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, HERE / "hosts.py", *tries.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
