"""A cause that a diagnosis names, and in which order causes are named."""

from dataclasses import dataclass, field

# What lies further up explains what lies below it: labels that are mixed up also make a loss that does not fall.
AREAS = (
    "files",
    "numbers",
    "data",
    "network",
    "gradient",
    "inference",
    "normalisation",
    "optimisation",
    "speed",
)
SURE, LIKELY, POSSIBLE = 3, 2, 1


@dataclass(frozen=True)
class Cause:
    """One cause of trouble. level: SURE (shown), LIKELY (the evidence points to it), POSSIBLE (it may be intended)."""

    name: str
    area: str
    level: int
    evidence: str
    fix: str
    show: dict = field(default_factory=dict, repr=False, compare=False)  # what picture.py draws of it

    @property
    def sure(self) -> str:
        """The level in a word."""
        return {SURE: "shown", LIKELY: "likely", POSSIBLE: "possible"}[self.level]

    @property
    def status(self) -> str:
        """'fail' where something is wrong, 'warn' where it may be."""
        return "fail" if self.level > POSSIBLE else "warn"


def ordered(causes: list[Cause]) -> tuple[Cause, ...]:
    """The likeliest first; of equals what lies further up. One of a name."""
    best = {}
    for cause in sorted(causes, key=lambda c: (-c.level, AREAS.index(c.area))):
        best.setdefault(cause.name, cause)
    return tuple(best.values())
