"""Source as HTML, lightly coloured: Python, and C."""

import html
import io
import keyword
import re
import token
import tokenize

from minires.lessons import shown

STRINGS = {"STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END"}
C_WORDS = "const do double else enum float for if inline int return sizeof static struct void while"
C_PARTS = re.compile(
    rf"(?P<c>/\*.*?\*/|//[^\n]*)|(?P<k>\b(?:{C_WORDS.replace(' ', '|')})\b|^ *#\w+)|(?P<n>\b\d[\w.]*)"
    r"|(?P<d>(?<=NAME\()\w+(?=\)\((?:const )?\w+ ))",
    re.DOTALL | re.MULTILINE,
)


def source(item) -> str:
    """The source of what a lesson shows, coloured."""
    return coloured_c(shown.source(item)) if shown.language(item) == "c" else coloured(shown.source(item))


def coloured_c(code: str) -> str:
    """As `coloured`, for functions of C whose names are written NAME(name)."""
    parts, at = [], 0
    for found in C_PARTS.finditer(code):
        parts.append(html.escape(code[at : found.start()], quote=False))
        parts.append(f'<span class="{found.lastgroup}">{html.escape(found[0], quote=False)}</span>')
        at = found.end()
    return "".join([*parts, html.escape(code[at:], quote=False)])


def coloured(code: str) -> str:
    """The code with <span class=...> around k keywords, s strings, c comments, n numbers, d the names it defines."""
    lines, parts, at, before = code.splitlines(keepends=True), [], (1, 0), ""
    for part in tokenize.generate_tokens(io.StringIO(code).readline):
        if part.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        kind, text = _kind(part, before), html.escape(_between(lines, part.start, part.end), quote=False)
        parts.append(html.escape(_between(lines, at, part.start), quote=False))
        parts.append(f'<span class="{kind}">{text}</span>' if kind else text)
        at, before = part.end, part.string
    return "".join(parts)


def _kind(part: tokenize.TokenInfo, before: str) -> str:
    name = token.tok_name[part.type]
    if name in STRINGS:
        return "s"
    if name in ("COMMENT", "NUMBER"):
        return name[0].lower()
    if name == "NAME" and before in ("def", "class"):
        return "d"
    return "k" if name == "NAME" and keyword.iskeyword(part.string) else ""


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from (row, column) to (row, column), rows counted from 1."""
    (top, left), (bottom, right) = start, end
    if top == bottom:
        return lines[top - 1][left:right]
    return lines[top - 1][left:] + "".join(lines[top : bottom - 1]) + lines[bottom - 1][:right]
