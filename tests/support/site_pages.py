"""A small site for the tests, built once: three lessons in their quick form, two of them with sliders; and another."""

import functools
import json
import tempfile
from pathlib import Path

from minires.lessons.harness import judged, load
from minires.lessons.site import grid
from minires.lessons.site.build import build
from minires.lessons.site.results import Job

LESSONS = (1, 3, 4)
OTHERS = (5, 6)  # of a site for the browser alone
_kept = []


@functools.cache
def small_site(lessons=LESSONS) -> Path:
    """The folder; it lives as long as the tests run."""
    _kept.append(tempfile.TemporaryDirectory(prefix="minires-site-"))
    folder = Path(_kept[-1].name) / "pages"
    assert build(folder, lessons=lessons, quick=True) == []
    return folder


def page(number: int) -> str:
    return (small_site() / f"lesson-{number:02}.html").read_text(encoding="utf-8")


def kept(job: Job) -> dict:
    """The result that the site keeps of a measurement."""
    return json.loads((small_site() / "data" / job.file).read_text(encoding="utf-8"))["result"]


def claims(number: int) -> list:
    """What the lesson's own check says of the kept result."""
    module = load(number)
    return judged(module.check, kept(Job.of(number, module.LESSON.quick)))


def cells(number: int) -> dict:
    """The sliders' data, made anew from the kept results."""
    return grid.view(number, [kept(job) for job in grid.jobs(number, quick=True)])
