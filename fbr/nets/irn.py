"""Inter-pixel relation network: class boundaries and displacements (IRN, CVPR 2019)."""

from collections.abc import Sequence
from math import gcd
from typing import Self

import torch
from torch import Tensor, nn

from fbr.positions import Positions

FINEST = 4  # stride of the grid that pairs, displacements and walks are told on


class AffinityNet(nn.Module):
    """Two branches on a frozen backbone: where classes meet, and where an object's centre lies.

    backbone: maps images to a list of feature maps, finest first, two or more, and knows their
    positions. Those finer than FINEST are left out where two others stay. channels: of each.
    width: channels of a level in the edge branch; the displacement branch has at most 8 times it.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int], width: int = 32) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        finer = sum(place.stride < FINEST for place in backbone.positions)
        self.finer = finer if len(channels) - finer > 1 else 0
        places = backbone.positions[self.finer :]
        self.positions: Positions = places[0]
        self.edge = EdgeBranch(channels[self.finer :], places, width)
        self.displacement = DisplacementBranch(channels[self.finer :], places, 8 * width)
        self.register_buffer("mean_shift", torch.zeros(2))
        self.train()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return edge logits (B, 1, h, w) and displacements (B, 2, h, w) on the finest grid.

        Displacements are (dy, dx) in pixels of that grid. In eval mode `mean_shift` is taken off.
        Both are float32, under automatic mixed precision too.
        """
        with torch.no_grad():
            features = self.backbone(images)[self.finer :]
        displacement = self.displacement(features)
        if not self.training:
            displacement = displacement - self.mean_shift.view(1, 2, 1, 1)
        return self.edge(features), displacement

    def set_mean_shift(self, mean: Tensor) -> None:
        """Set the mean displacement (2,) of the training images, which the losses leave free."""
        self.mean_shift.copy_(mean)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the branches; the frozen backbone keeps its statistics."""
        super().train(mode)
        self.backbone.eval()
        return self


class EdgeBranch(nn.Module):
    """Reduce every level, bring all to the finest grid, and decide from them together."""

    def __init__(self, channels: Sequence[int], places: Sequence[Positions], width: int) -> None:
        super().__init__()
        self.places = places
        self.reduce = nn.ModuleList(_block(level, width) for level in channels)
        self.decide = nn.Conv2d(width * len(channels), 1, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, 1, h, w) on the grid of the first map."""
        levels = [reduce(level) for reduce, level in zip(self.reduce, features, strict=True)]
        grid, finest = levels[0].shape[2:], self.places[0]
        levels = [finest.bilinear(e, grid, at) for e, at in zip(levels, self.places, strict=True)]
        return _exact(self.decide, torch.cat(levels, dim=1))


class DisplacementBranch(nn.Module):
    """Merge the levels from coarse to fine, then regress through three 1x1 convolutions."""

    def __init__(self, channels: Sequence[int], places: Sequence[Positions], widest: int) -> None:
        super().__init__()
        self.places = places
        widths = [min(level, widest) for level in channels]
        coarser = [*[widest] * (len(widths) - 2), widths[-1]]
        self.reduce = nn.ModuleList(map(_block, channels, widths))
        self.merge = nn.ModuleList(
            _block(fine + coarse, widest) for fine, coarse in zip(widths[:-1], coarser, strict=True)
        )
        self.mix = _block(widest, widest)
        # No bias: the losses see differences of displacements only.
        self.regress = nn.Conv2d(widest, 2, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return displacements (B, 2, h, w) on the grid of the first map."""
        *finer, merged = [f(level) for f, level in zip(self.reduce, features, strict=True)]
        *places, at = self.places
        for merge, level, place in reversed([*zip(self.merge, finer, places, strict=True)]):
            coarse = place.bilinear(merged, level.shape[2:], at).to(level.dtype)
            merged, at = merge(torch.cat([coarse, level], dim=1)), place
        return _exact(self.regress, self.mix(merged))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    # Groups of eight channels where they divide evenly.
    groups = gcd(outputs, max(1, outputs // 8))
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs), nn.ReLU()
    )


def _exact(layer: nn.Module, features: Tensor) -> Tensor:
    # In bfloat16 a displacement of 40 pixels is only known to a quarter of a pixel.
    with torch.autocast(features.device.type, enabled=False):
        return layer(features.float())
