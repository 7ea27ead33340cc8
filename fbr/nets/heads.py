"""Segmentation heads on a backbone's maps: DeepLab-V2 and DeepLab-V3+."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fbr.errors import chosen
from fbr.nets.backbones import Backbone


class DeepLabV2(nn.Module):
    """Sum of parallel dilated convolutions on the last map (ASPP, arXiv 1606.00915, fig. 4)."""

    def __init__(self, channels: list[int], classes: int, rates: list[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels[-1], classes, 3, padding=rate, dilation=rate) for rate in rates
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first → logits (B, classes, h, w) on the last map's grid."""
        return sum(branch(maps[-1]) for branch in self.branches)


class DeepLabV3Plus(nn.Module):
    """Parallel dilated convolutions and image pooling, refined by a fine map (arXiv 1802.02611)."""

    WIDTH, FINE = 256, 48  # the paper's

    def __init__(self, channels: list[int], classes: int, rates: list[int]) -> None:
        super().__init__()
        width = min(self.WIDTH, channels[-1])
        # The stride-4 map: behind the stem of a ResNet, the first of a small network.
        self.level = 1 if len(channels) > 3 else 0
        self.branches = nn.ModuleList(
            [_block(channels[-1], width, 1), *(_block(channels[-1], width, 3, r) for r in rates)]
        )
        # One value a channel and image: too few for batch statistics.
        self.pool = _block(channels[-1], width, 1, norm=nn.GroupNorm(8, width))
        self.project = _block(width * (len(rates) + 2), width, 1)
        self.fine = _block(channels[self.level], self.FINE, 1)
        self.refine = nn.Sequential(_block(width + self.FINE, width, 3), _block(width, width, 3))
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps, finest first → logits (B, classes, h, w) on the fine map's grid."""
        deep, fine = maps[-1], self.fine(maps[self.level])
        pooled = self.pool(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        deep = self.project(torch.cat([*(b(deep) for b in self.branches), pooled], 1))
        deep = F.interpolate(deep, fine.shape[2:], mode="bilinear", align_corners=False)
        return self.classify(self.refine(torch.cat([deep, fine], 1)))


def _block(
    inputs: int, outputs: int, kernel: int, rate: int = 1, norm: nn.Module | None = None
) -> nn.Sequential:
    padding = rate * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False),
        norm or nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


HEADS: dict[str, Callable[[list[int], int, list[int]], nn.Module]] = {
    "deeplabv2": DeepLabV2,
    "deeplabv3plus": DeepLabV3Plus,
}


class FullSize(nn.Module):
    """A segmenter whose scores come at the size of the image: what others get to use."""

    def __init__(self, network: "Segmenter") -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised → logits (B, 1 + K, H, W)."""
        logits = self.network(images)
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


class Segmenter(nn.Module):
    """A backbone under a head: photographs in, class scores of every pixel out."""

    def __init__(self, backbone: Backbone, head: str, classes: int, rates: list[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = chosen(HEADS, head, "head")(backbone.channels, classes, rates)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → logits (B, 1 + K, h, w) on the head's own, coarser grid."""
        return self.head(self.backbone(images))
