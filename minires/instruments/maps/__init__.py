"""What a network sees in an image: feature maps, first-layer kernels, Grad-CAM, occlusion.

Each function takes a Classifier and uint8 images as a camera gives them, works in evaluation mode, and leaves the
network as it was. `plots.py` beside it draws what they return.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches

import numpy as np

from minires.backend import device_of, get_xp, to_device, to_numpy
from minires.data.dataset import chunks
from minires.errors import ConfigError, DataError
from minires.nn import Conv2d, Dense, Module, Network, Sequential, from_config
from minires.train.classifier import EVAL_BATCH, Classifier, check_finite, softmax
from minires.weights.compare import activations


@dataclass(frozen=True)
class FeatureMaps:
    """What one layer makes of one image: maps (H, W, C)."""

    layer: str
    maps: np.ndarray

    def strongest(self, most: int) -> np.ndarray:
        """Up to `most` channels, largest root mean square first; channels that are zero everywhere come last."""
        return np.argsort(-np.square(self.maps, dtype=np.float64).mean(axis=(0, 1)), kind="stable")[:most]


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM of N images at one layer. targets (N,): the class that each map is for."""

    layer: str
    targets: np.ndarray
    probs: np.ndarray  # (N, K)
    weights: np.ndarray  # (N, C), alpha in the paper
    maps: np.ndarray  # (N, h, w), of the layer's size, at least 0, in units of the logit

    def as_dict(self, classes: int) -> dict:
        """Everything but the channel weights as plain types, for JSON."""
        return {
            "layer": self.layer,
            "images": [
                {"target": classes[k], "probabilities": dict(zip(classes, p.tolist(), strict=True)), "map": m.tolist()}
                for k, p, m in zip(self.targets, self.probs, self.maps, strict=True)
            ],
        }


