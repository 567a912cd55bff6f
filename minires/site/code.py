"""Python source as HTML, lightly coloured."""

import html
import inspect
import io
import keyword
import textwrap
import token
import tokenize

STRINGS = {"STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END"}


def source(item) -> str:
    """The source of a function or class, coloured."""
    return coloured(textwrap.dedent(inspect.getsource(item)))


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
