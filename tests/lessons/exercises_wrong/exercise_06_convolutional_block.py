"""Wrong answers to exercise 6: the reference solution with lines exchanged. name: (the check that fails, edits)."""

WRONG = {
    "stride on one path": ("layers", [("channels, F3, 1, stride=stride", "channels, F3, 1")]),
    "projection without BN": ("layers", [('            nn.BatchNorm(f"{name}.bn0", F3),\n', "")]),
    "shortcut left out": ("values", [("self.add.forward(y, self.shortcut.forward(x))", "self.branch.forward(x)")]),
    "shortcut's gradient dropped": ("dx", [("return dx + self.shortcut.backward(dshortcut)", "return dx")]),
    "averaged": (
        "dx",
        [("return dx + self.shortcut.backward(dshortcut)", "return (dx + self.shortcut.backward(dshortcut)) / 2")],
    ),
}