@dataclass(frozen=True)
class Occlusion:
    """The probabilities while a grey square covers part of an image; its upper left corner is at (top, left)."""

    target: int
    patch: int
    tops: np.ndarray  # (rows,)
    lefts: np.ndarray  # (columns,)
    probs: np.ndarray  # (K,), nothing covered
    occluded: np.ndarray  # (rows, columns, K)

    @property
    def drop(self) -> np.ndarray:
        """(rows, columns): how much of the target's probability is lost with the square there."""
        return self.probs[self.target] - self.occluded[:, :, self.target]

    def heat(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W): for each pixel of an image of this size, the mean drop over all squares that cover it."""
        total, count = np.zeros(size), np.zeros(size)
        for row, top in zip(self.drop, self.tops, strict=True):
            for drop, left in zip(row, self.lefts, strict=True):
                square = slice(top, top + self.patch), slice(left, left + self.patch)
                total[square] += drop
                count[square] += 1
        return total / np.maximum(count, 1)

    def as_dict(self, classes: int) -> dict:
        """Everything as plain types, for JSON."""
        arrays = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(self).items()}
        return arrays | {"target": classes[self.target], "classes": list(classes), "drop": self.drop.tolist()}


def find_layer(model: Module, name: str) -> Module:
    """The layer, block or stage of this name; ConfigError with the nearest names where there is none."""
    named = {m.name: m for m in model.modules() if m.name and m is not model}
    if name in named:
        return named[name]
    near = get_close_matches(name, named, n=3, cutoff=0.4) or list(named)[:3]
    raise ConfigError(f"{model.name or 'the network'} has no layer {name!r}: try {', '.join(near)}, or another name")


def stage_names(model: Module) -> list[str]:
    """The stem and the stages, from input to output; of a network without, the blocks or layers that give maps."""
    stages = [m.name for m in model.layers if isinstance(m, Sequential)]
    return stages or [m.name for m in model.blocks() if not isinstance(m, Dense)]


def feature_maps(classifier: Classifier, image: np.ndarray, layers: list[str]) -> list[FeatureMaps]:
    """The outputs of the named layers, blocks or stages for one image (H, W, 3) uint8.

    ConfigError for a name that does not exist, or a layer whose output is no map.
    """
    for name in layers:
        find_layer(classifier.model, name)
    outputs = activations(classifier.model, _input(classifier, image[None]))
    found = [FeatureMaps(name, outputs[name][0]) for name in layers]
    for each in found:
        _check_map(each.layer, each.maps.shape)
    return found


def first_kernels(model: Module) -> np.ndarray:
    """The kernels of the first convolution, (O, R, S, C): what each of its output channels looks for."""
    conv = next((m for m in model.modules() if isinstance(m, Conv2d)), None)
    if conv is None:
        raise ConfigError(f"{model.name or 'the network'} has no convolution whose kernels could be shown")
    return to_numpy(conv.w.data).transpose(3, 0, 1, 2)


def kernel_change(model: Network) -> np.ndarray:
    """What training has added to the first kernels, (O, R, S, C): they less the initial ones, which the seed repeats.

    In a short training a few percent of their norm, lost in the noise of the initial kernels unless taken apart.
    """
    return first_kernels(model) - first_kernels(from_config(model.config))


def gradcam(
    classifier: Classifier, images: np.ndarray, *, layer: str | None = None, targets: Sequence[int] | None = None
) -> GradCam:
    """Where the evidence for a class lies: relu(sum_k alpha_k A^k), alpha_k = mean over i, j of d logit_c / dA^k_ij.

    images   (N, H, W, 3) uint8 of the network's size
    layer    whose output is A; the last stage where none is given
    targets  (N,) class numbers c; those that the network predicts where none are given
    R. Selvaraju et al., arXiv:1610.02391, section 3. The gradient is pushed back from a one-hot dlogits; in
    evaluation mode no image sees its neighbours, so that one backward pass serves all.

    >>> train, _ = minires.make_signs(12, 6, size=16)
    >>> classifier = minires.Classifier.for_data(minires.resnet("resnet8", train.shape, 6), train)
    >>> minires.gradcam(classifier, train.images([0, 1])).maps.shape[0]
    2
    """
    model = copy.deepcopy(classifier.model).eval()
    for module in model.modules():
        module.save_for_backward = True
    layer = layer or stage_names(model)[-1]
    seen = _watch(find_layer(model, layer))
    logits = model.forward(x := _input(classifier, images))
    probs, xp = softmax(check_finite(to_numpy(logits), model, x)), get_xp(logits)
    targets = _check_targets(probs, targets)
    model.backward((xp.arange(logits.shape[1]) == xp.asarray(targets)[:, None]).astype(logits.dtype))
    A, dA = to_numpy(seen["y"]), to_numpy(seen["dy"])
    _check_map(layer, A.shape[1:])
    alpha = dA.mean(axis=(1, 2))
    maps = np.maximum(np.einsum("nhwc,nc->nhw", A, alpha), 0)
    return GradCam(layer, targets, probs, alpha, maps)


def occlusion(
    classifier: Classifier,
    image: np.ndarray,
    *,
    patch: int | None = None,
    stride: int | None = None,
    target: int | None = None,
) -> Occlusion:
    """Slide a square of the training images' mean colour over an image (H, W, 3) uint8 and watch the probabilities.

    patch   side of the square in pixels (a quarter of the image where not given)
    stride  pixels between two places (a quarter of the square); the last place touches the far edge
    target  class number; the one that the network predicts where not given
    M. Zeiler, R. Fergus, arXiv:1311.2901, section 4.2. Covered copies are made a batch at a time.
    """
    height, width = image.shape[:2]
    patch = max(1, min(height, width) // 4) if patch is None else patch
    stride = max(1, patch // 4) if stride is None else stride
    if not 1 <= patch <= min(height, width) or stride < 1:
        raise ConfigError(
            f"occlusion: a square of {patch} pixels moved by {stride} does not fit {height}x{width}: "
            f"choose a side of 1 to {min(height, width)} and a stride of at least 1"
        )
    tops, lefts = (np.unique([*range(0, side - patch + 1, stride), side - patch]) for side in (height, width))
    places = [(top, left) for top in tops for left in lefts]
    grey = np.rint(255 * np.asarray(classifier.preprocess.mean)).clip(0, 255).astype(np.uint8)
    parts = []
    for index in chunks(len(places), EVAL_BATCH):
        covered = np.repeat(image[None], len(index), axis=0)
        for copied, i in zip(covered, index, strict=True):
            top, left = places[i]
            copied[top : top + patch, left : left + patch] = grey
        parts.append(classifier.probs(covered))
    probs = classifier.probs(image[None])[0]
    target = int(_check_targets(probs[None], None if target is None else [target])[0])
    return Occlusion(target, patch, tops, lefts, probs, np.concatenate(parts).reshape(len(tops), len(lefts), -1))


def _input(classifier: Classifier, images):
    weights = classifier.model.params()[0].data
    return classifier.preprocess(to_device(images, device_of(weights)), weights.dtype)


def _check_targets(probs, targets) -> np.ndarray:
    """Class numbers (N,), the likeliest where none are given."""
    targets = np.asarray(probs.argmax(axis=1) if targets is None else targets)
    N, K = probs.shape
    if targets.shape != (N,) or targets.min() < 0 or targets.max() >= K:
        raise ConfigError(f"targets: expected {N} class numbers in 0..{K - 1}, got {targets.tolist()}")
    return targets


def _watch(module: Module) -> dict:
    """What the module of a throw-away copy will return from forward ('y') and be handed in backward ('dy')."""
    seen, forward, backward = {}, module.forward, module.backward

    def watched_forward(*inputs):
        seen["y"] = forward(*inputs)
        return seen["y"]

    def watched_backward(dy, *args, **kwargs):
        seen["dy"] = dy
        return backward(dy, *args, **kwargs)

    module.forward, module.backward = watched_forward, watched_backward
    return seen


def _check_map(layer: str, shape: tuple) -> None:
    if len(shape) != 3:
        raise DataError(f"{layer} gives {shape}, no map of (H, W, C): choose a layer before the global pooling")
