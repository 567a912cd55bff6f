"""The pages for a class: each exercise with its file and its hints, a list of them, the teacher's guide."""

import ast
import html
import re
import textwrap
from collections.abc import Collection
from itertools import groupby

from minires.lessons import teaching
from minires.lessons.exercises import Exercise, exercises
from minires.lessons.exercises.faults import deck
from minires.lessons.site.code import coloured
from minires.lessons.site.pages import fill
from minires.lessons.site.prose import inline, prose, source, task_page
from minires.lessons.sources import NAMED


def exercise_page(task: Exercise, pages: Collection[int]) -> str:
    """Without its frame. pages: the lessons that the site has."""
    unit = teaching.EXERCISES[task.number]
    mentioned = ", ".join(f"lesson {n}" for n in unit.lessons)
    return fill(
        "exercise.html",
        number=str(task.number),
        title=html.escape(_title(task)),
        about=inline(f"Belongs to {mentioned}; about {unit.minutes} minutes. It presumes: {unit.presumes}.", pages),
        statement=statement(task.statement.partition("\n")[2]),
        name=html.escape(task.path.name),
        code=coloured(_below(task.text)),
        hints=_ladder(task.checks.HINTS),
        checks=", ".join(task.checks.CHECKS),
        variants=_variants(task),
        turn=_turn(task),
    )


def _title(task: Exercise) -> str:
    return task.title[0].upper() + task.title[1:]


def statement(text: str) -> str:
    """The docstring of a file: lines from the left edge on are prose, indented ones are shown as they stand."""
    parts, blocks = [], groupby(text.strip("\n").splitlines(), key=lambda line: line.startswith("    ") or not line)
    for indented, lines in blocks:
        whole = textwrap.dedent("\n".join(lines)).strip("\n")
        if indented and whole:
            label = f"As it stands, {1 + len(parts)}"
            parts.append(f'<pre class="code" tabindex="0" role="region" aria-label="{label}">{_linked(whole)}</pre>')
        elif whole:
            parts += [f"<p>{_said(line)}</p>" for line in re.split(r"\n(?=\d\. )", whole)]
    return "\n".join(parts)


def _linked(text: str) -> str:
    """Plain text with its sources as links."""
    return re.sub(NAMED, lambda found: source(html.unescape(found[0])), html.escape(text, quote=False))


def _variants(task: Exercise) -> str:
    """How to have another fault, where there are others."""
    if not (count := len(deck(task))):
        return ""
    command = f"minires exercise {task.number} --seed 1"
    return f"<p>Found it? There are {count} such faults: <code>{command}</code> writes the file with another one.</p>"


def _said(text: str) -> str:
    """The same with its code set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _linked(text))


def _below(text: str) -> str:
    """The file without the docstring, which is above it on the page."""
    end = ast.parse(text).body[0].end_lineno
    return "\n".join(text.splitlines()[end:]).strip("\n")


def _ladder(hints: Collection[str]) -> str:
    """Folded, each within the one before it."""
    ladder = ""
    for number, hint in reversed(list(enumerate(hints, 1))):
        ladder = f"<details><summary>Hint {number} of {len(hints)}</summary><p>{_said(hint)}</p>{ladder}</details>"
    return ladder


def _turn(task: Exercise) -> str:
    others = {other.number: other for other in exercises()}
    near = (("prev", "Before", task.number - 1), ("next", "Next", task.number + 1))
    return "".join(
        f'<a rel="{rel}" href="{task_page(n)}"><small>{word}</small>{html.escape(_title(others[n]))}</a>'
        for rel, word, n in near
        if n in others
    )


def exercise_list(pages: Collection[int]) -> str:
    """All exercises, without the frame."""
    rows = []
    for task in exercises():
        unit = teaching.EXERCISES[task.number]
        link = f'<a href="{task_page(task.number)}">{html.escape(_title(task))}</a>'
        lessons = inline(", ".join(f"lesson {n}" for n in unit.lessons), pages)
        rows.append((str(task.number), link, lessons, f"{unit.minutes} min", teaching.LEVELS[unit.level]))
    return fill("exercises.html", table=_table(("no.", "exercise", "belongs to", "about", "level"), rows, "exercises"))


def guide(pages: Collection[int]) -> str:
    """The teacher's guide, without the frame."""
    parts = []
    for i, (heading, body) in enumerate(teaching.sections()):
        if isinstance(body, str):
            text = f'<div class="prose">{prose(body, pages)}</div>'
        else:
            head, *rows = [[_tasks(inline(cell, pages)) for cell in row] for row in body]
            text = _table(head, rows, heading)
        wide = "" if isinstance(body, str) else ' class="wide"'
        parts.append(
            f'<section{wide} aria-labelledby="part{i}"><h2 id="part{i}">{html.escape(heading)}</h2>{text}</section>'
        )
    return fill("guide.html", sections="\n".join(parts))


def _tasks(text: str) -> str:
    """'exercise 7' as a link to it."""
    return re.sub(r"exercise (\d+)", lambda found: f'<a href="{task_page(int(found[1]))}">{found[0]}</a>', text)


def _table(head, rows, label: str) -> str:
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="sheet" tabindex="0" role="region" aria-label="Table: {html.escape(label)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )
