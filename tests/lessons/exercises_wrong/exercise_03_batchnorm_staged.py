"""Wrong answers to exercise 3: the reference solution with lines exchanged. name: (the check that fails, edits)."""

WRONG = {
    "gamma forgotten": ("dx_hat", [("dx_hat = dy * gamma", "dx_hat = dy")]),
    "not summed": ("drstd", [("(dx_hat * centred).sum(axis=0)", "dx_hat * centred")]),
    "wrong exponent": ("dvar", [("rstd**3", "rstd**2")]),
    "one of two paths": ("dcentred", [(" + 2 * centred * dvar / m", "")]),
    "mean a constant": ("dx", [("dx = dcentred + dmean / m", "dx = dcentred")]),
    "mean's share": ("dx", [("dmean / m", "dmean")]),
    "cache changed": (
        "in place",
        [("dcentred = dx_hat", "centred *= 2\n    dcentred = dx_hat"), ("2 * centred *", "centred *")],
    ),
}
