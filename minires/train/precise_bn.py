"""Running statistics estimated anew, with the weights as they are.

The usual ones trail behind the weights: each is an average over the last 1 / (1 - momentum) steps, in which the weights
have changed. Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3.
"""

from contextlib import contextmanager

import numpy as np

from minires import ops
from minires.backend import get_xp
from minires.errors import ConfigError
from minires.fast import communicator
from minires.nn import BatchNorm, Module

MOST = 4096  # training images that are enough


def norms(model: Module) -> list[BatchNorm]:
    """The batch normalisations whose running statistics follow the training."""
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.update_running_stats and not m.frozen]


def recalibrate(model: Module, batches) -> Module:
    """Replace the running statistics by the exact mean and variance over `batches`, in place; returns the model.

    batches: inputs (n, H, W, C) as the network takes them, from training images; one pass. Every layer normalises
    with its batch's statistics on the way, as in training. Over all M = sum m values of a channel,
    mean = sum m mean_b / M and var = sum m (var_b + mean_b^2) / M - mean^2. What is frozen stays as it is.
    ConfigError where there is no batch.
    """
    sums = {norm: [0, 0.0, 0.0] for norm in norms(model)}

    def collect(norm, forward):
        def collecting(x):
            mean, var, m = communicator.over_all(*ops.batchnorm_statistics(x), x.size // x.shape[-1], len(x))
            mean, var = (s.astype(np.float64) for s in (mean, var))
            total = sums[norm]
            total[0], total[1], total[2] = total[0] + m, total[1] + m * mean, total[2] + m * (var + mean * mean)
            return forward(x)

        return collecting

    with batch_mode(model):
        for norm in sums:
            norm.forward = collect(norm, norm.forward)
        try:
            for x in batches:
                model.forward(x)
        finally:
            for norm in sums:
                del norm.forward
    for norm, (M, total, squares) in sums.items():
        if not M:
            raise ConfigError(f"recalibrate: {norm.name} saw no batch: give at least one")
        mean = total / M
        var = get_xp(mean).maximum(squares / M - mean * mean, 0)
        norm.mean.data[...] = mean
        norm.var.data[...] = var * (M / (M - 1)) if norm.unbiased and M > 1 else var
    return model


@contextmanager
def batch_mode(model: Module):
    """Batch statistics, no dropout, nothing kept, and everything as it was at the end."""
    modes = [(m, m.training, m.save_for_backward) for m in model.modules()]
    kept = [(b, b.data.copy()) for b in model.buffers()]
    following = set(norms(model))
    try:
        for module, _, _ in modes:
            module.training, module.save_for_backward = module in following, False
        yield
    finally:
        for module, training, keeps in modes:
            module.training, module.save_for_backward = training, keeps
        for buffer, data in kept:
            buffer.data[...] = data
