"""What several seeds gave: the numbers of a lesson's claims seed by seed, kept in spreads.json beside this file.

`minires lesson 8 --repeat 5 --keep` measures and keeps them; the column "five seeds gave" and the README's table are
made of them. A record is about the knobs that it was measured at; each lesson has one for its defaults.
"""

import json
import re
from functools import cache
from pathlib import Path

from minires.files import write_text

FILE = Path(__file__).with_name("spreads.json")
SEEDS = ("seed", "seeds", "data")  # no part of what a record is about; of the data it notes only that they are others


def kept(number: int) -> dict:
    """What is kept of a lesson: {"records": [...], "seconds": of a run with its defaults, where noted}."""
    return _read().get(str(number), {"records": []})


def keep(number: int, *, record: dict | None = None, seconds: float | None = None, answers: dict | None = None) -> None:
    """Keep a record {"command", "versions", "knobs", "claims"} in place of that for the same knobs, or the seconds, or
    the numbers of the lesson's answers, by name (answers.py).

    knobs: those that differ from the defaults. claims: text -> {"bound", "values": a number for each seed}.
    """
    _read.cache_clear()  # another process may have written meanwhile
    lesson = kept(number)
    if record is not None:
        others = [r for r in lesson["records"] if r["knobs"] != record["knobs"]]
        lesson["records"] = sorted([record, *others], key=lambda r: len(r["knobs"]))
    if seconds is not None:
        lesson["seconds"] = round(seconds, 1)
    if answers is not None:
        lesson["answers"] = answers
    whole = dict(sorted((_read() | {str(number): lesson}).items(), key=lambda item: int(item[0])))
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    write_text(FILE, re.sub(r"\[\s+([^]\[{}]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")
    _read.cache_clear()


def values(number: int, knobs: dict, defaults: dict) -> dict[str, list[float]]:
    """Claim -> what each seed gave, at these knobs; where they were not measured, at those nearest to the defaults."""
    changed, records = changes(knobs, defaults), kept(number)["records"]
    fits = [r for r in records if r["knobs"] == changed] or records[:1]
    return {text: claim["values"] for text, claim in fits[0]["claims"].items()} if fits else {}


def takes(number: int) -> str:
    """The time of a run with the defaults: '17 s', or '' where it was not noted."""
    seconds = kept(number).get("seconds")
    return "" if seconds is None else "< 1 s" if seconds < 1 else f"{seconds:.0f} s"


def changes(knobs: dict, defaults: dict) -> dict:
    """The knobs that differ from the defaults, seeds apart, as JSON has them; of the data only that they are others."""
    found = {k: v for k, v in knobs.items() if k not in SEEDS and v != defaults.get(k)}
    if knobs.get("data") != defaults.get("data"):
        found["data"] = "photographs"
    return json.loads(json.dumps(found))


@cache
def _read() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
