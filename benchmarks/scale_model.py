"""A model of what a training step costs on p hosts, fitted to what `minires bench scale-out` measured.

A message of n bytes takes alpha + beta n seconds (Hockney's model), adding n bytes to others gamma n. MPICH sums small
arrays by recursive doubling, large ones by Rabenseifner's halving and doubling (q: the largest power of two up to p;
the p - q hosts beyond it first hand their arrays to a neighbour, and get the sum at the end), and gathers by recursive
doubling or, beyond GATHER bytes, in a ring:

    all_reduce(n) = log2 q (alpha + (beta + gamma) n) + [q < p] (2 alpha + (2 beta + gamma) n)          n <= SHORT
                  = 2 log2 q alpha + (q - 1) / q (2 beta + gamma) n + [q < p] (2 alpha + (2 beta + gamma) n)
    all_gather(n) = rounds alpha + (p - 1) beta n                 rounds: ceil(log2 p) up to p n = GATHER, then p - 1

    R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1),
    2005.

A step computes; exact batch normalisation waits in every layer of C channels, for a gather of 8 C bytes going forward
and a sum of 8 C going backward; the loss is a sum of LOSS bytes; and of the gradients' buckets, each of which is
an all-reduce, that time counts which backward does not hide:

    step = (1 + drift) compute + syncs + max(last bucket, sum of buckets - overlap * window)

window: the seconds of backward's compute after the first bucket was full; overlap: for which part of it the transfer
really goes on meanwhile: 0 with exact normalisation, whose syncs wait behind the gradients in the same connections.
drift: what ranks that meet in every layer wait for whichever is late there, because other programs took its core;
without exact normalisation they meet once a step, and compute is that of the slowest.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

SHORT, GATHER = 2048, 2**19  # bytes
LOSS = 16
FRAME = 1514 / 1448  # bytes of Ethernet's frames for each byte that TCP carries in them


@dataclass(frozen=True)
class Link:
    """alpha: seconds a message; beta: seconds a byte; gamma: seconds to add a byte to another."""

    alpha: float
    beta: float
    gamma: float = 0.0

    def at(self, gbit: float) -> "Link":
        """The same, where a link carries so many Gbit/s, TCP's and Ethernet's headers among them."""
        return replace(self, beta=FRAME * 8 / (gbit * 1e9))


@dataclass(frozen=True)
class Network:
    """What is to be spoken of: bytes of each bucket of gradients, channels of each batch normalisation."""

    buckets: tuple
    channels: tuple


def all_reduce(p: int, n: float, link: Link) -> float:
    """Seconds of the sum of n bytes over p hosts."""
    if p == 1:
        return 0.0
    rounds = p.bit_length() - 1
    q = 2**rounds
    beyond = 2 * link.alpha + (2 * link.beta + link.gamma) * n if q < p else 0.0
    if n <= SHORT:
        return rounds * (link.alpha + (link.beta + link.gamma) * n) + beyond
    return 2 * rounds * link.alpha + (q - 1) / q * (2 * link.beta + link.gamma) * n + beyond


def all_gather(p: int, n: float, link: Link) -> float:
    """Seconds until all of p hosts have the n bytes of each."""
    rounds = math.ceil(math.log2(p)) if p * n <= GATHER else p - 1
    return rounds * link.alpha + (p - 1) * link.beta * n


def syncs(p: int, network: Network, link: Link, local_bn: bool) -> float:
    """Seconds of a step in which backward or forward waits for others: batch normalisation, and the loss."""
    told = all_reduce(p, LOSS, link)
    if not local_bn:
        told += sum(all_gather(p, 8 * c, link) + all_reduce(p, 8 * c, link) for c in network.channels)
    return told


def step(
    p: int, compute: float, window: float, network: Network, link: Link, *, local_bn=False, overlap=0.0, drift=0.0
) -> float:
    """Seconds of a step on p hosts, each of which computes for `compute` seconds."""
    if p == 1:
        return compute
    sums = [all_reduce(p, n, link) for n in network.buckets]
    return (1 + drift) * compute + syncs(p, network, link, local_bn) + max(sums[-1], sum(sums) - overlap * window)


def fit(p: int, transfers: dict[str, dict[int, float]]) -> Link:
    """The link with which the model meets measured {verb: {bytes: seconds}} on p hosts best, by relative errors.

    The model is linear in alpha, beta and gamma: least squares, of which none may be negative (by leaving it out).
    """
    verbs = {"all_reduce": all_reduce, "all_gather": all_gather}
    units = Link(1, 0, 0), Link(0, 1, 0), Link(0, 0, 1)
    rows = np.array(
        [[verbs[verb](p, n, unit) / t for unit in units] for verb, by in transfers.items() for n, t in by.items()]
    )
    free = [0, 1, 2]
    while True:
        found = np.linalg.lstsq(rows[:, free], np.ones(len(rows)), rcond=None)[0]
        if (found >= 0).all():
            return Link(*(float(found[free.index(i)]) if i in free else 0.0 for i in range(3)))
        del free[int(found.argmin())]


def slack(p: int, compute: float, window: float, network: Network, link: Link, seconds: float, local_bn: bool) -> dict:
    """{"overlap": 0 to 1} or {"drift": at least 0} with which `step` comes nearest to the measured seconds."""
    late = seconds - step(p, compute, window, network, link, local_bn=local_bn)  # nothing hidden, no drift
    if local_bn:
        return {"overlap": min(max(0.0, -late / window), 1.0) if window else 0.0}
    return {"drift": max(0.0, late / compute)}
