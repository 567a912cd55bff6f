"""Mini-batches in a reproducible order, prepared ahead in a background thread."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from minires.backend import to_device
from minires.background import Background
from minires.data.arrays import as_dataset
from minires.data.augment import Augment, warp
from minires.data.dataset import Dataset
from minires.errors import DataError
from minires.fast import communicator


class Batches:
    """Batches of `dataset`: `for images, labels, index in batches.epoch(e): ...`.

    The order is a function of (seed, epoch), an image's augmentation of (seed, epoch, position in the data
    set): the same whatever the batch size, the thread, or the batch to start from. Up to `prefetch` batches
    are prepared ahead (0: none, in the caller's thread). On the device "gpu" a CUDA kernel changes the images,
    to the same bytes: one thread of the CPU cannot keep a GPU busy. Mirroring is left out where the data set's
    classes do not allow it. Images that lie packed, too many to be kept unpacked, come in an order that unpacks each
    piece once (data/packed.py), and inside a batch by the piece; of all others each permutation is as likely.
    `wait_seconds` is the time the latest epoch's consumer waited for batches so far.

    Raises DataError for a batch size below 1 or a negative seed or prefetch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        augment: Augment | None = None,
        prefetch: int = 2,
        device: str = "cpu",
    ):
        for name, value, least in (
            ("batch size", batch_size, 1),
            ("seed", seed, 0),
            ("prefetch", prefetch, 0),
        ):
            if value < least:
                raise DataError(f"{name}: expected a whole number of at least {least}, got {value}")
        self.dataset, self.batch_size = as_dataset(dataset), batch_size
        self.seed, self.shuffle, self.prefetch, self.device = seed, shuffle, prefetch, device
        self.augment = augment and replace(augment, flip=augment.flip and self.dataset.flip_ok)
        self.wait_seconds = 0.0
        self.reader = None  # the thread that prepares, once there is one

    def __len__(self) -> int:
        """Batches an epoch; the last may be smaller."""
        return -(-len(self.dataset) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Positions (N,) in the order in which the epoch visits them."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        rng, layout = np.random.default_rng([self.seed, epoch]), self._layout()
        return layout.order(rng) if layout else rng.permutation(len(self.dataset))

    def _layout(self):
        """How the images lie, where the order heeds it."""
        layout = self.dataset.layout if self.shuffle else None
        return layout if layout and layout.matters else None

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (images (n, H, W, 3) uint8 on the device, labels (n,) int64, index (N,)) from batch `start` on.

        Where several ranks train together, images and labels are this one's share of the batch, of which `index` has
        the positions; of one with fewer images than ranks each has all.

        An error while a batch is prepared is raised here. Leaving the loop ends the thread, or leaves it behind where
        it hangs in reading.
        """
        order, layout = self.order(epoch), self._layout()
        parts = (order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(start, len(self)))
        parts = map(layout.together, parts) if layout else parts
        parts = ((index, index[communicator.share_of_batch(len(index))]) for index in parts)
        self.wait_seconds = 0.0
        if self.prefetch == 0:
            for part in parts:
                yield self._waited(self._prepare, epoch, *part)
            return
        reader, ahead = Background("minires-batches"), deque()
        self.reader = reader.thread
        try:
            for part in parts:
                ahead.append(reader.submit(self._prepare, epoch, *part))
                if len(ahead) > self.prefetch:
                    yield self._waited(ahead.popleft().result)
            while ahead:
                yield self._waited(ahead.popleft().result)
        finally:
            reader.end(within=1.0)

    def _prepare(self, epoch: int, index: np.ndarray, here: np.ndarray) -> tuple:
        """A batch, or what of it is `here`, and what remains to be changed on the device."""
        images, changes = self.dataset.images(here), None
        if self.augment is not None:
            changes = self.augment.draw([(self.seed, epoch, i) for i in here], images.shape[1:3])
            if self.device == "cpu":
                images, changes = warp(images, *changes), None
        return images, changes, self.dataset.labels[here], index

    def _waited(self, prepare, *arguments):
        began = time.perf_counter()
        try:
            images, changes, *rest = prepare(*arguments)
        finally:
            self.wait_seconds += time.perf_counter() - began
        images = to_device(images, self.device)
        return images if changes is None else warp(images, *changes), *rest
