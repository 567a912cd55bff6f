"""What is wrong with the data: values read as others, copies, labels of other images, parts that are unlike."""

from collections import defaultdict

import numpy as np
from PIL import Image

from minires.data.names import listed, natural_key
from minires.instruments.diagnose.cause import LIKELY, POSSIBLE, SURE, Cause
from minires.instruments.diagnose.images import Part, above_chance, cross_validated, ridge_said, taught
from minires.instruments.look import differences

CHANCE = 2.5  # standard deviations above it, below which labels and images have nothing to do with each other
ENOUGH = 60  # images, from which on that can be told
COPIES = (0.05, 0.2)  # shares of a training set, from which on they are told of, and called a fault
UNBALANCED = (3, 8)  # the commonest class over the rarest
NEAR = 0.985  # cosine of two images that differ in compression, brightness or a small move; of others up to 0.98
APART = (0.85, 0.97)  # of the images of two parts, told apart by plain statistics: unlike, and surely
ONE_CODE = "read and scale the images of all parts by the same code"
_VIEWS = {
    "have red and blue exchanged": lambda x: x[..., ::-1],
    "are inverted (255 - x)": lambda x: 255 - x,
    "stand upside down": lambda x: x[:, ::-1],
    "are turned by 90 degrees": lambda x: np.rot90(x, 1, (1, 2)),
    "are turned by 270 degrees": lambda x: np.rot90(x, 3, (1, 2)),
    "have rows and columns exchanged": lambda x: x.swapaxes(1, 2),
}


def rules(parts: list[Part], again: str) -> list[Cause]:
    """Causes in a training part and what there is beside it. again: a command that shows the data."""
    found = []
    for part in parts:
        found += [*_unread(part, again), *_range(part), *_counts(part), *_files(part)]
        if len(part.labels) and not any(c.name == "value range" for c in found):
            found += [*_flat(part), *_copies(part, again)]
    if parts and parts[0].name == "training":
        train, *others = parts
        for other in others:
            found += _leak(train, other, again)
        blind = {"value range", "constant images", "one class"}
        if not blind & {c.name for c in found if c.level > POSSIBLE}:
            found += _labels(train, others, again)
    return found


def _unread(part, again):
    if part.bad:
        more = f" (and {len(part.bad) - 1} more)" if part.bad[1:] else ""
        yield Cause("damaged images", "data", SURE, f"{part.bad[0]}{more}", f"take them out; {again} lists all")


def _range(part):
    if not len(part.labels):
        return
    top = float(np.median(part.high))
    ends, beside = part.ends
    if ends > 0.97 and beside > 0.2:
        detail = f"{part.data.source}: {ends:.0%} of the numbers are 0 to 3 or 252 to 255, hardly one is between"
        fix = "cast before you standardise, not after: whole numbers of -2 .. 2 wrap round to 254 .. 2"
        yield Cause("value range", "data", SURE, detail, fix, _some(part))
    if top <= 2:
        detail = f"{part.data.source}: the lightest number of an image is {top:.0f} of 255 (median of {len(part.high)})"
        fix = "multiply by 255 before converting to uint8: (255 * x).round().astype('uint8')"
        yield Cause(
            "value range", "data", SURE, f"{detail}: floats in 0..1 were stored as whole numbers", fix, _some(part)
        )


def _flat(part):
    flat = np.asarray(part.high, int) - part.low <= 2
    share = flat.mean()
    if share > 0.02:
        detail = f"{flat.sum()} of {len(flat)} {part.name} images are of one colour"
        level = SURE if share > 0.2 else POSSIBLE
        yield Cause("constant images", "data", level, detail, "look at how the images are read", _some(part, flat))


