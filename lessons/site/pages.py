"""The pages' HTML: templates with {{names}}, filled by what a lesson says and measured."""

import html
import json
import re
from collections.abc import Collection, Sequence
from importlib.resources import files

from minires.lessons import shown, teaching
from minires.lessons.answers import ANSWERS, answer
from minires.lessons.harness import Claim, Lesson, number
from minires.lessons.headlines import HEADLINES
from minires.lessons.site.code import source
from minires.lessons.site.explorer import key
from minires.lessons.site.picture import Picture
from minires.lessons.site.prose import command, inline, page_name, prose, task_page

NARROW = "(max-width: 46rem)"  # as in style.css


def fill(template: str, **values: str) -> str:
    """The template's text with each {{name}} replaced; what is put in is not read again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _read(template))


def _read(name: str, room: str = "minires.lessons.site") -> str:
    return files(room).joinpath(name).read_text(encoding="utf-8")


def frame(title: str, description: str, main: str, *, made: dict) -> str:
    """A whole page around `main`. made: the site's provenance."""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return fill(
        "frame.html",
        title=html.escape(title),
        description=html.escape(description),
        main=main,
        version=html.escape(made["versions"]["minires"]),
        command=command(made["command"]),
        versions=html.escape(versions),
        style=_read("shared.css", "minires.instruments") + _read("style.css"),
        script=_read("shared.js", "minires.instruments"),
    )


def lesson_page(
    lesson: Lesson, record: dict, claims: list[Claim], seen: str, explorer: dict, others: Sequence[Lesson]
) -> str:
    """The page of one lesson, without its frame. seen: its `figure`; others: all lessons of the site in order."""
    pages = {other.number for other in others}
    return fill(
        "lesson.html",
        number=str(lesson.number),
        title=inline(lesson.title),
        question=inline(lesson.question, pages),
        sliders=explore(explorer),
        idea=prose(lesson.idea, pages),
        picture=seen,
        claims=claim_table(claims),
        wrong_if=inline(lesson.wrong_if, pages),
        exercise=prose(lesson.exercise, pages),
        answer=_answer(lesson, pages),
        tasks=_tasks(lesson),
        next_try=html.escape(lesson.next_try),
        code="\n".join(_code(item, i == 0) for i, item in enumerate(lesson.shows)),
        sources="\n".join(f"<li>{inline(text)}</li>" for text in lesson.sources),
        facts=_facts(record, lesson),
        turn=_turn(lesson, others),
        data=_embedded(explorer),
    )


def _answer(lesson: Lesson, pages: Collection[int]) -> str:
    """Folded, for those who tried it."""
    note = f'<p class="note">{html.escape(ANSWERS[lesson.number].note)}</p>'
    text = prose(answer(lesson.number), pages)
    return f'<details class="answer"><summary>The answer</summary><div class="prose">{text}{note}</div></details>'


def _tasks(lesson: Lesson) -> str:
    """Links to the exercises that belong to the lesson."""
    found = teaching.of_lesson(lesson.number)
    links = "".join(f'<li><a href="{task_page(t.number)}">{t.number}. {html.escape(t.title)}</a></li>' for t in found)
    return f'<p>To write and to mend:</p><ul class="tasks">{links}</ul>' if found else ""


def figure(lesson: Lesson, drawn: Picture, phone: Picture | None, pages: Collection[int], elsewhere: str = "") -> str:
    """The picture: whole on a wide screen. On a narrow one its panels below each other, or drawn for it: `phone`.

    elsewhere: what `harness.apart` says of its knobs.
    """
    file, kind, scrolls, panels = picture_name(lesson.number), "", "", ""
    image = _image(drawn, file, drawn.alt)
    if phone is not None:
        size = f'width="{phone.width}" height="{phone.height}"'
        source = f'<source media="{NARROW}" srcset="{picture_name(lesson.number, "_phone")}" {size}>'
        image = f"<picture>{source}{image}</picture>"
    elif len(drawn.panels) > 1:
        kind = " divided"
        parts = "".join(_panel(drawn, box, file) for box in drawn.panels)
        panels = f'<div class="panels" aria-hidden="true">{parts}</div>'
    else:  # a narrow screen scrolls in it, also by keyboard
        kind = " scrolls"
        scrolls = f' tabindex="0" role="group" aria-label="Picture of lesson {lesson.number}"'
    return (
        f'<figure class="picture wide{kind}"><div class="whole"{scrolls}>{image}</div>{panels}'
        f"<figcaption><b>Look for:</b> {inline(lesson.look_for, pages)} {inline(elsewhere)}</figcaption></figure>"
    )


