"""What the tests of the gradient check's causes share."""


def faults(report) -> dict[str, str]:
    """What it calls a fault, by name."""
    return {f.name: f.detail for f in report.findings if f.status == "fail"}


def one_fault(report) -> tuple[str, str]:
    """The only fault's name and words; a healthy report has none, and the test fails."""
    ((name, detail),) = faults(report).items()
    return name, detail
