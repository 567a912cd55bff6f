"""Build the site: measure what is missing, then write every page."""

import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path

import numpy as np
from minires.lessons.exercises import exercises
from minires.lessons.harness import apart, discover, judged, load
from minires.lessons.site import classroom, grid, pages
from minires.lessons.site.picture import Picture, picture
from minires.lessons.site.prose import page_name, task_page
from minires.lessons.site.results import Job, measured

from minires.data import make_signs
from minires.errors import DataError
from minires.files import write_text
from minires.instruments.step.page import write_page
from minires.instruments.step.tape import record
from minires.nn import plain_twin, resnet
from minires.train import Classifier

STEPPED = "resnet20"  # and its plain twin, on the stepper's page


def build(
    out: Path, *, lessons: Sequence[int] = (), quick: bool = False, say: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Write the site of these lessons (default: all) to the folder `out`; returns the claims that do not hold.

    quick: the lessons' quick form and a coarser grid. say: told what is being done. Measurements are kept in
    `out`/data and used again as long as the source code, NumPy and Python are the same. Raises DataError where the
    folder cannot be written or holds something else, ConfigError for a lesson that does not exist.
    """
    modules = [load(n) for n in dict.fromkeys(lessons)] if lessons else discover()
    _prepare(out)
    own = {m: Job.of(m.LESSON.number, m.LESSON.quick if quick else {}) for m in modules}
    turned = {m: grid.jobs(m.LESSON.number, quick) for m in modules}
    found = measured([*own.values(), *(job for jobs in turned.values() for job in jobs)], out / "data", say)
    made = {"command": _command(), "versions": found[own[modules[0]]]["provenance"]["versions"]}
    entries, failures = [], []
    for module in modules:
        lesson, result = module.LESSON, found[own[module]]
        say(f"drawing the page of lesson {lesson.number}")
        claims = judged(module.check, result["result"])
        failures += [f"lesson {lesson.number}: {c.text}: {c.measured}, bound {c.bound}" for c in claims if c.failed]
        drawn, phone = picture(module.plot(result["result"])), _for_phone(module.plot, result["result"])
        explorer = grid.view(lesson.number, [found[job]["result"] for job in turned[module]])
        for form, one in (("", drawn), ("_phone", phone)):
            if one is not None:
                write_text(out / pages.picture_name(lesson.number, form), one.svg)
        others = [m.LESSON for m in modules]
        named = result | {"file": own[module].file}
        elsewhere = apart(module.measure, own[module].knobs)
        seen = pages.figure(lesson, drawn, phone, {other.number for other in others}, elsewhere)
        main = pages.lesson_page(lesson, named, claims, seen, explorer, others)
        text = pages.frame(f"{lesson.title} · minires", lesson.question, main, made=made)
        write_text(out / page_name(lesson.number), text)
        entries.append((lesson, claims, drawn))
    say("writing the exercises and the guide for teachers")
    numbers = {module.LESSON.number for module in modules}
    for name, (title, about, main) in _classroom(numbers).items():
        write_text(out / name, pages.frame(f"{title} · minires", about, main, made=made))
    say("recording a network for the stepper")
    _write_stepper(out / "stepper.html", "resnet8" if quick else STEPPED)
    description = "Lessons on residual networks: how gradients flow in them, and how fast they can be."
    index = pages.frame("minires: lessons on residual networks", description, pages.gallery(entries), made=made)
    write_text(out / "index.html", index)
    return failures


def _classroom(numbers: set[int]) -> dict[str, tuple[str, str, str]]:
    """File -> (title, description, main part) of the pages for a class."""
    found = {
        "exercises.html": ("Exercises", "Exercises that check themselves.", classroom.exercise_list(numbers)),
        "teachers.html": ("For teachers", "The lessons in a class.", classroom.guide(numbers)),
    }
    for task in exercises():
        page = (f"Exercise {task.number}", task.title, classroom.exercise_page(task, numbers))
        found[task_page(task.number)] = page
    return found


def _for_phone(plot, result: dict) -> Picture | None:
    """The picture once more, narrow, where the lesson can draw it so."""
    return picture(plot(result, narrow=True)) if "narrow" in signature(plot).parameters else None


def _prepare(out: Path) -> None:
    index = out / "index.html"
    try:
        if index.exists() and 'name="generator" content="minires' not in index.read_text("utf-8", errors="replace"):
            raise DataError(f"{index}: holds a page that is not of this site: choose an empty folder")
        for room in ("data", "pictures"):
            (out / room).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: the folder cannot be used ({error.strerror}): choose another") from None


def _command() -> str:
    return f"minires {' '.join(sys.argv[1:])}"


def _write_stepper(path: Path, arch: str) -> None:
    """The network and its plain twin from the same weights, on eight built-in signs."""
    signs, _ = make_signs(n_train=8, n_test=1)
    images = signs.images(np.arange(len(signs)))
    model = resnet(arch, signs.shape, len(signs.classes))
    classifier = Classifier.for_data(model, signs)
    tapes = [
        record(m, classifier.preprocess(images), signs.labels, classes=signs.classes, image=images[0])
        for m in (model, plain_twin(model))
    ]
    write_page(*tapes, path, note=_command(), home="index.html")
