"""Saliency as a target of the foreground and the background map: the loss of EPS (CVPR 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def explicit_pseudo_pixels(
    chance: Tensor, saliency: Tensor, labels: Tensor, threshold: float, balance: float
) -> Tensor:
    """Mean squared error of the saliency that the class maps add up to (Lee et al., eq. 2 to 5).

    chance (B, 1+K, h, w), the classes' shares of each pixel, background first; saliency (B, h, w)
    in 0…1; labels (B, K). A class whose map, where it holds more than a half, is salient by more
    than `threshold` (τ) makes foreground; any other class of the image belongs to the background.
    `balance` (λ, α in the code) weighs the foreground's map against what the background's leaves.
    """
    labels = labels.to(torch.bool)
    own = chance.detach()[:, 1:].round().flatten(2)
    salient = own @ saliency.float().round().flatten(1)[:, :, None]  # (B, K, 1)
    share = salient[:, :, 0] / (own + 1e-4).sum(2)
    above = share > threshold
    foreground = _sum(chance[:, 1:], labels & above)
    background = chance[:, 0] + _sum(chance[:, 1:], labels & ~above)
    return F.mse_loss(balance * foreground + (1 - balance) * (1 - background), saliency.float())


def _sum(maps: Tensor, chosen: Tensor) -> Tensor:
    """(B, K, h, w), (B, K) bool → (B, h, w)."""
    return torch.einsum("bkhw,bk->bhw", maps, chosen.to(maps.dtype))
