"""A lesson on one page for a class: question, room for a prediction, picture, table, exercise, room for its answer.

`minires lesson 3 --handout lesson_03.pdf`; the picture and the numbers are those of this run.
"""

import textwrap
from io import BytesIO

from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from minires.lessons.harness import Claim, Lesson, Outcome, note, number
from minires.lessons.prose import paragraphs, readable

from minires.errors import ConfigError
from minires.instruments.style import GRID, INK, MUTED, PAPER, picture_bytes

PAGE, MARGIN = (8.27, 11.69), 0.65  # A4, inches
LINE, ROW, RULE = 0.165, 0.185, 0.3  # inches that a line of text, a row of the table and a line to write on take
LETTERS = 106  # of body text in a line
COLUMNS = (("what is asserted", 0.0), ("bound", 4.35), ("measured", 5.25), ("yours", 6.15))  # inches from the margin
LEAST = 1.6  # inches of the picture's height


class _Sheet:
    """The page, written from the top down; `left` is what is free, in inches."""

    def __init__(self):
        self.fig = Figure(figsize=PAGE, facecolor=PAPER)
        self.left, self.width = PAGE[1] - MARGIN, PAGE[0] - 2 * MARGIN

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (MARGIN + x) / PAGE[0], y / PAGE[1]

    def write(self, text: str, x: float = 0, size: float = 9, color: str = INK, **options) -> None:
        self.fig.text(*self.at(x, self.left), text, va="top", fontsize=size, color=color, parse_math=False, **options)

    def prose(self, head: str, text: str) -> None:
        """`head` in bold on a line of its own, then the paragraphs."""
        if head:
            self.write(head, fontweight="bold")
            self.left -= LINE
        for paragraph in paragraphs(readable(text)):
            for line in textwrap.wrap(paragraph, LETTERS):
                self.write(line)
                self.left -= LINE
        self.left -= 0.06

    def rules(self, count: int) -> None:
        """Lines to write on."""
        for _ in range(count):
            self.left -= RULE
            self.line(GRID)
        self.left -= 0.12

    def line(self, color: str) -> None:
        (x0, y), (x1, _) = self.at(0, self.left), self.at(self.width, self.left)
        self.fig.add_artist(_segment(x0, x1, y, color))

    def picture(self, fig: Figure, height: float) -> None:
        """As large as fits into `height`."""
        pixels = imread(BytesIO(picture_bytes(fig)))
        tall, wide = pixels.shape[:2]
        height = min(height, self.width * tall / wide)
        width = height * wide / tall
        x, y = self.at((self.width - width) / 2, self.left - height)
        ax = self.fig.add_axes((x, y, width / PAGE[0], height / PAGE[1]))
        ax.imshow(pixels, aspect="auto")
        ax.set_axis_off()
        self.left -= height + 0.1

    def table(self, claims: list[Claim]) -> None:
        for name, x in COLUMNS:
            self.write(name, x, 8, MUTED)
        self.left -= ROW
        for claim in claims:
            self.line(GRID)
            text = textwrap.shorten(readable(claim.text), 72, placeholder=" ...")
            for (_, x), cell in zip(COLUMNS, (text, claim.bound, number(claim.measured)), strict=False):
                self.fig.text(*self.at(x, self.left - 0.03), cell, va="top", fontsize=8, color=INK, parse_math=False)
            self.left -= ROW
        self.line(GRID)
        self.left -= 0.14


def _segment(x0, x1, y, color) -> Line2D:
    return Line2D([x0, x1], [y, y], color=color, linewidth=0.8)


def handout(lesson: Lesson, outcome: Outcome, drawn: Figure, elsewhere: str = "") -> Figure:
    """The page. drawn: the lesson's picture; elsewhere: what `harness.apart` says. ConfigError where it is too full."""
    sheet = _Sheet()
    sheet.write("name", sheet.width - 2.6, 8, MUTED)
    sheet.left -= 0.2
    title = f"Lesson {lesson.number}: {lesson.title}"
    sheet.write(title, size=15 if len(title) < 54 else 13, fontweight="bold")
    sheet.left -= 0.36
    sheet.prose("", lesson.question)
    sheet.prose("Before you look: what do you expect, and why?", "")
    sheet.rules(2)
    claims = [claim for claim in outcome.claims if claim.judged] or outcome.claims
    below = ["Look for", f"{lesson.look_for} {elsewhere}", "Exercise", lesson.exercise]
    lines = sum(len(textwrap.wrap(readable(text), LETTERS)) for text in below)
    free = sheet.left - MARGIN - lines * LINE - 0.5 - (len(claims) + 2) * ROW - 3 * RULE + 0.1
    if free < LEAST:
        raise ConfigError(f"lesson {lesson.number}: text and table fill the page: {len(claims)} claims are too many")
    sheet.picture(drawn, free)
    sheet.prose("Look for", f"{lesson.look_for} {elsewhere}")
    sheet.table(claims)
    sheet.prose("Exercise", lesson.exercise)
    sheet.rules(3)
    said = f"{note(lesson, outcome.result)}   minires lesson {lesson.number} --answers has the key"
    sheet.fig.text(*sheet.at(0, 0.35), said, fontsize=6, color=MUTED, parse_math=False)
    return sheet.fig
