"""What a lesson shows: functions and classes of Python, and functions of C, each cut from the file that runs."""

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from minires.errors import ConfigError


@dataclass(frozen=True)
class CFunction:
    """A function of the kernels in C, where its name is written NAME(name)."""

    name: str
    file: str = "kernels.c"
    package: str = "minires.fast.cpu"

    @property
    def source(self) -> str:
        """The function as it stands in its file, with the comment above it."""
        text = files(self.package).joinpath(self.file).read_text(encoding="utf-8")
        comment, head = r"(?:^/\*(?:(?!\*/).)*\*/\n)?", rf"^\w[^\n;{{}}]* NAME\({self.name}\)\([^;{{}}]*\)\s*\{{"
        found = re.findall(rf"{comment}{head}.*?^\}}$", text, flags=re.MULTILINE | re.DOTALL)
        if len(found) != 1:
            raise ConfigError(f"{self.package}/{self.file}: expected one function {self.name}, found {len(found)}")
        return found[0]


Shown = Callable | type | CFunction


def name(item: Shown) -> str:
    """'minires.ops.conv.im2col', 'minires.fast.cpu/kernels.c: dot'."""
    if isinstance(item, CFunction):
        return f"{item.package}/{item.file}: {item.name}"
    return f"{item.__module__}.{item.__qualname__}"


def short(item: Shown) -> str:
    """The name alone."""
    return item.name if isinstance(item, CFunction) else item.__qualname__


def source(item: Shown) -> str:
    """The text, from the left edge on."""
    return item.source if isinstance(item, CFunction) else textwrap.dedent(inspect.getsource(item))


def language(item: Shown) -> str:
    """'c' or 'python'."""
    return "c" if isinstance(item, CFunction) else "python"
