"""Random affine changes and brightness for training images, in uint8: drawn on the CPU, done where the images are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minires.backend import device_of
from minires.fast.gpu import kernels
from minires.ranges import check_fields


@dataclass(frozen=True)
class Augment:
    """How far training images are changed at random; each draw is uniform between -limit and +limit.

    shift       fraction of height and width
    rotate      degrees
    scale       relative size: 0.1 is 0.9 to 1.1 times as large
    flip        mirror left-right every other time
    brightness  relative: 0.1 is 0.9 to 1.1 times as bright

    Raises ConfigError for a limit that is negative, not finite, or so large that no image would be left.
    """

    shift: float = 0.1
    rotate: float = 15.0
    scale: float = 0.1
    flip: bool = False
    brightness: float = 0.1

    def __post_init__(self):
        check_fields(self)

    def __call__(self, images: np.ndarray, keys: Sequence[Sequence[int]]) -> np.ndarray:
        """Change images (n, H, W, 3) uint8, each by the random generator of its own key (whole numbers).

        An image's result depends on its key alone, not on its neighbours in the batch.
        """
        return warp(images, *self.draw(keys, images.shape[1:3]))

    def draw(self, keys: Sequence[Sequence[int]], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(matrices (n, 2, 3), gains (n,)) for `warp`: what happens to images of `size` (H, W) with these keys."""
        draws = np.array([np.random.default_rng(key).random(6) for key in keys]).reshape(-1, 6)
        down, right, turn, grow, bright = 2 * draws.T[:5] - 1
        height, width = size
        matrices = affine(
            angle=turn * self.rotate,
            scale=1 + grow * self.scale,
            shift=np.stack([down * self.shift * height, right * self.shift * width], axis=1),
            mirror=(draws[:, 5] < 0.5) & self.flip,
            size=size,
        )
        return matrices, 1 + bright * self.brightness


def affine(angle, scale, shift, mirror, size: tuple[int, int]) -> np.ndarray:
    """Matrices (n, 2, 3) that give, for an output pixel (y, x, 1), the input position (y, x) to read.

    angle   degrees (n,), counter-clockwise as seen     scale  relative size (n,), above 0
    shift   pixels down and right (n, 2)                mirror  left-right, bool (n,)
    All about the centre of an image of `size` (H, W); the shift comes last.
    """
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    sign = np.where(mirror, -1.0, 1.0)
    linear = np.array([[cos, sin], [-sin * sign, cos * sign]]) / scale  # y points down
    linear = np.moveaxis(linear, -1, 0)
    centre = (np.array(size) - 1) / 2
    offset = centre - np.einsum("nij,nj->ni", linear, centre + shift)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def warp(images: np.ndarray, matrices: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
    """Read images (n, H, W, 3) uint8 at affine positions, bilinear; outside, the border pixel repeats.

    matrices (n, 2, 3) as `affine` makes them; gain (n,) multiplies the result. Returns uint8 of equal shape; images
    on a GPU stay there, and get the same bytes.
    """
    if device_of(images) == "gpu":
        return kernels.warp(images, matrices, np.ones(len(images)) if gain is None else gain)
    out = np.empty_like(images)
    gains = np.ones(len(images)) if gain is None else gain
    # image by image: all temporaries stay in the cache, three times as fast as the whole batch at once
    for target, image, matrix, factor in zip(out, images, matrices, gains, strict=True):
        _warp_one(target, image, matrix.astype(np.float32), np.float32(factor))
    return out


def _warp_one(out: np.ndarray, image: np.ndarray, matrix: np.ndarray, gain: np.float32) -> None:
    height, width, _ = image.shape
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    (yy, yx, y0), (xy, xx, x0) = matrix
    y = np.clip((yy * rows + y0) + yx * columns, 0, height - 1)
    x = np.clip((xy * rows + x0) + xx * columns, 0, width - 1)
    top, left = y.astype(np.intp), x.astype(np.intp)
    y -= top
    x -= left
    # at the last row or column the weight of the next one is 0, so any valid pixel will do
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    corners = [row * width + column for row in (top, bottom) for column in (left, right)]
    for channel in range(3):
        plane = image[:, :, channel].astype(np.float32)
        upper_left, upper_right, lower_left, lower_right = (plane.take(corner) for corner in corners)
        upper = _between(upper_left, upper_right, x)
        lower = _between(lower_left, lower_right, x)
        mixed = _between(upper, lower, y) * gain
        out[:, :, channel] = np.clip(np.rint(mixed), 0, 255)


def _between(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + (second - first) * weight
