"""Wrong answers to exercise 2: the reference solution with lines exchanged. name: (the check that fails, edits)."""

WRONG = {
    "bias averaged": ("db", [("dy.sum(axis=(0, 1, 2))", "dy.mean(axis=(0, 1, 2))")]),
    "kernel turned": ("dw", [("dw[r, s] =", "dw[R - 1 - r, S - 1 - s] =")]),
    "overlaps overwritten": ("dx", [("dpadded[cell] +=", "dpadded[cell] =")]),
    "window turned": ("dx", [("dy @ w[r, s].T", "dy @ w[R - 1 - r, S - 1 - s].T")]),
    "stride forgotten in dx": ("stride", [("dpadded[cell] +=", "dpadded[:, r : r + P, s : s + Q] +=")]),
    "border kept": ("padding", [("dpadded[:, pad : pad + H, pad : pad + W]", "dpadded")]),
    "border off at one side": ("padding", [("dpadded[:, pad : pad + H, pad : pad + W]", "dpadded[:, :H, :W]")]),
}
