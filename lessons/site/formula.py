"""Formulas as inline SVG: drawn offline by matplotlib's mathtext, in the colour of the text around them."""

import html
from functools import cache

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath, text_to_path
from minires.lessons.prose import readable

from minires.errors import ConfigError

UNITS = 100  # of the drawing in one em
SCALE = 1.04  # against the text's em: STIX letters are a little small beside most serif fonts
FONT = FontProperties(math_fontfamily="stix")
COMMANDS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


@cache
def formula(latex: str) -> str:
    """An <svg> as high as the formula, standing on the line's baseline; its label is the formula in plain characters.

    Raises ConfigError where mathtext does not know a command.
    """
    text = f"${latex}$"
    try:
        width, height, depth = text_to_path.get_text_width_height_descent(text, _font(), ismath=True)
        path = TextPath((0, 0), text, size=UNITS, prop=FONT)
    except ValueError as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise ConfigError(f"the formula {text} cannot be drawn ({reason.strip()}): use commands of mathtext") from None
    em = UNITS / SCALE
    return (
        f'<svg class="math" role="img" aria-label="{html.escape(readable(text))}" '
        f'viewBox="0 {depth - height:.0f} {width:.0f} {height:.0f}" '
        f'style="width:{width / em:.3f}em;height:{height / em:.3f}em;vertical-align:{-depth / em:.3f}em">'
        f'<path d="{_outline(path)}"/></svg>'
    )


def _font() -> FontProperties:
    font = FONT.copy()
    font.set_size(UNITS)
    return font


def _outline(path: Path) -> str:
    """The path's d attribute; y runs downwards in SVG."""
    parts = []
    for points, code in path.iter_segments(curves=True, simplify=False):
        numbers = " ".join(f"{x:.1f} {-y:.1f}" for x, y in points.reshape(-1, 2)) if code != Path.CLOSEPOLY else ""
        parts.append(COMMANDS[code] + numbers)
    return "".join(parts)
