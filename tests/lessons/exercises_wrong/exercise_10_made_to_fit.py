"""Wrong answers to exercise 10: the reference solution with lines exchanged. name: (the check that fails, edits)."""

PROJECTION = ("2 * channels, 1, stride=2", "2 * channels, 1")


def cut(where: str) -> list:
    """A projection with stride 1 of which a slice is used."""
    back = "        dfull = dy.repeat(2, 1).repeat(2, 2) * 0\n"
    back += f"        dfull[{where}] = dshortcut\n"
    back += "        return self.branch.backward(dbranch) + self.shortcut.backward(dfull)"
    return [
        PROJECTION,
        ("shortcut = self.shortcut.forward(x)", f"shortcut = self.shortcut.forward(x)[{where}]"),
        ("        return self.branch.backward(dbranch) + self.shortcut.backward(dshortcut)", back),
    ]


WRONG = {
    "stride gone from both": ("shape", [PROJECTION, ("3, stride=2, pad=1", "3, pad=1")]),
    "the centre": ("reach", cut(":, 2:6, 2:6")),
    "every other pixel, afterwards": ("shortcut", cut(":, ::2, ::2")),
    "pooled": (
        "shortcut",
        [
            PROJECTION,
            (
                '            nn.Conv2d(f"{name}.conv0"',
                '            nn.AvgPool2d(f"{name}.pool", 2),\n            nn.Conv2d(f"{name}.conv0"',
            ),
        ],
    ),
    "shortcut's gradient dropped": ("dx", [(" + self.shortcut.backward(dshortcut)", "")]),
}
