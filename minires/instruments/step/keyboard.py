"""Single key presses from the terminal, without waiting for Enter."""

import os
import sys
from contextlib import contextmanager


class Keyboard:
    """A context manager; inside it, `key` waits for one key press and `line` for a line that ends with Enter."""

    def __enter__(self):
        self._usual = None
        if os.name != "nt":
            import termios
            import tty

            self._fd = sys.stdin.fileno()
            self._usual = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd, termios.TCSADRAIN)  # not the default, which drops the keys already typed
        return self

    def __exit__(self, *failure):
        self._restore()

    def _restore(self):
        if self._usual is not None:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._usual)

    def key(self) -> str:
        """The character typed, 'left' or 'right' for those arrows, 'q' at the end of input."""
        if os.name == "nt":
            import msvcrt

            first = msvcrt.getwch()
            return {"M": "right", "K": "left"}.get(msvcrt.getwch(), "") if first in "\x00\xe0" else first
        import select

        first = os.read(self._fd, 1).decode(errors="ignore")
        if first == "\x1b" and select.select([self._fd], [], [], 0.05)[0]:  # an arrow is ESC [ C or ESC O C
            return {"C": "right", "D": "left"}.get(os.read(self._fd, 2).decode(errors="ignore")[1:], "")
        return "q" if first in ("", "\x04") else first

    def line(self, prompt: str) -> str:
        """What is typed after the prompt, with the terminal's own editing."""
        with self._as_usual():
            return input(prompt)

    @contextmanager
    def _as_usual(self):
        self._restore()
        try:
            yield
        finally:
            self.__enter__()
