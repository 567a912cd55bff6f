"""Is a data set sound? Every image of every part is decoded; a finding for each thing that is odd, with examples."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from minires.data import load_parts
from minires.data.names import listed
from minires.instruments.diagnose.data import UNBALANCED, rules
from minires.instruments.diagnose.images import Part
from minires.instruments.findings import Finding
from minires.instruments.look import Look, Seen, look

SOME = 3  # examples that are named
_RULES = {"value range", "one class", "tiny images", "stretched images"}  # of the diagnosis: all else is counted here
_PURPOSE = {"train": "train on", "test": "measure the accuracy on"}
_NAMES = {"train": "training data", "test": "test data", "validation": "validation data"}


def examine(spec: str) -> Iterator[Finding]:
    """Findings on the data that `spec` names; raises MiniresError for what is no data."""
    parts = load_parts(spec)
    found = look(parts)
    for part, purpose in _PURPOSE.items():
        if part not in found.seen:
            yield Finding(_NAMES[part], "warn", "none", f"add the other part: without it there is nothing to {purpose}")
    for part, seen in found.seen.items():
        findings = list(_part(part, seen, f"minires data show {spec}"))
        yield _summary(part, seen, sound=not findings)
        yield from findings
    yield from _class_names(next(iter(found.seen.values())).data.classes)
    for what, names in found.odd.items():
        if "where most are" in what:
            yield Finding("files", "warn", f"{len(names):,} of {what} ({listed(names, SOME)})", "look at them")
    yield from _apart(found)


def _summary(part: str, seen: Seen, sound: bool) -> Finding:
    data = seen.data
    counts = np.bincount(data.labels, minlength=len(data.classes))
    each = ", ".join(f"{label}: {count}" for label, count in zip(data.classes[:12], counts, strict=False))
    detail = f"{data.source}: {len(data):,} images {data.shape}, {len(counts)} classes ({each}), all decoded"
    there = counts[counts > 0]
    if len(there) < len(counts):
        empty = listed(data.classes[k] for k in np.flatnonzero(counts == 0))
        return Finding(_NAMES[part], "warn", f"{detail}; none of {empty}", "add images of it, or drop the class")
    if counts.max() > UNBALANCED[0] * counts.min():
        fix = "add images of the rare classes; accuracy alone flatters a network that names the common one"
        return Finding(_NAMES[part], "warn", f"{detail}; unbalanced", fix)
    return Finding(_NAMES[part], "ok" if sound else "warn", detail, "" if sound else "see the lines on this part below")


def _part(part: str, seen: Seen, again: str) -> Iterator[Finding]:
    """What is wrong within a part; again: a command that shows it."""
    count, what = len(seen.data), _NAMES[part]
    if seen.bad:
        detail = f"{len(seen.bad):,} of {count:,} images cannot be read; the first: {seen.bad[0][1]}"
        yield Finding(f"{what}, damaged images", "fail", detail, "replace or remove them")
    good = np.setdiff1d(np.arange(count), [position for position, _ in seen.bad]).astype(np.intp)
    causes = [cause for cause in rules([_as_sampled(part, seen, good)], again) if cause.name in _RULES]
    for cause in causes:
        yield Finding(f"{what}, {cause.name}", cause.status, cause.evidence, cause.fix)
    if any(cause.name == "value range" for cause in causes):
        return
    flat = good[seen.flat[good]]
    if len(flat):
        detail = f"{len(flat):,} of {count:,} images are of one colour: {_some(seen, flat)}"
        yield Finding(f"{what}, constant images", "warn", detail, "look at how they are read, or take them out")
    held = defaultdict(list)
    for position in good:
        held[seen.digests[position]].append(position)
    same = [copies for copies in held.values() if len(copies) > 1]
    contrary = [copies for copies in same if len(set(seen.data.labels[copies].tolist())) > 1]
    if contrary:
        names = listed((repr(seen.data.classes[k]) for k in np.unique(seen.data.labels[contrary[0]])), SOME)
        detail = f"{sum(map(len, contrary)):,} images come under several labels: {_some(seen, contrary[0])} as {names}"
        fix = f"keep one label for each image; {again} shows them"
        yield Finding(f"{what}, contradicting labels", "fail", detail, fix)
    if same:
        extra = sum(map(len, same)) - len(same)
        detail = f"{extra:,} of {count:,} images are exact copies of others: {_some(seen, same[0])} are the same"
        yield Finding(f"{what}, duplicates", "warn", detail, "keep one of each, before the data are split")


def _as_sampled(part: str, seen: Seen, good: np.ndarray) -> Part:
    """What the diagnosis's rules look at, of all images in place of a sample; no picture is drawn of them."""
    small = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (len(good), 1, 1, 3))
    digests, problems = [seen.digests[i] for i in good], [problem for _, problem in seen.bad]
    return Part(
        part, seen.data, good, seen.data.labels[good], small, digests, seen.low[good], seen.high[good], problems
    )


def _some(seen: Seen, positions) -> str:
    return listed((seen.names[i] for i in positions), SOME)


def _class_names(classes: tuple[str, ...]) -> Iterator[Finding]:
    alike = defaultdict(list)
    for name in classes:
        alike["".join(name.casefold().split())].append(name)
    for names in alike.values():
        if names[1:]:
            detail = f"the classes {' and '.join(map(repr, names))} differ in case or spaces alone"
            yield Finding("class names", "fail", detail, "rename or merge them: two classes are learned for one thing")


def _apart(found: Look) -> Iterator[Finding]:
    """Test and validation images that training sees too, exactly or nearly."""
    if "train" not in found.seen:
        return
    known = set(filter(None, found.seen["train"].digests))
    for part, seen in found.seen.items():
        if part == "train":
            continue
        exact = sum(digest in known for digest in seen.digests)
        nearly = {pair[1] for pair in found.alike if (pair[0], pair[2]) == (part, "train")}
        nearly -= {name for name, digest in zip(seen.names, seen.digests, strict=True) if digest in known}
        detail = f"{exact} of {len(seen.data)} {part} images are in the training set too"
        detail += f", {len(nearly)} more nearly so ({listed(sorted(nearly), SOME)})" if nearly else ""
        shared = exact or nearly
        fix = "take them out of one of the two: the test would measure memory" if shared else ""
        yield Finding(f"train and {part} apart", "warn" if shared else "ok", detail, fix)
