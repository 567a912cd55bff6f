"""A tape played in the terminal, one screen a step; or printed, where nobody can press a key."""

from functools import cache

import numpy as np
from rich.console import Console
from rich.control import Control
from rich.rule import Rule
from rich.segment import Segment, Segments
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from minires.instruments.cost.summary import show_bytes
from minires.instruments.step.keyboard import Keyboard
from minires.instruments.step.tape import Step, Tape, Tensor, show

KEYS = "n → next   p ← previous   j jump   s source   q quit"
STEPS = {"n": 1, "right": 1, " ": 1, "p": -1, "left": -1}
BARS = "▁▂▃▄▅▆▇█"
ZERO, PLUS, MINUS, BROKEN = (np.array(c) for c in ((38, 44, 51), (255, 162, 92), (98, 176, 255), (214, 51, 184)))
TILE = 16  # pixels of a tile at most; two pixels share a character


def play(tape: Tape, console: Console, keyboard: Keyboard | None = None) -> int:
    """Show one step a screen until q; returns the position of the last one shown.

    keyboard: whatever has `key()` and `line(prompt)` as `Keyboard` has; None for the terminal's.
    """
    position, source, note = 0, False, KEYS
    with keyboard or Keyboard() as keys, console.screen(hide_cursor=False) as display:
        while True:
            display.update(screen(tape, position, console, source=source, note=note))
            key, note = keys.key(), KEYS
            if key == "q":
                return position
            if key == "s":
                source = not source
            elif key == "j":
                console.control(Control.move_to(0, console.height - 1))
                target = find(tape, keys.line("jump to (number or part of a name): "), position)
                note = KEYS if target is not None else "no step of that number or name"
                position = position if target is None else target
            elif key in STEPS:
                position = min(max(position + STEPS[key], 0), len(tape.steps) - 1)


def find(tape: Tape, text: str, position: int) -> int | None:
    """The step that `text` means: its number from 1, or part of its name, in the present direction first."""
    text = text.strip()
    if text.isdigit():
        return int(text) - 1 if 0 < int(text) <= len(tape.steps) else None
    if not text:
        return None
    here = tape.find(text, tape.steps[position].direction)
    return here if here is not None else tape.find(text)


def print_steps(tape: Tape, console: Console) -> None:
    """Every step in two lines."""
    console.print(f"{tape.title}, seed {tape.seed}, batch of {tape.batch}, loss {tape.loss:.4f}")
    for i, step in enumerate(tape.steps):
        console.print(f"{i + 1:>4} {step.direction:8} {step.name} ({step.kind}): {tape.sentence(i)}")
        console.print("     " + "   ".join(filter(None, (step.maths.formula, _memory(step)))))


def screen(tape: Tape, position: int, console: Console, *, source: bool = False, note: str = KEYS) -> Segments:
    """One step, as high as the console; `source` shows the op's code alone."""
    step = tape.steps[position]
    heading = f"{step.name} ({step.kind})  {step.direction}, step {position + 1} of {len(tape.steps)}"
    top = [
        Rule(Text(heading, "bold"), align="left"),
        _map(tape, position),
        Text(step.maths.formula, "italic"),
        Text(step.maths.says),
        Text(tape.sentence(position), "dim"),
    ]
    code = Syntax("\n".join(step.maths.sources().values()), "python", background_color="default")
    middle = [code] if source else [*_pictures(tape, step, console), Text(), code]
    head, body = ([line for part in parts for line in console.render_lines(part)] for parts in (top, middle))
    room = console.height - len(head) - 2
    if len(body) > room:
        rest = f"… {len(body) - room + 1} more lines" + ("" if source else ": s shows the source alone")
        body = [*body[: room - 1], *console.render_lines(Text(rest, "dim"))]
    foot = [[Segment("")]] * (room - len(body) + 1) + console.render_lines(Text(note, "dim"))
    return Segments(segment for line in (*head, *body, *foot) for segment in (*line, Segment.line()))


