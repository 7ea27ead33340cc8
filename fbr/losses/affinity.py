"""Losses that train the boundary map and the displacement field (IRN, CVPR 2019)."""

import torch
from torch import Tensor

# Keeps the logarithm and its slope finite where the boundary map is saturated.
_TINY = 1e-5

Parts = dict[str, tuple[Tensor, Tensor]]


def affinity_losses(
    affinity: Tensor, background: Tensor, foreground: Tensor, negative: Tensor
) -> Parts:
    """Ask for high affinity inside a class and low affinity between two.

    affinity: (B, P, h, w) in 0..1. The masks, boolean and of the same shape, say which pairs are
    both background, both one foreground class, or of two classes; pairs in no mask (void) are out.
    Returns name -> (weighted sum, count): the loss is the total of sum / max(count, 1), which the
    caller forms over all its processes. An empty mask gives a zero that is still in the graph.
    """
    alike = -torch.log(affinity + _TINY)
    apart = -torch.log(1 + _TINY - affinity)
    return {
        "affinity_bg": _part(alike, background, 0.25),
        "affinity_fg": _part(alike, foreground, 0.25),
        "affinity_neg": _part(apart, negative, 0.5),
    }


def displacement_losses(
    difference: Tensor, displacements: Tensor, background: Tensor, foreground: Tensor
) -> Parts:
    """Ask two pixels of an object to point at one spot, and the background to point nowhere.

    difference: (B, 2, P, h, w), displacement (dy, dx) of a pair's first pixel minus the second's.
    displacements: (P, 2), the way (dy, dx) from first to second, which the difference equals when
    both point at one spot. Masks and result are those of `affinity_losses`; a pair counts twice,
    once an axis.
    """
    way = displacements.to(difference).T[None, :, :, None, None]
    return {
        "displacement_fg": _part((difference - way).abs(), foreground.unsqueeze(1), 0.5),
        "displacement_bg": _part(difference.abs(), background.unsqueeze(1), 0.5),
    }


def _part(loss: Tensor, mask: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    count = mask.sum() * (loss.numel() // mask.numel())
    return weight * (loss * mask).sum(), count.to(loss.dtype)