def picture_name(number: int, form: str = "") -> str:
    """The file of a lesson's picture, beside its page."""
    return f"pictures/lesson_{number:02}{form}.svg"


def _image(drawn: Picture, file: str, alt: str, style: str = "") -> str:
    style = f' style="{style}"' if style else ""
    return f'<img src="{file}" width="{drawn.width}" height="{drawn.height}" alt="{html.escape(alt)}"{style}>'


def _panel(drawn: Picture, box: tuple[float, float, float, float], file: str) -> str:
    """A window on a part of the picture, in percentages so that it scales."""
    left, top, width, height = box
    style = f"width:{100 * drawn.width / width:.2f}%;left:{-100 * left / width:.2f}%;top:{-100 * top / height:.2f}%"
    return f'<div class="panel" style="aspect-ratio:{width:.0f}/{height:.0f}">{_image(drawn, file, "", style)}</div>'


def claim_table(claims: list[Claim]) -> str:
    """A row for each claim; the words of the harness, so that page and terminal agree."""
    heads = ("claim", "measured", "bound", "five seeds gave", "verdict")
    rows = [_claim(claim) for claim in claims]
    reasons = dict.fromkeys(claim.skipped for claim in claims if claim.skipped)
    notes = "".join(f'<p class="note">Not judged: {inline(reason)}.</p>' for reason in reasons)
    cells = "".join(f'<th role="columnheader" scope="col">{head}</th>' for head in heads)
    return (
        '<table class="claims" role="table" aria-labelledby="measured">'
        f'<thead role="rowgroup"><tr role="row">{cells}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(rows)}</tbody></table>{notes}'
    )


def _claim(claim: Claim) -> str:
    verdict = claim.verdict if claim.bound or claim.skipped else "reported"
    kind = {"holds": "holds", "FAILS": "fails"}.get(verdict, "skipped")
    cells = {
        "measured": html.escape(number(claim.measured)),
        "bound": html.escape(claim.bound),
        "spread": inline(claim.spread),
        "verdict": verdict,
    }
    row = "".join(f'<td role="cell" class="{name}">{text}</td>' for name, text in cells.items())
    return f'<tr role="row" class="{kind}"><th role="rowheader" scope="row">{inline(claim.text)}</th>{row}</tr>'


def _code(item, opened: bool) -> str:
    name = shown.name(item)
    parts = re.sub("[./]", r"\g<0><wbr>", html.escape(name))  # a long name breaks between its parts
    return (
        f"<details{' open' if opened else ''}><summary><code>{parts}</code></summary>"
        f'<pre class="code" tabindex="0" role="region" aria-label="Source of {html.escape(name)}">'
        f"<code>{source(item)}</code></pre></details>"
    )


def _facts(record: dict, lesson: Lesson) -> str:
    said = record["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
    file = f"data/{record['file']}"
    facts = {
        "Command": f"<code>{command(said['command'])}</code>",
        "First seed": html.escape(str(said["seed"])),
        "Versions": html.escape(versions),
        "Time": f"{record['seconds']:g} s",
        "Numbers": f'<a href="{html.escape(file)}">{html.escape(file)}</a>',
    }
    return "\n".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())


def _turn(lesson: Lesson, others: Sequence[Lesson]) -> str:
    place = [other.number for other in others].index(lesson.number)
    near = [("prev", "Before", other) for other in others[max(place - 1, 0) : place]]
    near += [("next", "Next", other) for other in others[place + 1 : place + 2]]
    return "".join(
        f'<a rel="{rel}" href="{page_name(other.number)}"><small>{word}</small>{inline(other.title)}</a>'
        for rel, word, other in near
    )


