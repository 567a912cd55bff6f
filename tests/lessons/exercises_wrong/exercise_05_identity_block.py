"""Wrong answers to exercise 5: the reference solution with lines exchanged. name: (the check that fails, edits)."""

ADD = "        y = self.add.forward(y, x)\n        return self.after.forward(y)"
WRONG = {
    "map shrinks": ("layers", [("F1, F2, 3, pad=1", "F1, F2, 3")]),
    "ReLU at the branch's end": (
        "layers",
        [('nn.BatchNorm(f"{name}.bn3", channels),', 'nn.BatchNorm(f"{name}.bn3", channels), nn.ReLU(f"{name}.r"),')],
    ),
    "ReLU before the add": ("values", [(ADD, "        return self.add.forward(self.after.forward(y), x)")]),
    "branch twice": ("values", [("self.add.forward(y, x)", "self.add.forward(y, y)")]),
    "no last ReLU": ("values", [(ADD, "        return self.add.forward(y, x)")]),
    "no shortcut in backward": ("dx", [("return dx + dshortcut", "return dx")]),
    "shortcut round the ReLU": ("dx", [("return dx + dshortcut", "return dx + dy")]),
    "dy scaled in place": ("in place", [("        dx = self.branch", "        dy *= 2\n        dx = self.branch")]),
}
