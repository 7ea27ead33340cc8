"""Features whose distance says how far two pixels belong together (AffinityNet, PSA, CVPR 2018)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbr.positions import Positions

LEVELS = 3  # the deepest ones of a backbone


class PairFeatures(nn.Module):
    """The deepest levels of a backbone, each made narrower, mixed on the grid of their finest.

    backbone: maps images to a list of feature maps, finest first, and knows their positions; it
    trains, too. channels: of each. width: what is kept of the first level taken; each one after it
    keeps twice as much.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.places: list[Positions] = backbone.positions[-LEVELS:]
        self.positions = self.places[0]
        deepest = channels[-LEVELS:]
        widths = [width << level for level in range(len(deepest))]
        self.reduce = nn.ModuleList(
            nn.Conv2d(i, o, 1, bias=False) for i, o in zip(deepest, widths, strict=True)
        )
        self.mix = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        for layer in self.reduce:
            nn.init.kaiming_normal_(layer.weight)
        # Wide at the start, so that affinities are not all close to one.
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    @property
    def head(self) -> list[nn.Module]:
        """The parts that start from nothing."""
        return [self.reduce, self.mix]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → features (B, C, h, w) float32, for `feature_affinity`."""
        found = self.backbone(images)[-LEVELS:]
        levels = [F.elu(reduce(level)) for reduce, level in zip(self.reduce, found, strict=True)]
        grid = levels[0].shape[2:]
        levels = [
            self.positions.bilinear(level, grid, place)
            for level, place in zip(levels, self.places, strict=True)
        ]
        together = torch.cat(levels, dim=1)
        # Differences of features that bfloat16 has rounded would be mostly rounding.
        with torch.autocast(images.device.type, enabled=False):
            return F.elu(self.mix(together.float()))
