"""Wrong answers to exercise 8: the reference solution with lines exchanged. name: (the check that fails, edits)."""

WRONG = {
    "size kept": ("dx", [("return dbranch + dshortcut", "return (dbranch + dshortcut) / 2**0.5")]),
    "branch alone": ("dx", [("return dbranch + dshortcut", "return dbranch")]),
    "one path halved": ("dx", [("self.branch.backward(dbranch)", "self.branch.backward(dbranch / 2)")]),
    "doubled at the end": (
        "parameters",
        [
            ("self.add.backward(self.after.backward(dy))", "self.add.backward(self.after.backward(dy) / 2)"),
            ("return dbranch + dshortcut", "return 2 * (dbranch + dshortcut)"),
        ],
    ),
}
