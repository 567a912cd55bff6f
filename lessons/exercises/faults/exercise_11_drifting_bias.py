"""Exercise 11: a term, a factor, a power or a count that is not the paper's."""

TITLE = "the bias that drifts"
SAID = """One observation: the bias of the convolution before the normalisation wanders
off, further with each step, although no output depends on it (the mean is subtracted right after it is added)."""
KERNEL = """One observation: the gradient of the kernel before the normalisation has a
part along the kernel itself, although no output depends on its length (the scale is divided out right after it)."""
SIZE = """One observation: in each channel dx sums to 0 and is orthogonal to x_hat, as
it should be; and still it is not what central differences say."""
GAMMA = "One observation: dx and dbeta are what central differences say, dgamma is not."
COUNT = "    m = x.size // x.shape[-1]\n"
DX_HAT = "    dx_hat = dy * gamma\n"
DVAR = "-0.5 * rstd**3\n"
DMEAN = "    dmean = dvar * -2"
RIGHT = (DMEAN, "    dmean = -rstd * dx_hat.sum(axis=AXES) + dvar * -2")
DX = "    dx = dx_hat * rstd + dvar * 2 * centred / m + dmean / m\n"
DGAMMA = "(dy * centred * rstd).sum(axis=AXES)"


def mean_term(factor):
    """In front of rstd, which the paper has with a minus alone; None: no such term."""
    return [] if factor is None else [(DMEAN, f"    dmean = {factor}rstd * dx_hat.sum(axis=AXES) + dvar * -2")]


def count(form):
    return [RIGHT, (COUNT, f"    m = {form}\n")]


def mean_last(form):
    return [RIGHT, (DX, f"    dx = dx_hat * rstd + dvar * 2 * centred / m{form}\n")]


def variance(form):
    return [RIGHT, (SAID, KERNEL), (TITLE, "the kernel that stretches"), (DVAR, f"{form}\n")]


def variance_last(form):
    return [
        RIGHT,
        (SAID, KERNEL),
        (TITLE, "the kernel that stretches"),
        (DX, f"    dx = dx_hat * rstd{form} + dmean / m\n"),
    ]


def size(form):
    return [RIGHT, (SAID, SIZE), (TITLE, "the right way, the wrong length"), (DX_HAT, f"    dx_hat = {form}\n")]


def scale(form):
    return [RIGHT, (SAID, GAMMA), (TITLE, "the gamma that drifts"), (DGAMMA, form)]


FAULTS = (
    (mean_term, {"factor": (None, "-0.5 * ", "-2 * ", "")}),
    (count, {"form": ("len(x)", "x.shape[1] * x.shape[2]", "x.size")}),
    (mean_last, {"form": ("", " + dmean", " - dmean / m")}),
    (variance, {"form": ("0.5 * rstd**3", "-0.5 * rstd**2", "-rstd**3", "-0.5 * rstd")}),
    (variance_last, {"form": ("", " + dvar * 2 * centred", " + dvar * centred / m", " - dvar * 2 * centred / m")}),
    (size, {"form": ("dy", "dy / gamma", "dy * gamma**2", "dy * abs(gamma).max()")}),
    (
        scale,
        {
            "form": (
                "(dy * x * rstd).sum(axis=AXES)",
                "(dy * centred).sum(axis=AXES)",
                "(dx_hat * centred * rstd).sum(axis=AXES)",
            )
        },
    ),
)
