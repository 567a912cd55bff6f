"""Wrong answers to exercise 9: the reference solution with lines exchanged. name: (the check that fails, edits)."""

IN_PLACE = ("return dout * (x > 0)", "dout[x < 0] = 0\n    return dout")
WRONG = {
    "mask turned round": ("relu alone", [("(x > 0)", "(x < 0)")]),
    "mask of the wrong array": ("dw", [("relu_backward(dbranch, z)", "relu_backward(dbranch, x)")]),
    "shortcut dropped": ("dx", [("return dx + dshortcut, dw", "return dx, dw")]),
    "shortcut copied": ("in place", [IN_PLACE, ("    dz =", "    dshortcut = dshortcut.copy()\n    dz =")]),
    "branch copied": ("in place", [IN_PLACE, ("relu_backward(dbranch, z)", "relu_backward(dbranch.copy(), z)")]),
}