def _counts(part):
    counts = np.bincount(part.data.labels, minlength=len(part.data.classes))
    names, there = part.data.classes, counts[counts > 0]
    alike = defaultdict(list)
    for name in names:
        alike[name.strip().casefold()].append(name)
    for same in alike.values():
        if same[1:]:
            fix = "rename or merge their folders: two classes are learned for one thing"
            yield Cause(
                "case of names", "data", SURE, f"the classes {listed(map(repr, same))} differ in case alone", fix
            )
    told = ", ".join(f"{name}: {count}" for name, count in zip(names[:12], counts, strict=False))
    if len(there) == 1:
        fix = "look at how labels are read: a constant answer is right"
        yield Cause("one class", "data", SURE, f"all {counts.sum()} {part.name} labels are one class ({told})", fix)
    elif len(there) < len(names):
        none = listed(names[k] for k in np.flatnonzero(counts == 0))
        detail = f"no {part.name} image is of {none} ({told})"
        level = SURE if part.name == "training" else POSSIBLE
        yield Cause("missing class", "data", level, detail, "add images of it, or take it out of the classes")
    if len(there) > 1 and there.max() > UNBALANCED[0] * there.min() and part.name == "training":
        detail = f"the commonest class has {there.max() / there.min():.1f} times the images of the rarest ({told})"
        level = LIKELY if there.max() > UNBALANCED[1] * there.min() else POSSIBLE
        fix = "add images of the rare classes, and judge by the accuracy of each class (minires evaluate prints it)"
        yield Cause(
            "unbalanced classes",
            "data",
            level,
            detail,
            fix,
            {"bars": dict(zip(names, counts, strict=True)), "of": "training images"},
        )
    each = counts.sum() / len(names)
    if part.name == "training" and each < 30:
        level = LIKELY if each < 10 else POSSIBLE
        detail = f"{counts.sum()} training images of {len(names)} classes: {each:.1f} a class"
        yield Cause("few images", "data", level, detail, "start from trained weights: minires train --weights FILE")


def _files(part):
    paths = part.data.paths()
    wanted = part.data.shape[:2]
    sizes = []
    for path in [paths[i] for i in part.index[:400]] if paths else []:
        try:
            with Image.open(path) as image:
                sizes.append(image.size[::-1])
        except Exception:  # `_unread` tells of these
            continue
    small = min(wanted)
    if sizes:
        sizes = np.array(sizes, float)
        small = min(small, float(np.median(sizes.min(axis=1))))
        shape = np.log(sizes[:, 0] / sizes[:, 1] * wanted[1] / wanted[0])
        stretched = np.abs(shape) > np.log(1.6)
        if stretched.mean() > 0.2:
            i = int(np.abs(shape).argmax())
            of = " x ".join(f"{side:.0f}" for side in sizes[i])
            detail = f"{stretched.mean():.0%} of the {part.name} files are stretched by more than 1.6 (one is {of})"
            fix = "crop or pad the files to one shape before they are resized"
            yield Cause("stretched images", "data", LIKELY, detail, fix, _some(part, stretched))
    if small < max(12, min(wanted) / 3):
        detail = f"the {part.name} images have {small:.0f} pixels a side, read as {wanted[0]}x{wanted[1]}"
        fix = "use the files in their full size, and --size no larger than they are"
        yield Cause("tiny images", "data", LIKELY, detail, fix, _some(part))


def _copies(part, again):
    held = defaultdict(list)
    for i, digest in enumerate(part.digests):
        held[digest].append(i)
    copies = len(part.digests) - len(held)
    share = copies / len(part.digests)
    most = max(held.values(), key=len)
    if len(most) > 0.9 * len(part.digests) and len(most) > 2:
        detail = f"{len(most)} of {len(part.digests)} {part.name} images are one and the same"
        yield Cause("constant images", "data", SURE, detail, "look at the loop that reads the images", _some(part))
        return
    contrary = [same for same in held.values() if len(set(part.labels[same].tolist())) > 1]
    if contrary:
        images = sum(map(len, contrary))
        names = listed(part.data.classes[k] for k in sorted(set(part.labels[contrary[0]].tolist())))
        detail = f"{images} {part.name} images come under several labels; one is of {names}: no answer suits both"
        level = SURE if images >= max(3, 0.01 * len(part.labels)) else POSSIBLE
        fix = f"keep one label for each image; {again} shows them"
        yield Cause("contradicting labels", "data", level, detail, fix, _some(part, contrary[0]))
    if share > COPIES[0]:
        detail = f"{copies} of {len(part.digests)} {part.name} images are exact copies of others"
        level = SURE if share > COPIES[1] else POSSIBLE
        yield Cause("duplicates", "data", level, detail, "keep one of each, before the split", _some(part, most))


