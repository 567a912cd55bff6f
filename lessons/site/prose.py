"""A lesson's text as HTML: paragraphs, lists, formulas, commands, and links to the other lessons."""

import html
import re
from collections.abc import Collection

from minires.lessons.prose import paragraphs
from minires.lessons.site.formula import formula
from minires.lessons.sources import NAMED, address

INLINE = re.compile(
    r"\$(?P<formula>[^$]+)\$(?P<after>[.,;:)?]*)|`(?P<code>[^`]+)`|\b(?P<lesson>[Ll]esson (?P<number>\d+))\b"
    rf"|(?P<source>{NAMED.pattern})|(?P<hyphened>\w+-\d+\b)"
)


def page_name(number: int) -> str:
    """The file of a lesson's page."""
    return f"lesson-{number:02}.html"


def task_page(number: int) -> str:
    """The file of an exercise's page."""
    return f"exercise-{number:02}.html"


def command(text: str) -> str:
    """A command whose lines do not break within an option."""
    return re.sub(r"--[\w-]+( (?!--)[^\s&]+)?", r'<span class="glued">\g<0></span>', html.escape(text, quote=False))


def inline(text: str, pages: Collection[int] = ()) -> str:
    """One paragraph's text. pages: the lessons that there are pages of; mentions of them become links."""

    def marked(found: re.Match) -> str:
        if found["formula"]:
            drawn = formula(found["formula"])
            return f'<span class="glued">{drawn}{found["after"]}</span>' if found["after"] else drawn
        if found["code"]:
            return f"<code>{command(found['code'])}</code>"
        if found["source"]:
            return source(found["source"])
        if found["hyphened"]:  # ResNet-50, 1e-5
            return f'<span class="glued">{found["hyphened"]}</span>'
        if int(found["number"]) in pages:
            return f'<a href="{page_name(int(found["number"]))}">{found["lesson"]}</a>'
        return found["lesson"]

    parts, end = [], 0
    for found in INLINE.finditer(text):
        parts += [html.escape(text[end : found.start()], quote=False), marked(found)]
        end = found.end()
    return "".join([*parts, html.escape(text[end:], quote=False)])


def source(name: str) -> str:
    """A link to a source that a text names."""
    return f'<a href="{html.escape(address(name))}">{html.escape(name, quote=False)}</a>'


def prose(text: str, pages: Collection[int] = ()) -> str:
    """All paragraphs; one that is a formula alone is displayed, and lines that begin with '- ' make a list."""
    parts = []
    for paragraph in paragraphs(text):
        if paragraph.startswith("- "):
            item = f"<li>{inline(paragraph[2:], pages)}</li>"
            if parts and parts[-1].endswith("</ul>"):
                parts[-1] = parts[-1].removesuffix("</ul>") + item + "</ul>"
            else:
                parts.append(f"<ul>{item}</ul>")
        elif re.fullmatch(r"\$[^$]+\$[.,]?", paragraph):
            paragraph = paragraph.replace(r"\frac", r"\dfrac")  # there is room
            parts.append(f'<p class="displayed">{inline(paragraph)}</p>')
        else:
            parts.append(f"<p>{inline(paragraph, pages)}</p>")
    return "\n".join(parts)
