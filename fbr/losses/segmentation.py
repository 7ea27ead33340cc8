"""Pixel losses, as sums and counts so that several processes divide exactly.

A part is a pair (sum, count), or a triple (sum, count, k) whose loss is the k-th root of the mean.
Batches differ in their number of labelled pixels, so a mean of means would depend on how the batch
is split; the training loop adds up both over all processes and then takes sum / max(count, 1).

Every loss can be smoothed, pooled over neighbours of the same label, restricted to hard pixels and
averaged by a power: pooling and power together are the locally adaptive loss (arXiv 1802.08290),
each alone is its control.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fbr.params import Hard, LossOptions

VOID = 255
PLAIN = LossOptions()
LEAST = 1e-6  # a pixel's loss before it is raised to a power, and a probability before its log

Part = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, float]


def cross_entropy(logits: Tensor, target: Tensor, options: LossOptions = PLAIN) -> Part:
    """Return the cross entropy summed over the labelled pixels, and their number.

    logits (B, C, H, W), background first; target (B, H, W) integer ids, void (255) left out. A
    batch without a labelled pixel gives (0, 0) with zero gradients. The sum is float32, the count
    int64. With a power k above 1, the sum is that of k-th powers, and k the third part.
    """
    losses, counted = _per_pixel(logits.float(), target.long(), options)
    return _part(losses, counted, options.power)


def balanced_cross_entropy(
    logits: Tensor, target: Tensor, options: LossOptions = PLAIN
) -> dict[str, Part]:
    """Return the parts of ½ mean over background + ½ mean over foreground pixels (DSRG's balance).

    Arguments as in `cross_entropy`. Each sum carries its ½, so the loss is the plain sum of the two
    parts' means. A part without pixels adds nothing; the other keeps its ½.
    """
    losses, counted = _per_pixel(logits.float(), target.long(), options)
    sides = {"background": target == 0, "foreground": target != 0}
    return {n: _part(losses / 2, counted & side, options.power) for n, side in sides.items()}


def weighted(part: Part, weight: float) -> Part:
    """The part of a loss that counts `weight` times as much."""
    total, count, *root = part
    return (total * weight ** (root[0] if root else 1), count, *root)


def local_pool(values: Tensor, target: Tensor, window: int, sigma: float) -> Tensor:
    """Mean of each pixel's neighbours with its own label, nearer ones weighing more.

    values (B, C, H, W); target (B, H, W), whose void pixels (255) neither count nor get anything
    but 0. A neighbour weighs exp(−d² / 2σ²) for its chessboard distance d, up to half the window.
    """
    return _LocalPool.apply(values, target, window // 2, sigma)


class _LocalPool(torch.autograd.Function):
    """Written out because both directions are one symmetric sum, which autograd cannot know.

    It would keep, and then add up, a gradient for each place in the window.
    """

    @staticmethod
    def forward(
        context: FunctionCtx, values: Tensor, target: Tensor, reach: int, sigma: float
    ) -> Tensor:
        weights = (target != VOID)[:, None].to(values)
        weight = _gathered(weights, target, reach, sigma).clamp(min=LEAST)
        context.save_for_backward(target, weight)
        context.reach, context.sigma = reach, sigma
        return _gathered(values, target, reach, sigma) / weight

    @staticmethod
    def backward(context: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        target, weight = context.saved_tensors
        return _gathered(gradient / weight, target, context.reach, context.sigma), None, None, None


def _gathered(values: Tensor, target: Tensor, reach: int, sigma: float) -> Tensor:
    """Weighted sums (B, C, H, W) over neighbours with the same label, void pixels left out."""
    labelled = (target != VOID)[:, None].to(values)
    gathered = values * labelled
    height, width = target.shape[1:]
    # Half of the window; the other half is the same pairs seen from the other side.
    half = [(y, x) for y in range(reach + 1) for x in range(-reach, reach + 1) if (y, x) > (0, 0)]
    for y, x in half:
        if y >= height or abs(x) >= width:
            continue
        down = slice(y, None), slice(max(x, 0), width + min(x, 0))
        up = slice(None, height - y), slice(max(-x, 0), width - max(x, 0))
        here, there = (..., *up), (..., *down)
        same = (target[here] == target[there])[:, None] * labelled[here]
        same = same * math.exp(-(max(y, abs(x)) ** 2) / (2 * sigma**2))
        gathered[here].addcmul_(values[there], same)
        gathered[there].addcmul_(values[here], same)
    return gathered


def _per_pixel(logits: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """Losses (B, H, W) float32, 0 at void pixels, and which of them count (B, H, W) bool."""
    log = _log_probabilities(logits, target, options)
    losses = entropy = F.nll_loss(log, target, ignore_index=VOID, reduction="none")
    counted = target != VOID
    if options.smoothing:
        even = -log.mean(1) * counted
        losses = (1 - options.smoothing) * entropy + options.smoothing * even
    if options.hard:
        counted = counted & _hard(entropy.detach(), counted, options.hard)
    return losses, counted


def _log_probabilities(logits: Tensor, target: Tensor, options: LossOptions) -> Tensor:
    if options.pool is None:
        return logits.log_softmax(1)
    window, sigma = options.pool.window, options.pool.sigma
    if options.pool.space == "logits":
        return local_pool(logits, target, window, sigma).log_softmax(1)
    return local_pool(logits.softmax(1), target, window, sigma).clamp(min=LEAST).log()


def _hard(entropy: Tensor, counted: Tensor, hard: Hard) -> Tensor:
    """Pixels whose label is improbable, and of each image at least so many, the hardest."""
    chosen = (-entropy).exp() < hard.below
    if hard.at_least:
        # Of each image, not of the batch: a batch may be split over processes in any way.
        falling = entropy.masked_fill(~counted, -1).flatten(1).sort(descending=True).values
        number = (hard.at_least * counted.flatten(1).sum(1)).ceil().long()
        last = falling.gather(1, (number - 1).clamp(min=0)[:, None])
        chosen = chosen | (entropy >= last[:, :, None])
    return chosen


def _part(losses: Tensor, counted: Tensor, power: float) -> Part:
    if power == 1:
        return (losses * counted).sum(), counted.sum()
    return (losses.clamp(min=LEAST) ** power * counted).sum(), counted.sum(), power


LOSSES = {
    "cross_entropy": lambda logits, target, options=PLAIN: {
        "cross_entropy": cross_entropy(logits, target, options)
    },
    "balanced_cross_entropy": balanced_cross_entropy,
}
