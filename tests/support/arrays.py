"""Arrays to test with, and the checks that every op has to pass."""

import numpy as np

TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-11}


def frozen(*arrays):
    """The arrays, read-only: an op that writes its input raises."""
    for array in arrays:
        if array is not None:
            array.setflags(write=False)
    return arrays[0] if len(arrays) == 1 else arrays


def normal(rng, shape, dtype=np.float64):
    """Read-only standard normal numbers."""
    return frozen(rng.standard_normal(shape).astype(dtype))


def spread(rng, shape, dtype=np.float64):
    """Read-only numbers that differ by 0.1 or more from each other and from 0: away from every tie and kink."""
    steps = rng.permutation(int(np.prod(shape))) - int(np.prod(shape)) // 2 + 0.5
    return frozen((steps.reshape(shape) * 0.2).astype(dtype))


OUTLIERS = {
    "none": (),
    "the first image": (0,),
    "the last image": (-1,),
    "the first pixel": (0, 0, 0),
    "a corner of each image": (slice(None), 0, 0),
    "the upper edge of each image": (slice(None), 0),
    "the middle of each image": (slice(None), 16, 16),
}


def with_outliers(where, by=1000):
    """A batch in float32 whose numbers at one of the places of OUTLIERS are far from all others."""
    x = np.random.default_rng(0).standard_normal((32, 32, 32, 16)).astype(np.float32)
    if where != "none":
        x[OUTLIERS[where]] += np.float32(by)
    return frozen(x)


def assert_variance(var, x, tolerance=3e-6):
    """The variance of each channel of x, to so much of it."""
    exact = x.astype(np.float64).var(axis=tuple(range(x.ndim - 1)))
    assert np.abs(var / exact - 1).max() <= tolerance


def assert_same(actual, expected):
    """Equal shape and dtype, and equal numbers up to the dtype's rounding, relative to the largest one."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
        return
    if expected is None:
        assert actual is None
        return
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.size:
        error = np.abs(actual - expected).max()
        assert error <= TOLERANCE[expected.dtype] * max(1.0, np.abs(expected).max()), f"off by {error}"


def assert_gradients(function, tensors, gradients, dy, *, tolerance=1e-7, step=1e-4):
    """Each gradient of L = <function(*tensors), dy> against central differences of L, in float64.

    The differences go along two random directions and along three single coordinates of every tensor; the
    error is relative to |gradient| |direction|.
    """
    rng = np.random.default_rng(0)

    def loss(index, change):
        moved = [t + change if i == index else t for i, t in enumerate(tensors)]
        return float(np.sum(function(*moved) * dy))

    for index, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        assert gradient.shape == tensor.shape
        directions = [rng.standard_normal(tensor.shape) for _ in range(2)]
        for at in rng.choice(tensor.size, min(3, tensor.size), replace=False):
            directions.append((np.arange(tensor.size) == at).astype(np.float64).reshape(tensor.shape))
        for direction in directions:
            # no element moves by more than `step`, so none crosses a kink that `spread` kept away
            direction = direction / np.abs(direction).max()
            numeric = (loss(index, step * direction) - loss(index, -step * direction)) / (2 * step)
            scale = np.linalg.norm(gradient) * np.linalg.norm(direction) + 1e-2
            assert abs(numeric - np.sum(gradient * direction)) <= tolerance * scale, f"gradient of tensor {index}"