def _pictures(tape: Tape, step: Step, console: Console) -> list:
    """The arrays as a table, the last one as tiles and histogram, the parameters, the memory."""
    arrays = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "shape", "rms", "mean", "from", "to", "zeros"):
        arrays.add_column(heading, justify="left" if heading in ("", "shape") else "right", no_wrap=True)
    for letter, index in (step.inputs | step.outputs).items():
        t = tape.tensors[index]
        numbers = map(show, (t.rms, t.mean, t.low, t.high))
        arrays.add_row(letter, _shape(t.shape), *numbers, f"{t.zeros:.1%}")
    for p in step.params:
        grad = f"d{p.name} rms {show(p.grad_rms)}" if p.grad_rms is not None else ""
        arrays.add_row(p.name, _shape(p.shape), show(p.rms), grad)
    letter, index = list(step.outputs.items())[-1]
    tensor = tape.tensors[index]
    return [arrays, Text(_memory(step)), Text(), *_tiles(tensor, console.width), _histogram(letter, tensor)]


def _memory(step: Step) -> str:
    kept = ", ".join(f"{k.name} {_shape(k.shape)} {show_bytes(k.nbytes)}" for k in step.kept)
    verb = "keeps" if step.direction == "forward" else "used"
    return f"{f'{verb} {kept}; ' if kept else ''}all layers hold {show_bytes(step.held_bytes)}"


def _shape(shape: tuple) -> str:
    return "×".join(map(str, shape))


def _map(tape: Tape, position: int) -> Text:
    """A character a block: its height is the log of the gradient that it sent on, dots wait for theirs."""
    cells: dict[str, list] = {}
    for i, step in enumerate(tape.steps):
        cells.setdefault(step.block or step.stage, []).append(i)
    back = {i: _sent(tape, s) for i, s in enumerate(tape.steps) if s.direction == "backward" and _sent(tape, s) > 0}
    low, high = (f(map(np.log10, back.values()), default=0.0) for f in (min, max))
    here, text, stage = tape.steps[position], Text(), None
    for key, steps in cells.items():
        first = tape.steps[steps[0]]
        text.append("" if first.stage == stage or stage is None else " ")
        stage = first.stage
        sent = [back[i] for i in steps if i in back and i <= position]
        level = round(7 * (np.log10(sent[-1]) - low) / ((high - low) or 1)) if sent else None
        sign = BARS[level] if sent else "■" if steps[0] <= position else "·"
        text.append(sign, "reverse" if key == (here.block or here.stage) else "")
    return text.append(f"   gradient rms {show(10**low)} ▁ to {show(10**high)} █, from stem to loss", "dim")


def _sent(tape: Tape, step: Step) -> float:
    return tape.tensors[next(iter(step.outputs.values()))].rms


def _tiles(tensor: Tensor, width: int) -> list[Text]:
    """As many tiles as fit side by side; a character is two pixels, one above the other."""
    every = -(-max(tensor.tiles.shape[1:]) // TILE) if len(tensor.tiles) > 1 else 1
    tiles = tensor.tiles[:, ::every, ::every]
    if len(tiles) == 1:
        tiles = tiles[:, :, :width]
    count = max(1, min(len(tiles), (width + 1) // (tiles.shape[2] + 1)))
    if tiles.shape[1] % 2:
        tiles = np.pad(tiles, ((0, 0), (0, 1), (0, 0)), constant_values=128)
    lines = []
    for row in range(0, tiles.shape[1], 2):
        line = Text()
        for tile in tiles[:count]:
            for upper, lower in zip(tile[row].tolist(), tile[row + 1].tolist(), strict=True):
                line.append("▀", f"{_colour(upper)} on {_colour(lower)}")
            line.append(" ")
        lines.append(line)
    return lines


@cache
def _colour(level: int) -> str:
    share = (level - 128) / 127
    colour = BROKEN if level == 0 else ZERO + abs(share) * ((PLUS if share > 0 else MINUS) - ZERO)
    return "rgb({},{},{})".format(*np.rint(colour).astype(int))


def _histogram(letter: str, tensor: Tensor) -> Text:
    heights = 7 * tensor.histogram // max(tensor.histogram.max(), 1)
    bars = "".join(BARS[h] if count else " " for h, count in zip(heights, tensor.histogram, strict=True))
    return Text(f"{letter}: {show(-tensor.limit)} {bars} {show(tensor.limit)}")
