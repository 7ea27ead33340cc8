"""What FBR reads off a CAM while it trains: seeds, unsure pixels, class prototypes, their graph.

Grids come flat: N positions an image, B images. Scores s have channel 0 for the background.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fbr.losses.contrast import tally
from fbr.params import Fbr

TINY = 1e-5


class Seeds(NamedTuple):
    """score (B, 1+K, N) in 0…1; chance (B, 1+K, N), softmax; label (B, N) in 0…K, the map H.

    A label is -1 where the seeds are asked to be sure and are not.
    """

    score: Tensor
    chance: Tensor
    label: Tensor


def seeds(scores: Tensor, labels: Tensor, numbers: Fbr) -> Seeds:
    """Scores (B, 1+K, N) as the method gives them and image labels (B, K) → seeds; no gradient.

    `cam`: rectified and stretched to 0…1 per image and class, the background at τ_bg; the chance
    is the softmax of that. `softmax`: the scores are logits of 1+K classes, the chance is their
    softmax, the score that chance stretched to 0…1. Classes that the image does not show are out,
    unless the released code's behaviour is asked for.
    """
    shown = torch.cat([torch.ones_like(labels[:, :1]), labels], 1)[:, :, None]
    if numbers.mode == "released":
        shown = torch.ones_like(shown)
    scores = scores.detach().float()
    if numbers.scores == "softmax":
        chance = scores.softmax(1) * shown
        score = stretched(chance) * shown
    else:
        score = stretched(scores.relu()) * shown
    if numbers.seed_background != "learned":
        score[:, 0] = numbers.seed_background
    if numbers.scores == "cam":
        chance = score.softmax(1)
    if numbers.sure is None:
        # `max` finds the number that `argmax` does, far sooner along this dimension.
        return Seeds(score, chance, score.max(1).indices)
    best, label = score[:, 1:].max(1)
    unknown = (best >= numbers.sure.background) & (best <= numbers.sure.foreground)
    label = torch.where(best > numbers.sure.foreground, label + 1, 0)
    return Seeds(score, chance, label.masked_fill(unknown, -1))


def stretched(maps: Tensor) -> Tensor:
    """Each map (B, C, N) from its own least and largest value to 0…1."""
    least, most = maps.aminmax(dim=2, keepdim=True)
    return (maps - least) / (most - least + TINY)


def unsure(found: Seeds, numbers: Fbr) -> Tensor:
    """Foreground pixels that the seeds call by a class without being sure: (B, N) bool, queries.

    Unsure is who is neither above the score that a share ρ of the pixels of its class in its image
    stays below, nor of an entropy within the lowest quantile q of its image. Scores up to a floor
    are not asked; the background's entropy may count as 0 in that quantile.
    """
    own = found.score.gather(1, found.label.clamp(min=0)[:, None]).squeeze(1)
    counted = (found.label > 0) & (own > numbers.unsure_floor)
    classes = found.score.shape[1]
    group = torch.where(counted, found.label, classes)
    # Each class of an image becomes a run that ascends: scores are at most 1, so halves keep
    # to their class, and double precision keeps them exact.
    order = (group + own.double() / 2).argsort(dim=1)
    count = own.new_zeros(len(own), classes + 1, dtype=torch.int64)
    count = count.scatter_add(1, group, torch.ones_like(group))
    at = count.cumsum(1) - count + (count.double() * numbers.unsure_rank).long()
    threshold = own.gather(1, order.gather(1, at.clamp(max=own.shape[1] - 1)))
    sure = counted & (own > threshold.gather(1, group))
    entropy = -(found.chance * (found.chance + 1e-10).log()).sum(1)
    if numbers.blank_background:
        entropy = entropy * (found.label > 0)
    # A quantile between two of its values has the same values above it as the lower of the two.
    below = 1 + int(numbers.unsure_entropy * (entropy.shape[1] - 1))
    least = entropy.kthvalue(below, dim=1, keepdim=True).values
    return (found.label > 0) & ~sure & (entropy > least)


def prototypes(found: Seeds, pixels: Tensor, top: int, own_seeds: bool = True) -> Tensor:
    """P_c (K, D): mean of the `top` best pixels of each class in the batch, weighted by score.

    pixels (B, N, D). own_seeds: in an image whose seeds show a class, they alone stand for it.
    """
    score, width = found.score[:, 1:], pixels.shape[2]
    if own_seeds:
        classes = torch.arange(1, score.shape[1] + 1, device=score.device)
        own = found.label[:, None] == classes[:, None]
        score = score * (own | ~own.any(2, keepdim=True))
    weight = score.transpose(0, 1).flatten(1)  # (K, B·N)
    best, index = weight.topk(min(top, weight.shape[1]))
    chosen = pixels.detach().reshape(-1, width)[index]
    return (best[:, :, None] * chosen).sum(1) / best.sum(1, keepdim=True).clamp(min=TINY)


def graph(prototypes: Tensor, present: Tensor, temperature: float) -> Tensor:
    """π (K, K): how often class j is drawn as a negative of class c, by how alike they are.

    prototypes (K, D) of length 1; present (K,) bool. A class that meets no other has zeros.
    """
    alike = prototypes @ prototypes.mT / temperature
    others = present & ~torch.eye(len(present), dtype=torch.bool, device=present.device)
    chance = alike.masked_fill(~others, -torch.inf).softmax(1)
    return chance.where(others.any(1, keepdim=True), 0)


def draw_pixels(chance: Tensor, labels: Tensor, uniform: Tensor) -> Tensor:
    """Indices (K, M) into labels (n,): a class by `chance` (K, K), then any pixel of that class.

    uniform (2, K, M) in [0, 1). Where a row of chance is zero, the index means nothing.
    """
    ladder = chance.double().cumsum(1)
    pick = torch.searchsorted(ladder, uniform[0].double() * ladder[:, -1:], right=True)
    pick = pick.clamp(max=len(chance) - 1)
    count = tally(labels, len(chance))
    start, count = (count.cumsum(0) - count)[1:], count[1:]
    order = labels.argsort(stable=True)
    step = (uniform[1] * count[pick]).long()
    step = step.minimum((count[pick] - 1).clamp(min=0))
    return order[(start[pick] + step).clamp(max=len(labels) - 1)]


def resized(maps: Tensor, size: torch.Size) -> Tensor:
    """(B, C, H, W) → (B, C, *size), bilinear; as they are where the size is theirs."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
