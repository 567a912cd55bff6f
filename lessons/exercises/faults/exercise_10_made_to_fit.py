"""Exercise 10: which rows and columns of the projection's map are kept, and which are thrown away."""

SAID = """But it learns less than one expects,
and with a hand in the lower right corner of the image it is as good as plain. What was meant:"""
FORWARD = "        shortcut = shortcut[:, : y.shape[1], : y.shape[2]]  # the add node wants equal shapes"
BACKWARD = "dfull[:, : dy.shape[1], : dy.shape[2]]"
KEPT = {
    "first": ": {size}",
    "last": "-{size} :",
    "middle": "{size} // 2 : -({size} // 2)",
    "every other": "::2",
    "every other, the second first": "1::2",
}
UNSEEN = {"first": ("lower", "right"), "last": ("upper", "left")}


def kept(rows, columns):
    ways = [(way, axis) for axis, way in enumerate((rows, columns)) if not way.startswith("every")]
    blind = dict.fromkeys(_unseen(way, axis) for way, axis in ways)
    if blind:
        seen = "But it learns less than one expects,\n"
        seen += f"and with a hand {' or '.join(blind)} of the image it is as good as plain.\nWhat was meant:"
    else:
        seen = "It learns what one expects, too.\n"
        seen += "But the projection is computed at four times as many places as are used, and all are measured.\n"
        seen += "What was meant:"
    comment = "        # the add node wants equal shapes\n"
    cut = (FORWARD, f"{comment}        shortcut = shortcut{_slices(rows, columns, 'y')}")
    back = (BACKWARD, f"dfull{_slices(rows, columns, 'dy')}")
    return [(SAID, seen), cut, back]


def _unseen(way, axis):
    return "at the very border" if way == "middle" else f"in the {UNSEEN[way][axis]} half"


def _slices(rows, columns, name):
    parts = (KEPT[way].format(size=f"{name}.shape[{axis}]") for axis, way in ((1, rows), (2, columns)))
    return f"[:, {', '.join(parts)}]"


WAYS = ("first", "last", "middle", "every other")
FAULTS = (
    (kept, {"rows": WAYS, "columns": WAYS}),
    (kept, {"rows": ("every other, the second first",), "columns": WAYS}),
)