def explore(data: dict) -> str:
    """The sliders' section as it stands at the start; explorer.js turns it."""
    controls = data["controls"]
    start = data["cells"][key(control["values"][control["start"]] for control in controls)]
    charts = "".join(
        f"<figure><figcaption><b>{inline(chart['title'])}</b> {html.escape(chart['y'])}</figcaption>"
        f'<div class="chart" id="chart{i}"></div></figure>'
        for i, chart in enumerate(data["charts"])
    )
    strip = (
        '<figure class="strip"><figcaption><b>Along the path</b> the gradient in the middle row of pixels, image by '
        'image</figcaption><canvas id="strip" role="img" aria-label="Heat strip of the gradient"></canvas></figure>'
    )
    numbers = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>" for name, text in start["numbers"]
    )
    curves = data["curves"].values()
    drawn = {
        "band": any(curve["low"] for curve in curves),
        "theory": any(curve["theory"] for curve in curves),
        "faint": any(any(cell["faint"]) for cell in data["cells"].values()),
    }
    legend = {look: said for look, said in data["keys"].items() if drawn.get(look, True)}
    keys = "".join(f'<li><i class="{name}"></i>{text}</li>' for name, text in legend.items())
    return (
        f'<section class="explorer wide{" one" if len(data["charts"]) == 1 else ""}" aria-labelledby="turn">'
        '<h2 id="turn" class="unseen">Turn the knobs</h2>'
        f'<form id="knobs" aria-label="Settings">{"".join(map(_control, controls))}</form>'
        '<noscript><p class="note">The knobs need JavaScript; these are the numbers of one setting.</p></noscript>'
        f'<p id="says" aria-live="polite">{html.escape(start["says"])}</p>'
        f'<div class="stage"><div class="charts">{charts}{strip if data["strips"] else ""}'
        f'<ul class="keys">{keys}</ul></div>'
        f'<dl id="numbers">{numbers}</dl></div>'
        f'<p class="repeat"><span>Measured by</span> <code id="command">{command(start["command"])}</code></p>'
        "</section>"
    )


def _control(control: dict) -> str:
    name, start, labels = control["name"], control["start"], control["labels"]
    if control["slider"]:
        return (
            f'<div class="slider"><label for="{name}">{control["label"]}</label>'
            f'<output for="{name}">{labels[start]}</output>'
            f'<input type="range" id="{name}" name="{name}" min="0" max="{len(labels) - 1}" value="{start}" '
            f'aria-valuetext="{labels[start]}"></div>'
        )
    options = "".join(
        f'<label><input type="radio" name="{name}" value="{i}"{" checked" if i == start else ""}>'
        f"<span>{label}</span></label>"
        for i, label in enumerate(labels)
    )
    return f"<fieldset><legend>{control['label']}</legend><div>{options}</div></fieldset>"


def _embedded(data: dict) -> str:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    return f'<script type="application/json" id="grid">{text}</script>\n<script>\n{_read("explorer.js")}</script>'


NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
NUMBERS += ("Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen")


def gallery(entries: Sequence[tuple[Lesson, list[Claim], Picture]]) -> str:
    """The index without its frame."""
    count = len(entries)
    cards = "\n".join(_card(*entry) for entry in entries)
    title = f"{NUMBERS[count]} lesson{'s' * (count != 1)}"
    return fill("index.html", count=title, start=page_name(entries[0][0].number), cards=cards)


def headlines(lesson: int, claims: list[Claim]) -> list[Claim]:
    """The two claims that say most of a lesson."""
    chosen = [claim for claim in claims if re.match(HEADLINES[lesson], claim.text)]
    return chosen or [claim for claim in claims if not claim.skipped][:2]


def _card(lesson: Lesson, claims: list[Claim], drawn: Picture) -> str:
    effects = "".join(
        f"<div><dt>{inline(claim.text)}</dt><dd>{html.escape(number(claim.measured))}</dd></div>"
        for claim in headlines(lesson.number, claims)
    )
    _, _, width, height = drawn.panels[0]
    return (
        f'<li><a href="{page_name(lesson.number)}"><div class="thumb {"tall" if width / height < 4 / 3 else "broad"}">'
        f"{_panel(drawn, drawn.panels[0], picture_name(lesson.number))}</div>"
        f'<span class="kicker">Lesson {lesson.number}</span><h2>{inline(lesson.title)}</h2></a>'
        f'<p>{inline(lesson.question)}</p><dl class="effects">{effects}</dl></li>'
    )
