"""A table of image files and their classes: CSV, a line an image, its path relative to the table.

file,label,split          the heads may be missing, or be other usual words; any order; , ; or tab between
photos/1.jpg,cat,train    split: train, validation or test; without it the images are split like a folder's
"""

import csv
from collections.abc import Iterable
from pathlib import Path, PurePath

from minires.data.folder import ImageFiles
from minires.data.images import EXTENSIONS
from minires.data.names import listed, natural_key, part_of, words
from minires.data.rows import understood
from minires.errors import DataError

MAX_BYTES = 2**28
SUFFIXES = (".csv", ".tsv")
_WHAT = "a table of image files and their labels"
_HEADS = {
    "file": "file filename filepath filepaths fname path image images img name id "
    "file_name image_name image_path image_id image_file img_path img_name",
    "label": "label labels class classes category target y class_name label_name",
    "split": "split part set subset partition dataset data_set usage",
}
_HEAD = {word: role for role, said in _HEADS.items() for word in said.split()}


def load_tables(paths: list[Path], size, classes: Iterable[str] | None = None) -> dict[str | None, ImageFiles]:
    """The parts of tables: by their column `split`, or the tables' names (train.csv); one that is neither is None's."""
    tables = {path: read_table(path) for path in paths}
    if classes is None:
        classes = sorted({label for rows in tables.values() for _, label, _ in rows}, key=natural_key)
    found: dict[str | None, ImageFiles] = {}
    for path, rows in tables.items():
        absent = [file for file, _, _ in rows if not (path.parent / file).is_file()]
        if absent:
            raise DataError(
                f"{path}: expected the image {absent[0]} in {path.parent}, but it is not there ({len(absent)} of "
                f"{len(rows)} missing): restore it, or correct the table"
            )
        own = part_of(path.stem)[0] if len(tables) > 1 else None
        for part in dict.fromkeys(part or own for _, _, part in rows):
            if part in found or (part is None and len(tables) > 1):
                raise DataError(f"{path.parent}: several tables of images ({listed(p.name for p in paths)}): give one")
            files = [(file, label) for file, label, said in rows if (said or own) == part]
            name = f"{path}, {part}" if part and not own else str(path)
            found[part] = ImageFiles(path.parent, files, size, classes=classes, name=name)
    return found


def read_table(path: Path) -> list[tuple[str, str, str | None]]:
    """(file, label, part or None) of each line; DataError where no columns are these."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DataError(f"{path}: expected {_WHAT} of at most {MAX_BYTES:,} bytes, got {size:,}: split it")
    with understood(path, _WHAT):
        lines = path.read_text("utf-8-sig").splitlines()
        delimiter = max(",;\t", key=lambda sign: lines[0].count(sign) if lines else 0)
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    rows = [(number, row) for number, row in enumerate(rows, 1) if any(row)]
    if not rows:
        raise DataError(f"{path}: expected {_WHAT}, got no line: write file,label and a line an image")
    columns, headed = _columns(rows[0][1], path)
    found = []
    for number, row in rows[headed:]:
        if len(row) <= max(columns.values()) or not row[columns["file"]] or not row[columns["label"]]:
            raise DataError(
                f"{path}, line {number}: expected a file and a label, got {listed(row)[:80]!r}: complete it"
            )
        said = row[columns["split"]] if "split" in columns else None
        part = None if said is None else part_of(said)[0]
        if said is not None and part is None:
            raise DataError(f"{path}, line {number}: expected the split train, validation or test, got {said[:40]!r}")
        found.append((row[columns["file"]].replace("\\", "/"), row[columns["label"]], part))
    labels = {}
    for file, label, _ in found:
        if labels.setdefault(file, label) != label:
            raise DataError(f"{path}: {file} is of two classes, {labels[file]} and {label}: name each image once")
    if not found:
        raise DataError(f"{path}: expected {_WHAT}, got its heads alone: add a line an image")
    return found


def _columns(first: list[str], path: Path) -> tuple[dict[str, int], bool]:
    """({role: column}, whether the first line is heads)."""
    columns = {}
    for i, cell in enumerate(first):
        role = _HEAD.get("_".join(words(cell)))
        if role and not is_image_name(cell):
            columns.setdefault(role, i)
    if {"file", "label"} <= set(columns):
        return columns, True
    files = [i for i, cell in enumerate(first) if is_image_name(cell)]
    splits = [i for i, cell in enumerate(first) if part_of(cell) in ((p, ()) for p in ("train", "validation", "test"))]
    others = [i for i in range(len(first)) if i not in (*files, *splits)]
    if len(files) == 1 and len(first) == 2 + len(splits) and len(others) == 1:
        return {"file": files[0], "label": others[0]} | ({"split": splits[0]} if splits else {}), False
    raise DataError(
        f"{path}: expected {_WHAT}, with columns file and label, got {len(first)} columns ({listed(first)[:80]}): "
        "name them in the first line"
    )


def is_image_name(text: str) -> bool:
    """Whether it ends as image files do."""
    return PurePath(text.replace("\\", "/")).suffix.lower() in EXTENSIONS


def tables_in(folder: Path) -> list[Path]:
    """The tables of images that lie in a folder: of each the first file that it names is there."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            try:
                rows = read_table(path)
            except DataError:
                continue
            if (folder / rows[0][0]).is_file():
                found.append(path)
    return found
