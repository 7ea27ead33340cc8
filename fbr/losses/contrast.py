"""Contrast of foreground pixels with negatives: the losses of FBR (TCSVT 2024, eq. 7 and 9).

Pixels come flat, one row each, over all images of a batch; classes are 1…K, 0 is none. Queries of a
class share their M negatives, so that no (queries, M, D) is gathered. Each query's negatives are
still distributed as if drawn for it alone, so the mean over queries keeps its expectation.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

LEAST = 1e-16  # of a product of squared lengths; below, a row counts as zero
BLOCK = 64  # rows of one matrix product; a class fills its last block up with nothing


def prototype_contrast(
    queries: Tensor, labels: Tensor, prototypes: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """-log of the prototype's share among it and the negatives, per row (n,); 0 where label is 0.

    queries (n, D) of any length; labels (n,) in 0…K; prototypes (K, D) and negatives (K, M, D), one
    set a class, of length 1. Several kinds of negatives (…, K, M, D) give as many losses (…, n) and
    look at the queries once.
    """
    rows, classes, filled = by_class(labels, len(prototypes))
    grouped = F.normalize(queries.index_select(0, rows), dim=1) / temperature
    own = prototypes[:, None].expand(*negatives.shape[:-2], 1, -1)
    keys = torch.cat([own, negatives], -2).index_select(-3, classes)
    logits = grouped.view(len(classes), BLOCK, -1) @ keys.mT
    loss = -logits.log_softmax(-1)[..., 0].flatten(-2) * filled
    return loss.new_zeros(*loss.shape[:-1], len(labels)).index_add(-1, rows, loss)


def by_class(labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort rows into blocks of one class each: row of each place, class - 1 of each block, filled.

    labels (n,) in 0…K, rows of label 0 are left out. The number of blocks depends on n and K alone
    where counting would make a GPU wait; a place that holds no row names row 0 and is not filled.
    """
    counts = tally(labels, classes)
    blocks = (counts[1:] + BLOCK - 1) // BLOCK
    ends = blocks.cumsum(0)
    most = len(labels) // BLOCK + classes
    used = most if labels.is_cuda else max(1, int(ends[-1]))
    of_block = torch.searchsorted(ends, torch.arange(used, device=labels.device), right=True)
    of_block = of_block.clamp(max=classes - 1)
    order = labels.argsort(stable=True)
    place = torch.arange(used * BLOCK, device=labels.device)
    of_place = of_block.repeat_interleave(BLOCK)
    first = (ends - blocks) * BLOCK
    rank = place - first[of_place]
    filled = (rank < counts[1:][of_place]) & (place < ends[-1] * BLOCK)
    start = counts.cumsum(0)[:-1]  # of the rows of class 1, 2, … in `order`
    rows = order[(start[of_place] + rank).clamp(max=len(labels) - 1)]
    return rows.where(filled, 0), of_block, filled


def tally(labels: Tensor, classes: int) -> Tensor:
    """How many of labels (n,) are 0, 1, … `classes`; `bincount` would make a GPU wait."""
    return labels.new_zeros(classes + 1).index_add(0, labels, torch.ones_like(labels))


def class_shares(labels: Tensor, present: Tensor, counts: Tensor) -> Tensor:
    """What each query weighs in the mean inside its class, then over the classes present; (n,).

    labels (n,) of this process; present (K,) whether a class is in the batch's seeds; counts (K,)
    its queries in the whole batch. A present class without queries counts as 0.
    """
    share = present / counts.clamp(min=1) / present.sum().clamp(min=1)
    return F.pad(share, (1, 0))[labels]


def across_keys(
    queries: Tensor, labels: Tensor, prototypes: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """The released code's pixel-to-NROI loss, per row (n,): its cosine runs over the keys.

    Arguments as in `prototype_contrast`, lengths as they are. What should be 1 + M logits are D
    numbers that know of the query only its signs; kept to be compared with.
    """
    keys = F.normalize(torch.cat([prototypes[:, None], negatives], 1), dim=1)
    logits = keys.sum(1) / keys.shape[1] ** 0.5  # (K, D)
    chosen = queries.sign() * F.pad(logits, (0, 0, 1, 0))[labels]
    return -(chosen / temperature).log_softmax(1)[:, 0] * (labels > 0)


def pixel_contrast(
    pixels: Tensor,
    seeds: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    regions: Tensor,
    nrois: int,
    temperature: float,
) -> Tensor:
    """Cross entropy of each pixel (B, N) between its image's classes and the background.

    pixels (B, N, D); seeds (B, N), 0 background, 1…K, below 0 unknown, which costs nothing; labels
    (B, K); prototypes (K, D); regions (M, D), NROIs of any image. Lengths are 1. The background is
    as near as an image's `nrois` NROIs would be together, estimated by the mean over regions.
    """
    margin = pixel_margin(pixels, prototypes, regions, nrois, temperature)
    margin = margin.masked_fill(labels[:, None] == 0, -torch.inf)
    logits = F.pad(margin, (1, 0))  # the background's own is the zero they are measured from
    chance = logits.log_softmax(2).gather(2, seeds.clamp(min=0)[:, :, None])[..., 0]
    return -chance.where(seeds >= 0, 0)


def pixel_margin(
    pixels: Tensor, prototypes: Tensor, regions: Tensor, nrois: int, temperature: float
) -> Tensor:
    """How much nearer a pixel is to each prototype than to NROIs, as a log odds (B, N, K)."""
    away = (pixels @ regions.mT / temperature).logsumexp(2, keepdim=True)
    away = away - math.log(len(regions) / nrois)
    return pixels @ prototypes.mT / temperature - away


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean over all rows of the cosine of a and b (…, D), 0 for a row of zeros; a scalar."""
    return _MeanCosine.apply(a, b)


class _MeanCosine(torch.autograd.Function):
    """Its gradient by hand: torch's own reads and writes all rows twice as often."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor) -> Tensor:
        aa, bb, ab = (torch.linalg.vecdot(x, y) for x, y in ((a, a), (b, b), (a, b)))
        scale = (aa * bb).clamp(min=LEAST).rsqrt()
        cosine = ab * scale
        ctx.save_for_backward(a, b, aa, bb, scale, cosine)
        return cosine.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b, aa, bb, scale, cosine = ctx.saved_tensors
        each, clamped = gradient / cosine.numel(), aa * bb < LEAST
        across, along = each * scale, -each * cosine
        return tuple(
            torch.addcmul(
                across[..., None] * other,
                (along / square).masked_fill(clamped, 0)[..., None],
                own,
            )
            for own, other, square in ((a, b, aa), (b, a, bb))
        )
