"""Wrong answers to exercise 4: the reference solution with lines exchanged. name: (the check that fails, edits)."""

TERMS = "(dbeta + x_hat * dgamma) / m"
WRONG = {
    "statistics constant": ("dx", [(f"(dy - {TERMS})", "dy")]),
    "no term through the mean": ("dx", [(TERMS, "x_hat * dgamma / m")]),
    "no term through the variance": ("dx", [(TERMS, "dbeta / m")]),
    "m counts images": ("dx", [("m = x.size // x.shape[-1]", "m = len(x)")]),
    "digits lost": (
        "digits",
        [("(dy * x_hat).sum(axis=(0, 1, 2))", "((dy * x).sum(axis=(0, 1, 2)) - mean * dbeta) * rstd")],
    ),
    "x centred in place": ("in place", [("x_hat = (x - mean) * rstd", "x -= mean\n    x_hat = x * rstd")]),
}
