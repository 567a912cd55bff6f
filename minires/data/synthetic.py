"""Built-in hand signs, drawn with NumPy alone: classes "0" to "5" are the number of raised fingers.

A hand is a set of tapered capsules. Each has a signed distance (outline, shadow on the wall, antialiasing)
and a height above the wall (relief, hence shading and the creases between parts).

Units: the palm is about 0.9 wide and 1 high; x points right, y up, z towards the viewer. The hand drawn is a
right hand seen from its back or a left hand seen from its palm, thumb on the left; half of them are mirrored.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from minires.data.dataset import Dataset, check_images

CLASSES = ("0", "1", "2", "3", "4", "5")
_MARGIN = 0.3  # hand units beyond an outline up to which distances are wanted: blends and soft shadows
_THUMB = 4
# index, middle, ring, little finger: knuckle x, y; length; radius; direction in degrees left of straight up
_FINGERS = (
    (-0.33, 0.40, 0.86, 0.118, 10.0),
    (-0.11, 0.47, 0.97, 0.122, 2.0),
    (0.11, 0.44, 0.90, 0.116, -7.0),
    (0.31, 0.33, 0.70, 0.102, -18.0),
)
_SKIN = np.array(
    [[255, 222, 196], [243, 200, 160], [226, 175, 130], [198, 138, 96], [145, 92, 60], [98, 62, 44]], float
)
_NAIL = np.array([245, 205, 190.0])


def make_signs(n_train: int = 1080, n_test: int = 120, size: int = 64, seed: int = 0) -> tuple["Signs", "Signs"]:
    """Hands: (training, test), each balanced over the six classes, images (n, size, size, 3) uint8.

    Image i of a part depends on (seed, part, i) only, and is drawn when it is first asked for. Any subset of the five
    fingers may stand for its number, though most count from the index on; tone of the skin, light, wall, angle, size,
    place, side of the hand and noise vary.

    >>> train, test = minires.make_signs(n_train=12, n_test=6, size=16)
    >>> len(train), train.shape, train.classes
    (12, (16, 16, 3), ('0', '1', '2', '3', '4', '5'))
    >>> train.images([0, 1]).dtype, train.labels[:3].tolist()
    (dtype('uint8'), ...)
    """
    return Signs(n_train, size, (seed, 0)), Signs(n_test, size, (seed, 1))


class Signs(Dataset):
    """`count` hands of the stream of random numbers that `key` = (seed, part) begins; drawn once, kept."""

    def __init__(self, count: int, size: int, key: tuple[int, int]):
        self.labels = np.arange(count) % len(CLASSES)
        self.classes, self.source, self.flip_ok = CLASSES, "builtin", True
        self.shape = check_images((count, size, size, 3), np.dtype(np.uint8), self.source)
        self._key = key
        self._images, self._drawn = _sheet(self.shape, count, key)

    def images(self, index):
        index = np.asarray(index, dtype=np.intp)
        for i in np.unique(np.arange(len(self))[index]):  # of a negative index the image that it names
            if not self._drawn[i]:
                rng = np.random.default_rng([*self._key, i])
                self._images[i] = draw_hand(int(self.labels[i]), self.shape[0], rng)
                self._drawn[i] = True
        return self._images[index]


@lru_cache(maxsize=8)  # whoever loads the same hands twice does not wait twice
def _sheet(shape: tuple[int, ...], count: int, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Room for images, and which of them are drawn."""
    return np.empty((count, *shape), np.uint8), np.zeros(count, bool)


