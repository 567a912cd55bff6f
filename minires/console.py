"""The two consoles: stdout carries results, stderr all that is said on the way, so that `--json` output stays clean."""

from rich.console import Console

out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(soft_wrap=True, highlight=False, markup=False, stderr=True)
