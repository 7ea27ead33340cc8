"""Maps that follow the colours of an image, by repeated means over neighbours that look alike.

In the manner of PAMR (Araslanov and Roth, CVPR 2020): cheap enough to run on the coarse maps of
every training step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fbr.positions import Positions

TINY = 1e-4


def follow_colours(
    maps: Tensor,
    images: Tensor,
    steps: int,
    dilations: list[int],
    contrast: float,
    finer: int = 1,
    positions: Positions | None = None,
) -> Tensor:
    """maps (B, C, h, w), images (B, 3, H, W) of any scale → maps (B, C, h, w).

    positions: where those of the maps lie in the images; else they cut them into equal cells.

    A step makes each pixel the mean over its 3×3 neighbours at each dilation, itself among them,
    weighted by exp(-|colour difference| / (contrast · deviation of these differences)). It runs on
    a grid `finer` times as fine, and the result is averaged back.
    """
    coarse = maps.shape[2:]
    if finer > 1:
        maps = F.interpolate(maps, scale_factor=finer, mode="bilinear", align_corners=False)
    if positions is None:
        colours = F.adaptive_avg_pool2d(images.to(maps.dtype), maps.shape[2:])
    else:
        colours = positions.around(images, coarse, finer).to(maps.dtype)
    apart = (_around(colours, dilations) - colours[:, :, None]).abs().sum(1)
    deviation = apart.std(1, keepdim=True) + TINY
    weights = (-apart / (contrast * deviation)).softmax(1)[:, None]
    for _ in range(steps):
        maps = (_around(maps, dilations) * weights).sum(2)
    return F.adaptive_avg_pool2d(maps, coarse)


def _around(maps: Tensor, dilations: list[int]) -> Tensor:
    """(B, C, h, w) → (B, C, 9 · dilations, h, w); beyond the border the border goes on."""
    b, c, h, w = maps.shape
    seen = []
    for dilation in dilations:
        padded = F.pad(maps, (dilation,) * 4, mode="replicate")
        seen.append(F.unfold(padded, 3, dilation).view(b, c, 9, h, w))
    return torch.cat(seen, 2)
