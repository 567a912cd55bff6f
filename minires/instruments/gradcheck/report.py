"""What a gradient check says: its stencils, its findings, and how both depend on epsilon."""

from dataclasses import asdict, dataclass

from rich import box
from rich.table import Table

from minires.console import Shown
from minires.instruments.findings import Finding


@dataclass(frozen=True)
class Check:
    """One stencil. where: 'direction' or an index; error: relative to the norm of the gradient."""

    tensor: str
    where: str
    epsilon: float
    numeric: float
    analytic: float
    error: float
    ok: bool


@dataclass(frozen=True)
class Report(Shown):
    """What the stencils said. findings: status 'fail' is a wrong gradient, 'warn' what to know about the check.

    Where there was nothing to judge, as of a forward that is not finite, `checks` is empty and a finding says why.
    """

    title: str
    mode: str
    epsilon: float
    tolerance: float
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    layers: int = 0  # checked one by one, each on the input and the gradient that it meets in the network

    @property
    def ok(self) -> bool:
        """Whether every gradient is right."""
        return not any(f.status == "fail" for f in self.findings)

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max((c.error for c in self.checks), default=0.0 if self.ok else float("inf"))

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self) | {"ok": self.ok, "worst": self.worst}

    def table(self, most: int = 24) -> Table:
        """One row a tensor with its worst stencil; of many, the worst ones."""
        rows: dict[str, list[Check]] = {}
        for check in self.checks:
            rows.setdefault(check.tensor, []).append(check)
        ranked = sorted(rows, key=lambda name: -max(c.error for c in rows[name]))[:most]
        title = f"{self.title}: {'right' if self.ok else 'WRONG'}"
        look = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
        table = Table(title=title, title_justify="left", **look)
        table.caption = f"{self.mode} mode, epsilon {self.epsilon:g}, tolerance {self.tolerance:g}" + (
            f", {self.layers} layers one by one" if self.layers else ""
        )
        if len(ranked) < len(rows):
            table.caption += f"; the {most} worst of {len(rows)} tensors"
        verdict = [] if self.ok else [{True: "ok", False: "WRONG"}]
        for heading in ["gradient of", "checks", "numeric", "analytic", "error", "worst at", *("" for _ in verdict)]:
            left = heading in ("gradient of", "worst at")
            # a name stays whole in 80 columns; what is long is a place, which may go on in the next line
            table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "worst at")
        for name in (name for name in rows if name in ranked):
            worst = max(rows[name], key=lambda c: (not c.ok, c.error))
            numbers = f"{worst.numeric:.4g}", f"{worst.analytic:.4g}", f"{worst.error:.1e}"
            table.add_row(name, str(len(rows[name])), *numbers, worst.where, *(words[worst.ok] for words in verdict))
        return table


@dataclass(frozen=True)
class Sweep:
    """How the error of the check depends on epsilon. rows: epsilon, error (median), worst, crossed (a share)."""

    title: str
    dtype: str
    seed: int
    rows: tuple[dict, ...]

    @property
    def best(self) -> float:
        """The epsilon of the smallest error."""
        return min(self.rows, key=lambda row: row["error"])["epsilon"]

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self) | {"best": self.best}