def _leak(train, other, again):
    if not len(train.labels) or not len(other.labels):
        return
    seen = set(train.digests)
    exact = sum(digest in seen for digest in other.digests)
    ours, theirs = (np.array([differences(image) for image in part.small]) for part in (train, other))
    alike = int(((theirs @ ours.T).max(axis=1) >= NEAR).sum())
    shared, share = max(exact, alike), max(exact, alike) / len(other.digests)
    if share > 0.02:
        how = "exact copies" if exact == shared else "the same but for compression, brightness or size"
        detail = f"{shared} of {len(other.digests)} {other.name} images are in the training part too, {how}"
        level = SURE if exact > 0.05 * len(other.digests) or share > 0.15 else POSSIBLE
        fix = f"take them out of one part: the figure measures memory; {again} lists them"
        yield Cause("leak", "data", level, detail, fix)


def _labels(train, others, again):
    """Whether labels belong to their images, in each part; whether the parts are of one kind."""
    if len(set(train.labels.tolist())) < 2:
        return
    train = balanced(train)
    n = len(train.labels)
    if n < ENOUGH:
        return
    accuracy, chance, z = above_chance(cross_validated(train), train.labels)
    if z < CHANCE:
        level = LIKELY if n >= 10 * len(train.data.classes) else POSSIBLE
        detail = (
            f"a plain linear classifier tells {accuracy:.0%} of {n} training images right, by chance {chance:.0%}: "
            "labels and images have nothing to do with each other"
        )
        fix = f"look at a dozen images with their labels: {again}; shuffle both by one permutation"
        yield Cause("shuffled labels", "data", level, detail, fix, _some(train))
        return
    for other in others:
        if len(other.labels) >= 20:
            yield from _unlike(train, other) or _relabelled(train, other, accuracy, again)


def balanced(part: Part) -> Part:
    """The same without most images of the commonest classes: no more than three times as many as of the rarest."""
    counts = np.bincount(part.labels)
    most = 3 * max(counts[counts > 0].min(), 5)
    rank = np.zeros(len(part.labels), int)
    for label in np.flatnonzero(counts):
        rank[part.labels == label] = np.arange(counts[label])
    return part.picked(np.flatnonzero(rank < most))


def _relabelled(train, other, usual, again):
    tell = taught(train)
    said = tell(other)
    accuracy, chance, z = above_chance(said, other.labels)
    names = train.data.classes
    order, permuted = best_order(said, other.labels, len(names))
    views = {what: (tell(other.seen(view)) == other.labels).mean() for what, view in _VIEWS.items()}
    what = max(views, key=views.get)
    if views[what] > max(0.6 * usual, accuracy + 0.2, permuted - 0.1) and len(other.labels) >= 40:
        detail = f"the {other.name} images {what}: so changed back, what tells {usual:.0%} of the training images "
        detail += f"right tells {views[what]:.0%} of them, as they are {accuracy:.0%}"
        yield Cause("other images", "data", SURE, detail, ONE_CODE, _some(other) | {"beside": _some(train)["images"]})
        return
    if permuted - accuracy > 0.15 and permuted > 0.6 * usual and (order != np.arange(len(names))).any():
        detail = (
            f"by the training part's numbers {accuracy:.0%} of the {other.name} labels fit their images, by others "
            f"{permuted:.0%}: {in_words(order, names)}"
        )
        fix = "number the classes of both parts by one list of names, saved with the network"
        yield Cause("label order", "data", SURE, detail, fix, _some(other))
    elif z < CHANCE and len(other.labels) >= 40:
        detail = f"what tells {usual:.0%} of the training images right tells {accuracy:.0%} of the {other.name} images"
        detail += f" (chance: {chance:.0%}): their labels are not theirs"
        fix = f"look at a dozen of them with their labels: {again}"
        yield Cause("shuffled labels", "data", LIKELY, detail, fix, _some(other))


