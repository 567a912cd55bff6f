"""A lesson's text: its paragraphs, and its formulas as a terminal can show them."""

import re

# LaTeX -> plain characters, applied in this order
PLAIN = (
    (r"\\(?:mathrm|text|mathbf)\{([^{}]*)\}", r"\1"),
    (r"\\frac\{(\w+)\}\{(\w+)\}", r"\1/\2"),
    (r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)"),
    (r"\\sqrt\{(\w+)\}", r"√\1"),
    (r"\\sqrt\{([^{}]*)\}", r"√(\1)"),
    (r"\\hat\{?(\w+)\}?", r"\1_hat"),
    (r"(?<=[\^_])\{([-+.\w]+)\}", r"\1"),
    (r"\^(?:T|\\top)\b", "ᵀ"),
    (r"\\[,;: ]", " "),
    (r"\\(?:left|right)\b", ""),
    (r"\\(?:cdot|odot)\b", "·"),
    (r"\\times\b", "×"),
    (r"\\leq?\b", "≤"),
    (r"\\geq?\b", "≥"),
    (r"\\pm\b", "±"),
    (r"\\(?:approx|simeq)\b", "≈"),
    (r"\\langle\b ?", "<"),
    (r" ?\\rangle\b", ">"),
    (r"\\pi\b", "π"),
    (r"\\(?:var)?epsilon\b", "ε"),
    (r"\\sum\b", "Σ"),
    (r"\\prod\b", "Π"),
    (r"\\partial\b", "∂"),
    (r"\\(\w+)", r"\1"),
    (r"\{", "("),
    (r"\}", ")"),
)


def paragraphs(text: str) -> list[str]:
    """The paragraphs and list items ('- ...') of a text, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n(?=\s*- )", text.strip())]


def readable(text: str) -> str:
    """The text with what stands between $...$ in plain characters: 'a factor of √(π/(π-1))'."""
    return re.sub(r"\$([^$]+)\$", lambda formula: _plain(formula[1]), text)


def _plain(formula: str) -> str:
    for latex, plain in PLAIN:
        formula = re.sub(latex, plain, formula)
    return re.sub(" +", " ", formula)
