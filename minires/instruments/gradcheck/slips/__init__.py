"""Slips by what a layer computes: its forward is recognised by its numbers, its backward by the slip that gives them.

Each file yields (cause, what is seen, what to do, the gradient with that slip) for a tensor of a forward that it
recognises, of whatever class or function; the one that is the wrong gradient, to its last digits, explains it.
"""

from itertools import chain

import numpy as np

from minires.instruments.gradcheck.slips import elementwise, statistics, windows

EXACT = 1e-7  # relative difference of a gradient computed with a slip from the one it explains


def of_windows(e) -> tuple[str, str, str] | None:
    """The slip of a convolution or a pooling that is this gradient."""
    return _first(e, windows.convolution(e), windows.pooling(e), windows.whole(e))


def of_formulas(e) -> tuple[str, str, str] | None:
    """The slip of a product, normalisation, softmax or function of each number that is this gradient."""
    return _first(e, statistics.dense(e), statistics.normalisation(e), statistics.softmax(e), elementwise.masks(e))


def _first(e, *slips):
    size = np.linalg.norm(e.analytic)
    for cause, seen, fix, wrong in chain(*slips):
        if wrong.shape == e.analytic.shape and np.linalg.norm(wrong - e.analytic) <= EXACT * size:
            return cause, seen, fix
    return None