def best_order(said: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, float]:
    """(for each label the class that is meant by it, the accuracy with that), by the largest counts first."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, said), 1)
    right, order = 0.0, np.full(classes, -1)
    left = counts.copy()
    for _ in range(classes):
        label, meant = np.unravel_index(left.argmax(), left.shape)
        order[label] = meant
        right += counts[label, meant]
        left[label], left[:, meant] = -1, -1
    return order, float(right / len(labels))


def in_words(order: np.ndarray, names: tuple[str, ...]) -> str:
    """Which class is written for which; where sorting the names explains it, that."""
    text = sorted(range(len(names)), key=lambda k: names[k])
    number = sorted(range(len(names)), key=lambda k: natural_key(names[k]))
    if text != number and (order.tolist() in (text, np.argsort(text).tolist())):
        return "their names are sorted as text in one place and by number in the other"
    moved = [f"{names[k]!r} stands for {names[m]!r}" for k, m in enumerate(order) if k != m]
    return ", ".join(moved[:3]) + (" ..." if moved[3:] else "")


def statistics(images: np.ndarray) -> np.ndarray:
    """(n, F): colours, contrast, sharpness, and where it is light, of small images."""
    x = images.astype(np.float64) / 255
    grey = x.mean(axis=3)
    edges = [np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    places = grey.reshape(len(x), 4, 8, 4, 8).mean(axis=(2, 4)).reshape(len(x), -1)
    columns = [x.mean(axis=(1, 2)), x.std(axis=(1, 2)), x.min(axis=(1, 2)), x.max(axis=(1, 2)), np.array(edges).T]
    hue = x - x.mean(axis=3, keepdims=True)
    return np.hstack([*columns, hue.mean(axis=(1, 2)), places])


def told_apart(one: np.ndarray, other: np.ndarray) -> float:
    """How well ridge regression on their statistics tells the images of two parts apart: 0.5 is not at all."""
    x = np.vstack([one, other])
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    which = np.repeat([0, 1], [len(one), len(other)])
    said = ridge_said(x, which, 2)
    return float(np.mean([(said[which == k] == k).mean() for k in (0, 1)]))


def _unlike(train, other) -> list[Cause]:
    """Whether the images of two parts are of one kind; which change would make them so."""
    ours, theirs = statistics(train.small), statistics(other.small)
    chosen = np.random.default_rng(0).permutation(len(ours))[: 3 * len(theirs)]
    ours = ours[chosen]
    apart = told_apart(ours, theirs)
    if apart < APART[0]:
        return []
    seen = {what: told_apart(ours, statistics(view(other.small))) for what, view in _VIEWS.items()}
    what = min(seen, key=seen.get)
    low, high = np.median(other.colours), np.median(train.colours)
    if seen[what] < 0.5 + 0.5 * (apart - 0.5):
        why = f": they {what}"
    elif not 0.67 < (low + 1) / (high + 1) < 1.5:
        why = f": their mean is {low:.0f} of 255, of the training images {high:.0f}"
    else:
        why = ""
    detail = f"plain statistics tell {other.name} images from training images {apart:.0%} of the time{why}"
    level = SURE if apart > APART[1] or why else LIKELY
    return [Cause("other images", "data", level, detail, ONE_CODE, _some(other) | {"beside": _some(train)["images"]})]


def _some(part, chosen=None) -> dict:
    """A few small images with their labels, for the picture."""
    at = np.arange(len(part.small)) if chosen is None else np.arange(len(part.small))[chosen]
    at = at[:: max(1, len(at) // 12)][:12]
    return {"images": part.small[at], "labels": [part.data.classes[k] for k in part.labels[at]]}
