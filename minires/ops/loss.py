"""Softmax and cross-entropy in one, as they are differentiated."""

from minires.backend import Array, device_of, get_xp
from minires.errors import ShapeError


def _targets(labels, shape, dtype, label_smoothing):
    """Integer labels (N,) or distributions (N, K) -> distributions (N, K), each mixed with the uniform one."""
    xp = get_xp(labels)
    N, K = shape
    if labels.shape == (N,) and labels.dtype.kind in "iu":
        if device_of(labels) == "cpu":
            _check_range(labels, shape)
        one_hot = (xp.arange(K) == labels[:, None]).astype(dtype)
        labels = one_hot / one_hot.sum(axis=1, keepdims=True)  # a GPU's label that is no class: 0 / 0
    elif labels.shape != (N, K):
        raise ShapeError(
            f"cross-entropy: logits {shape} need integer labels ({N},) or one-hot labels {shape}, "
            f"got {labels.dtype} {labels.shape}"
        )
    return labels.astype(dtype) * (1 - label_smoothing) + label_smoothing / K


def _check_range(labels, shape):
    """ShapeError for a label that is no class."""
    bad = (labels < 0) | (labels >= shape[1])
    if bad.any():
        at = int(bad.argmax())
        raise ShapeError(
            f"cross-entropy: logits {shape} need labels in 0..{shape[1] - 1}, got {labels[at]} at index {at}: "
            "number the classes from 0, or give the network as many as there are"
        )


def softmax_cross_entropy_forward(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> tuple[Array, Array]:
    """(loss, probs): probs = softmax(logits), loss = -mean over n of sum over k of t[n, k] log probs[n, k].

    logits (N, K); labels (N,) integers in 0..K-1 or (N, K) one-hot; t = (1 - a) one-hot + a / K for smoothing
    a (C. Szegedy et al., arXiv:1512.00567, section 7). loss is a 0-d array: on a GPU nothing waits for it.
    The largest logit is subtracted first, so no exponential overflows. A class with t = 0 adds nothing, even where
    its logit is minus infinity.
    ShapeError for an empty batch or a label outside 0..K-1; on a GPU, which must not be asked, the loss is NaN instead.
    """
    xp = get_xp(logits)
    if not logits.size:
        raise ShapeError(f"cross-entropy: logits {logits.shape} have no mean loss: give at least one image")
    targets = _targets(labels, logits.shape, logits.dtype, label_smoothing)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    losses = targets * xp.where(targets == 0, 0, log_probs)
    return -losses.sum(axis=1).mean(), xp.exp(log_probs)


def softmax_cross_entropy_backward(probs: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """dlogits = (probs - t) / N."""
    return (probs - _targets(labels, probs.shape, probs.dtype, label_smoothing)) / len(probs)
