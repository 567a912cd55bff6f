"""Wrong answers to exercise 1: the reference solution with lines exchanged. name: (the check that fails, edits)."""

WRONG = {
    "columns lie on their side": ("shape", [("R * S * C)\n", "R * S * C).T\n")]),
    "channels before cells": (
        "order",
        [("(N, P, Q, R, S, C), x.dtype", "(N, P, Q, C, R, S), x.dtype"), ("[:, :, :, r, s] =", "[:, :, :, :, r, s] =")],
    ),
    "images last": ("order", [("fields.reshape", "fields.transpose(1, 2, 0, 3, 4, 5).reshape")]),
    "stride in the count only": ("strides", [("r : r + sv * P : sv, s : s + sh * Q : sh", "r : r + P, s : s + Q")]),
    "memory taken for contiguous": (
        "views",
        [
            (
                "    N, H, W, C = x.shape\n",
                "    N, H, W, C = x.shape\n    strides = np.empty(x.shape, x.dtype).strides\n",
            ),
            ("    P, Q", "    x = np.lib.stride_tricks.as_strided(x, x.shape, strides)\n    P, Q"),
        ],
    ),
    "float64 on the way": ("dtype", [("(N, P, Q, R, S, C), x.dtype", "(N, P, Q, R, S, C)")]),
}
