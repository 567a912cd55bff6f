"""Wrong answers to exercise 11: the reference solution with lines exchanged. name: (the check that fails, edits)."""

WRONG = {
    "sign": ("rules", [("-rstd * dx_hat.sum", "rstd * dx_hat.sum")]),
    "not divided by m": ("rules", [("dmean / m", "dmean")]),
    "variance dropped for it": ("rules", [(" + dvar * 2 * centred / m", "")]),
    "gamma forgotten": ("dx", [("dx_hat = dy * gamma", "dx_hat = dy")]),
}
