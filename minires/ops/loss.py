"""Softmax and cross-entropy in one, as they are differentiated."""

from minires.backend import Array, device_of, get_xp
from minires.errors import ConfigError, ShapeError

__all__ = [
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
]


def _targets(labels, shape, dtype, label_smoothing, weights, ignore_index):
    """(t, total): the targets (N, K) of integer labels (N,) or distributions (N, K), and what a mean divides by.

    Each is mixed with the uniform one and times the classes' weights; those of an ignored label are 0. total:
    the weights of the labels that count; None: as many as there are images.
    """
    xp, kept = get_xp(labels), None
    N, K = shape
    if labels.shape == (N,) and labels.dtype.kind in "iu":
        if ignore_index is not None:
            kept = labels != ignore_index
            labels = labels * kept
        if device_of(labels) == "cpu":
            _check_range(labels, shape)
        one_hot = (xp.arange(K) == labels[:, None]).astype(dtype)
        shares = one_hot / one_hot.sum(axis=1, keepdims=True)  # a GPU's label that is no class: 0 / 0
    elif labels.shape != (N, K) or ignore_index is not None:
        ignoring = "" if ignore_index is None else f" and ignore_index={ignore_index}"
        raise ShapeError(
            f"cross-entropy: logits {shape}{ignoring} need integer labels ({N},) or one-hot labels {shape}, "
            f"got {labels.dtype} {labels.shape}"
        )
    else:
        shares = labels.astype(dtype)
    targets = shares * (1 - label_smoothing) + label_smoothing / K
    counting = xp.ones((1, K), dtype) if weights is None and kept is not None else weights
    if counting is None:
        return targets, None
    if counting.shape[-1:] != (K,) or counting.size != K:
        raise ShapeError(f"cross-entropy: logits {shape} need weights ({K},), one a class, got {counting.shape}")
    counting = counting.astype(dtype)
    if kept is not None:
        counting = counting * kept[:, None]
    of_integers = labels.ndim == 1  # a mean over distributions divides by their number, as PyTorch's does
    return targets * counting, (shares * counting).sum(dtype=xp.result_type(dtype, "f4")) if of_integers else None


def _check_range(labels, shape):
    """ShapeError for a label that is no class."""
    bad = (labels < 0) | (labels >= shape[1])
    if bad.any():
        at = int(bad.argmax())
        raise ShapeError(
            f"cross-entropy: logits {shape} need labels in 0..{shape[1] - 1}, got {labels[at]} at index {at}: "
            "number the classes from 0, or give the network as many as there are"
        )


REDUCTIONS = "mean", "sum", "none"


def _check_reduction(reduction):
    if reduction not in REDUCTIONS:
        raise ConfigError(f"cross-entropy: unknown reduction {reduction!r}: choose {', '.join(REDUCTIONS)}")


def softmax_cross_entropy_forward(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """(loss, probs): probs = softmax(logits), loss = -mean over n of sum over k of t[n, k] log probs[n, k].

    logits (N, K); labels (N,) integers in 0..K-1 or (N, K) one-hot; t = (1 - a) one-hot + a / K for smoothing
    a (C. Szegedy et al., arXiv:1512.00567, section 7). loss is a 0-d array: on a GPU nothing waits for it.
    weights (K,): t[n, k] times weights[k]. ignore_index: an integer label that counts for nothing. The mean then
    divides by the weights of the labels that count, NaN where none does; that over distributions by N. As PyTorch's.
    reduction: "mean", "sum", or "none" for the losses (N,) one by one.
    The largest logit is subtracted first, so no exponential overflows. A class with t = 0 adds nothing, even where
    its logit is minus infinity.
    ShapeError for an empty batch or a label outside 0..K-1; on a GPU, which must not be asked, the loss is NaN instead.

    >>> logits, labels = numpy.zeros((2, 4)), numpy.array([0, 3])
    >>> loss, probs = minires.softmax_cross_entropy_forward(logits, labels)
    >>> round(float(loss), 4), probs[0].tolist()  # log 4
    (1.3863, [0.25, 0.25, 0.25, 0.25])
    """
    xp = get_xp(logits)
    _check_reduction(reduction)
    if not logits.size:
        raise ShapeError(f"cross-entropy: logits {logits.shape} have no mean loss: give at least one image")
    targets, total = _targets(labels, logits.shape, logits.dtype, label_smoothing, weights, ignore_index)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    losses = -(targets * xp.where(targets == 0, 0, log_probs)).sum(axis=1)
    if reduction == "none":
        loss = losses
    elif reduction == "sum":
        loss = losses.sum()
    else:
        loss = losses.mean() if total is None else (losses.sum(dtype=total.dtype) / total).astype(losses.dtype)
    return loss, xp.exp(log_probs)


def softmax_cross_entropy_backward(
    probs: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    dloss: float | Array | None = None,
) -> Array:
    """dlogits = (probs - t) / N; with weights or ignored labels (probs * sum over k of t - t) / the mean's divisor.

    dloss: the gradient of the loss where it is not 1: a number, or (N,) for losses one by one.

    >>> probs, labels = numpy.full((1, 4), 0.25), numpy.array([2])
    >>> minires.softmax_cross_entropy_backward(probs, labels).tolist()
    [[0.25, 0.25, -0.75, 0.25]]
    """
    _check_reduction(reduction)
    targets, total = _targets(labels, probs.shape, probs.dtype, label_smoothing, weights, ignore_index)
    plain = weights is None and ignore_index is None
    dlogits = probs - targets if plain else probs * targets.sum(axis=1, keepdims=True) - targets
    if reduction == "mean":
        dlogits = (dlogits / (len(probs) if total is None else total)).astype(probs.dtype, copy=False)
    if dloss is None:
        return dlogits
    return dlogits * (dloss[:, None] if getattr(dloss, "ndim", 0) else dloss)
