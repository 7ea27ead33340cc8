"""Contrast of pixels with one prototype a class: the losses of PPC (Du et al., CVPR 2022).

Pixels come flat, one row each, over all images of a batch; classes are 0…C-1, the background's
first. A class without a prototype is no one's negative, and its own pixels cost nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = torch.finfo(torch.float32).min  # finite: a row of nothing else has a gradient of zero


def prototype_entropy(cosines: Tensor, labels: Tensor, known: Tensor, temperature: float) -> Tensor:
    """-log of the own prototype's share among all that are known, per row (n,).

    cosines (n, C) of pixels with prototypes; labels (n,); known (C,) bool.
    """
    logits = cosines / temperature
    own = logits.gather(1, labels[:, None])[:, 0]
    loss = logits.masked_fill(~known, NEVER).logsumexp(1) - own
    return loss.where(known[labels], 0)


def semi_hard_entropy(
    cosines: Tensor, labels: Tensor, known: Tensor, hard: float, kept: float, temperature: float
) -> Tensor:
    """The same among the own prototype and semi-hard negatives.

    Of a pixel's known negatives the share `hard` nearest to it is looked at, and of these the share
    `kept` of all that is furthest is taken: the nearest may be its true class.
    """
    classes = torch.arange(cosines.shape[1], device=cosines.device)
    negative = known & (classes != labels[:, None])
    apart = cosines.detach().masked_fill(~negative, NEVER)
    rank = _ranks(apart.argsort(1, descending=True))
    count = negative.sum(1, keepdim=True)
    last = (count * hard - 1e-6).ceil()
    first = last - (count * kept + 1e-6).floor().clamp(min=1)
    taken = negative & (rank < last) & (rank >= first)
    logits = cosines / temperature
    own = logits.gather(1, labels[:, None])[:, 0]
    # -log(e^p / (e^p + Σ e^n)), written so that nothing overflows.
    loss = F.softplus(logits.masked_fill(~taken, NEVER).logsumexp(1) - own)
    return loss.where(known[labels], 0)


def hard_pixels(
    cosines: Tensor, labels: Tensor, classes: int, hard: float, kept: float, uniform: Tensor
) -> Tensor:
    """How often each pixel (n,) counts, 0 to 2: once if drawn by chance, once if semi-hard.

    cosines (n,) with the own prototype; labels (n,); uniform (n,) in [0, 1). In a class the share
    `hard` furthest from the prototype is looked at, and of these the share `kept` of all that is
    nearest is taken: the furthest may be wrong. The same number is drawn by chance.
    """
    count = labels.new_zeros(classes).index_add(0, labels, torch.ones_like(labels))
    number = (count * kept + 1e-6).floor()[labels]
    last = (count * hard + 1e-6).floor()[labels]
    rank = _ranks_within(cosines, labels, count)
    drawn = _ranks_within(uniform, labels, count) < number
    return ((rank < last) & (rank >= last - number)).float() + drawn


def _ranks(order: Tensor) -> Tensor:
    """Position of each column in the order (n, C) of its row."""
    return order.argsort(1)


def _ranks_within(values: Tensor, labels: Tensor, count: Tensor) -> Tensor:
    """How many of its class come before each row, by ascending value; (n,)."""
    order = values.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    place = torch.arange(len(order), device=order.device)
    start = count.cumsum(0) - count
    return torch.empty_like(place).index_put((order,), place - start[labels[order]])
