"""The table of the lessons in their README, from what is kept of them: `python -m minires.lessons.table`."""

import re

from minires.lessons import spreads
from minires.lessons.harness import discover, spread
from minires.lessons.headlines import HEADLINES
from minires.lessons.prose import readable

HEAD = ("", "lesson", "what is asserted", "five seeds one by one: mean (smallest..largest)", "bound", "time")


def table() -> str:
    """One row a lesson: its headline claims, what the seeds gave, the bound, the time of a run with its defaults."""
    rows = [HEAD, ["---"] * len(HEAD), *(_row(module.LESSON) for module in discover())]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


def _row(lesson) -> list[str]:
    claims = spreads.kept(lesson.number)["records"][0]["claims"]
    chosen = [(text, claim) for text, claim in claims.items() if re.match(HEADLINES[lesson.number], text)]
    columns = zip(*((readable(text), spread(c["values"]), c["bound"] or "reported") for text, c in chosen), strict=True)
    cells = ["<br>".join(column).replace("|", "\\|") for column in columns]
    return [str(lesson.number), lesson.title, *cells, spreads.takes(lesson.number)]


if __name__ == "__main__":
    print(table())
