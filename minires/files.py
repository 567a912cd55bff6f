"""Files written whole or not at all."""

from pathlib import Path

from minires.data.hdf5 import atomic_path


def write_text(path: Path, text: str) -> None:
    """Replace the file by `text` (UTF-8), atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
