"""Wrong answers to exercise 7: the reference solution with lines exchanged. name: (the check that fails, edits)."""

BACK = "return dx + self.shortcut.backward(dshortcut)"
WRONG = {
    "projection left out": ("skip", [("self.shortcut.forward(x)", "x"), (BACK, "return dx + dshortcut")]),
    "forward mended alone": (
        "dx",
        [
            (
                "        for layer in reversed",
                "        dx = dx + self.shortcut.backward(dshortcut)\n        for layer in reversed",
            ),
            (BACK, "return dx"),
        ],
    ),
    "shortcut's gradient dropped": ("dx", [(BACK, "return dx")]),
    "shortcut scaled": (
        "skip",
        [
            ("self.shortcut.forward(x))", "0.5 * self.shortcut.forward(x))"),
            ("backward(dshortcut)", "backward(0.5 * dshortcut)"),
        ],
    ),
}
