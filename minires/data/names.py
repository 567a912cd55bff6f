"""What names say: which part of a data set a folder, a file or a key is, and in which order people expect them."""

import re
from collections import defaultdict
from collections.abc import Iterable

PARTS = ("train", "validation", "test")
_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "validate", "valid", "validating", "val", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout", "t10k"),
}
_PART = {word: part for part, said in _WORDS.items() for word in said}
_FILLERS = {"set", "data", "dataset", "split", "part", "folder", "dir", "images", "image", "imgs", "img", "photos"}


def words(name: str) -> list[str]:
    """The words of a name, in lower case: 'TrainImages_2' -> ['train', 'images']; numbers are left out."""
    found = re.findall(r"t10k|[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return [word for each in found for word in _apart(each.lower())]


def _apart(word: str) -> list[str]:
    """'trainset' -> ['train', 'set']; 'xtrain' -> ['x', 'train']."""
    if word.removesuffix("set") in _PART:
        return [word.removesuffix("set"), "set"][: 1 + word.endswith("set")]
    return [word[0], word[1:]] if word[0] in "xy" and word[1:] in _PART else [word]


def part_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """(the part that a name says: one of PARTS or None, its other words): 'y_Test' -> ('test', ('y',))."""
    said = words(name)
    parts = [word for word in said if word in _PART]
    if len({_PART[word] for word in parts}) != 1:
        return None, tuple(said)
    return _PART[parts[0]], tuple(word for word in said if word not in _PART)


def split_names(names: Iterable[str]) -> dict[str, str]:
    """Those of the names (of folders beside each other) that are a part of a data set: {name: part}.

    Any usual word, in any case, with or without _set; other words only where the training folder and a further one
    share them: seg_train and seg_test, but not a class named train_station.
    """
    families = defaultdict(dict)
    for name in names:
        part, rest = part_of(name)
        if part:
            families[tuple(word for word in rest if word not in _FILLERS)][name] = part
    return {
        name: part
        for rest, family in families.items()
        if not rest or {"train"} < set(family.values())
        for name, part in family.items()
    }


def natural_key(name: str) -> tuple:
    """Sorting key that puts "2" before "10"; equal numbers ("1", "01") by spelling."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if i % 2 else (0, part.casefold()) for i, part in enumerate(parts)], name


def reordered(here: tuple[str, ...], there: tuple[str, ...]) -> str:
    """How the same names are numbered in two places, in words; "" where they are not the same names, or alike."""
    if here == there or sorted(here) != sorted(there) or len(set(here)) < len(here):
        return ""
    at = next(i for i, (a, b) in enumerate(zip(here, there, strict=True)) if a != b)
    sorts = {"as text": tuple(sorted(here)), "by number": tuple(sorted(here, key=natural_key))}
    how = [next((f", sorted {name}" for name, order in sorts.items() if order == each), "") for each in (here, there)]
    return f"number {at} is {here[at]!r} here{how[0]}, {there[at]!r} in the network{how[1]}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """'a, b, c', with the rest counted."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
