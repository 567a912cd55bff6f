"""The two consoles: stdout carries results, stderr all that is said on the way, so that `--json` output stays clean."""

import json
import math

from rich.console import Console

out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(soft_wrap=True, highlight=False, markup=False, stderr=True)


def print_json(value) -> None:
    """Results for programs, on stdout. JSON has no NaN and no infinity: they become null."""
    print(json.dumps(_finite(value), allow_nan=False))


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
