"""What an instrument found, a line each, with the fixes: for the doctors, the audit and the gradient check."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. status: 'ok', 'warn' (works, but) or 'fail'; fix: what to do, where not ok."""

    name: str
    status: str
    detail: str
    fix: str = ""


def print_findings(console: Console, findings: list[Finding]) -> None:
    """A table of the findings, then the fixes in full, so that they can be copied."""
    marks = {"ok": Text("ok", "green"), "warn": Text("warn", "yellow"), "fail": Text("FAIL", "bold red")}
    table = Table(show_edge=False)
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        table.add_row(marks[finding.status], Text(finding.name), Text(finding.detail))
    console.print(table)
    for finding in findings:
        if finding.status != "ok":
            console.print(Text.assemble("\n", marks[finding.status], f" {finding.name}: ", finding.fix))
    counts = {status: sum(f.status == status for f in findings) for status in marks}
    console.print(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} to mend")