def draw_hand(fingers: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One hand with that many raised fingers, uint8 (size, size, 3)."""
    raised = _raised(fingers, rng)
    sample = 1 / size  # the image spans -1..1, with two samples a pixel each way
    axis = (np.arange(2 * size, dtype=np.float32) + 0.5) * sample - 1
    reach = rng.uniform(1.1, 1.3)  # hand units from the centre of the image to its side
    x, y = _place(axis, axis[:, None], reach, bool(raised - {_THUMB}), rng)
    hand = _Relief(x, y)
    is_back = rng.random() < 0.05
    nails = _add_hand(hand, raised, is_back, rng)
    sleeve = rng.uniform(-1.0, -0.75) if rng.random() < 0.5 else -9.0

    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(35, 65))
    level = np.cos(elevation)
    light = np.array([np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(elevation)], np.float32)
    spacing = reach * sample
    throw = light[:2] * (rng.uniform(0.06, 0.2) / spacing / light[2])
    softness = rng.uniform(0.08, 0.25)
    shadow = _step(-_moved(hand.distance, -throw), -softness, softness)
    shade = _shading(hand.height, spacing, light, ambient=rng.uniform(0.4, 0.6))
    cover = _step(-hand.distance, -spacing, spacing)
    nail = np.zeros_like(x)
    for ends in nails:
        window, distance, _ = hand.measure(*ends)
        nail[window] += _step(-distance, 0, 0.03)

    # one value a pixel from here on
    shade = (_shrunk(shade * cover) / np.maximum(_shrunk(cover), 1e-6))[..., None]
    cover, shadow, nail, sleeved = (_shrunk(f)[..., None] for f in (cover, shadow, nail, y < sleeve))
    skin = _skin_tone(is_back, rng)
    colour = skin + sleeved * (_dye(rng) - skin) + nail * 0.6 * (_NAIL - skin)
    # dark skin turns red before it turns black
    colour *= shade * (1 + (1 - shade) * np.array([0.15, -0.05, -0.15]))
    image = _wall(size, skin, rng) * (1 - rng.uniform(0.1, 0.3) * shadow)
    image += cover * (colour - image)
    return _camera(image, rng)


def _raised(fingers: int, rng) -> set[int]:
    """Which fingers stand: mostly as one counts, from the index on, else any subset of that number."""
    return set(range(fingers) if rng.random() < 0.97 else rng.permutation(5)[:fingers].tolist())


class _Relief:
    """Signed distance to the outline, and height, of a hand on the grid x, y; built part by part."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.x, self.y = x, y
        self.distance = np.full(x.shape, 9, np.float32)
        self.height = np.zeros(x.shape, np.float32)
        corner, below, right = (np.array([x[at], y[at]], float) for at in ((0, 0), (1, 0), (0, 1)))
        self._corner, self._to_pixels = corner, np.linalg.inv([below - corner, right - corner])
        self._pixels_a_unit = np.linalg.norm(self._to_pixels, 2)

    def measure(self, start, end) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """A capsule with ends (x, y, z, radius): the window of pixels near it, its distance and height there.

        Nothing further away than `_MARGIN` depends on it, and a finger is near few pixels.
        """
        # Python numbers, as NumPy's float64 scalars would widen the float32 grid
        (ax, ay, az, ar), (bx, by, bz, br) = map(float, start), map(float, end)
        ends = (np.array([[ax, ay], [bx, by]]) - self._corner) @ self._to_pixels
        far = (max(ar, br) + _MARGIN) * self._pixels_a_unit
        low, high = np.maximum(ends.min(axis=0) - far, 0), np.maximum(ends.max(axis=0) + far, 0)
        window = tuple(slice(int(first), int(last) + 1) for first, last in zip(low, high, strict=True))
        dx, dy = bx - ax, by - ay
        px, py = self.x[window] - ax, self.y[window] - ay
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        px -= along * dx
        py -= along * dy
        squared = px * px + py * py
        radius = ar + along * (br - ar)
        distance = np.sqrt(squared) - radius
        height = np.sqrt(np.maximum(radius * radius - squared, 0)) + (az + along * (bz - az))
        return window, distance, np.where(distance < 0, height, 0)

    def add(self, *points, blend: float = 0.04) -> None:
        """Join a chain of capsules; `blend` is the length over which inner corners are rounded."""
        for start, end in pairwise(points):
            window, distance, height = self.measure(start, end)
            before = self.distance[window]
            near = np.maximum(blend - np.abs(before - distance), 0)
            self.distance[window] = np.minimum(before, distance) - near * near / (4 * blend)
            self.height[window] = np.maximum(self.height[window], height)

    def inflate(self, height: float, edge: float) -> None:
        """Give all that has been added one flat surface with a rounded edge of width `edge`."""
        depth = 1 - np.clip(-self.distance / edge, 0, 1)
        self.height = height * np.sqrt(1 - depth * depth)


def _place(across, down, reach: float, is_long: bool, rng) -> tuple[np.ndarray, np.ndarray]:
    """Hand coordinates x, y of every pixel: turned, shifted, mirrored, slightly narrowed."""
    angle = np.deg2rad(rng.uniform(-8, 8))
    shift = rng.uniform(-0.2, 0.2, 2)
    mirror = rng.choice([-1.0, 1.0])
    across, up = (across - shift[0]) * reach, (-down - shift[1]) * reach
    x = (np.cos(angle) * across + np.sin(angle) * up) * mirror / rng.uniform(0.85, 1.0)
    y = np.cos(angle) * up - np.sin(angle) * across + (0.4 if is_long else 0.1)
    return x.astype(np.float32), y.astype(np.float32)


def _add_hand(hand: _Relief, raised: set[int], is_back: bool, rng) -> list[tuple]:
    """Add all parts of a hand; returns the nails to paint, as capsules."""
    hand.add((0, -0.5, 0, 0.27), (rng.uniform(-0.3, 0.3), -4, 0, 0.4), blend=0.2)
    for x, y, _, radius, _ in _FINGERS:
        hand.add((0.6 * x, -0.4, 0, 0.2), (x, y - 0.06, 0, radius + 0.03), blend=0.12)
    hand.add((-0.2, -0.4, 0, 0.2), (-0.36, -0.1, 0, 0.16), blend=0.15)
    hand.inflate(0.16, 0.2)

    nails = []
    spread = rng.uniform(1.8, 2.1)
    for number, (x, y, length, radius, direction) in enumerate(_FINGERS):
        angle = np.deg2rad(direction * spread + rng.uniform(-2.5, 2.5))
        toward = np.array([-np.sin(angle), np.cos(angle)])
        radius = radius * rng.uniform(0.92, 1.05)
        knuckle = np.array([x, y])
        if number in raised:
            joint = knuckle + toward * length * 0.5
            bend = angle + np.deg2rad(rng.uniform(-6, 6))
            tip = joint + np.array([-np.sin(bend), np.cos(bend)]) * (length * 0.5 - radius)
            hand.add((*knuckle, 0.03, radius), (*joint, 0.05, radius * 0.97), (*tip, 0.04, radius * 0.82))
            if is_back:
                nails.append(((*(tip - 0.04 * toward), 0, radius * 0.5), (*(tip + 0.03 * toward), 0, radius * 0.5)))
            continue
        fold = knuckle + toward * (rng.uniform(0.02, 0.06) if is_back else rng.uniform(0.06, 0.12))
        hand.add((*knuckle, 0.02, radius), (*fold, 0.08, radius))
        if not is_back:
            end = knuckle - np.array([0.3 * x, rng.uniform(0.2, 0.28)])
            hand.add((*fold, 0.1, radius * 0.95), (*end, 0.14, radius * 0.85))
    return nails + _add_thumb(hand, raised, is_back, rng)


def _add_thumb(hand: _Relief, raised: set[int], is_back: bool, rng) -> list[tuple]:
    base = np.array([-0.36, -0.16])
    if _THUMB in raised:
        angle = np.deg2rad(rng.uniform(42, 68))
        bend = angle - np.deg2rad(rng.uniform(-12, 25))
        joint = base + 0.36 * np.array([-np.sin(angle), np.cos(angle)])
        toward = np.array([-np.sin(bend), np.cos(bend)])
        tip = joint + 0.3 * toward
        hand.add((*base, 0.02, 0.15), (*joint, 0.05, 0.118), blend=0.15)
        hand.add((*joint, 0.05, 0.118), (*tip, 0.04, 0.1))
        return [((*(tip - 0.03 * toward), 0, 0.06), (*(tip + 0.03 * toward), 0, 0.06))] if is_back else []
    if not is_back:  # across the palm, over what is folded there; from the back it is hidden
        joint = base + np.array([0.12, rng.uniform(0.2, 0.28)])
        tip = joint + np.array([rng.uniform(0.26, 0.36), rng.uniform(-0.06, 0.06)])
        hand.add((*base, 0.05, 0.14), (*joint, 0.18, 0.115), (*tip, 0.22, 0.095))
    return []


def _shading(height: np.ndarray, spacing: float, light: np.ndarray, ambient: float) -> np.ndarray:
    """Brightness of the surface: 1 where it faces the viewer, less in creases and cast shadow."""
    slope_down, slope_right = np.gradient(height, spacing)
    facing = light[2] - light[0] * slope_right + light[1] * slope_down
    facing /= np.sqrt(1 + slope_right**2 + slope_down**2)
    # what stands a few pixels towards the light, and higher than the light's rise, casts a shadow
    lit = np.ones_like(height)
    for run in (0.05, 0.1, 0.16):
        blocker = _moved(height, run / spacing * light[:2]) - height - run * light[2]
        lit = np.minimum(lit, 1 - 0.6 * _step(blocker, 0, 0.06))
    hollow = np.clip(_blurred(height, round(0.09 / spacing)) - height, 0, 0.2)
    direct = np.maximum(facing, 0) * lit
    shade = (ambient + (1 - ambient) * direct) / (ambient + (1 - ambient) * light[2])
    return np.maximum(shade * (1 - 2.0 * hollow), 0.05)


def _skin_tone(is_back: bool, rng) -> np.ndarray:
    position = rng.uniform(0, len(_SKIN) - 1)
    tone = np.array([np.interp(position, range(len(_SKIN)), channel) for channel in _SKIN.T])
    if not is_back:
        tone += 0.25 * (np.array([235, 185, 160]) - tone)  # palms differ less than backs
    return np.clip(tone * rng.uniform(0.93, 1.05) + rng.normal(0, 4, 3), 20, 255)


def _dye(rng) -> np.ndarray:
    """A colour of cloth or paint, less than fully saturated."""
    grey = rng.uniform(40, 220)
    return grey + 0.6 * (rng.uniform(30, 230, 3) - grey)


def _wall(size: int, skin: np.ndarray, rng) -> np.ndarray:
    """A wall (size, size, 3), mostly pale; never of the skin's own colour."""
    axis = np.linspace(-1, 1, size)
    while True:
        if rng.random() < 0.95:
            colour = rng.uniform(165, 245) + rng.normal(0, 7, 3)
        else:
            colour = _dye(rng)
        if np.linalg.norm(colour - skin) > 90:
            break
    slope = rng.normal(0, 0.08, 2)
    light = 1 + slope[0] * axis + slope[1] * axis[:, None]
    if rng.random() < 0.4:  # clouds, from a coarse random grid
        grid = rng.normal(0, rng.uniform(0.01, 0.05), (9, 9))
        at = np.linspace(0, 8, size)
        rows = np.array([np.interp(at, range(9), row) for row in grid])
        light = light + np.array([np.interp(at, range(9), column) for column in rows.T]).T
    if rng.random() < 0.08:  # boards or tiles
        line = np.cos(axis * rng.uniform(6, 14) + rng.uniform(0, 6))
        groove = 0.12 * (line > 0.95)
        light = light - (groove if rng.random() < 0.5 else groove[:, None])
    return light[..., None] * colour


def _camera(image: np.ndarray, rng) -> np.ndarray:
    """Blur, expose, add noise, round to uint8."""
    blur = rng.uniform(0, 0.2)
    for axis in (0, 1):
        image += blur * (0.5 * (_neighbour(image, 1, axis) + _neighbour(image, -1, axis)) - image)
    noise = rng.normal(0, rng.uniform(1, 4), image.shape)
    return np.clip(np.rint(image * rng.uniform(0.8, 1.08) + noise), 0, 255).astype(np.uint8)


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _shrunk(field: np.ndarray) -> np.ndarray:
    """Means over the two by two samples of each pixel."""
    rows = field[::2] * 0.25 + field[1::2] * 0.25
    return rows[:, ::2] + rows[:, 1::2]


def _neighbour(field: np.ndarray, offset: int, axis: int) -> np.ndarray:
    """The value `offset` pixels further along `axis`; the border repeats."""
    index = np.clip(np.arange(field.shape[axis]) + offset, 0, field.shape[axis] - 1)
    return field.take(index, axis)


def _moved(field: np.ndarray, offset) -> np.ndarray:
    """The value `offset` = (right, up) pixels away."""
    return _neighbour(_neighbour(field, round(offset[0]), 1), -round(offset[1]), 0)


def _blurred(field: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square of 2 radius + 1 pixels, by running sums."""
    width = 2 * radius + 1
    for _ in range(2):  # down the columns, then, transposed, along the rows
        total = np.cumsum(np.pad(field, ((radius + 1, radius), (0, 0)), mode="edge"), axis=0)
        field = ((total[width:] - total[:-width]) / width).T
    return field
