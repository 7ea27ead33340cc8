"""A backbone that commutes with flips of odd sides, and batches, for tests of every CAM method."""

import torch
from torch import Tensor, nn

from fbr.positions import Positions


class Backbone(nn.Module):
    """Means over 3×3 pixels and 1×1 convolutions: three levels at strides 2, 4 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.positions = [5, 6, 8], [Positions(2), Positions(4), Positions(4)]
        pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.levels = nn.ModuleList(
            [
                nn.Sequential(pool, nn.Conv2d(3, 5, 1), nn.ReLU()),
                nn.Sequential(pool, nn.Conv2d(5, 6, 1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU()),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for level in self.levels:
            images = level(images)
            maps.append(images)
        return maps


def batch(images: int, classes: int, side: int = 32, seed: int = 0) -> dict:
    """Blotches, a class of each image at least, saliency, and seeds with void among them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 2 * torch.randn(images, 3, 6, 6, generator=generator)
    label = torch.randint(0, 2, (images, classes), generator=generator).float()
    label[torch.arange(images), torch.arange(images) % classes] = 1
    saliency = torch.randint(0, 256, (images, side, side), generator=generator).byte()
    seeds = torch.randint(0, classes + 1, (images, side, side), generator=generator).byte()
    seeds[:, : side // 4] = 255
    return {
        "image": nn.functional.interpolate(coarse, (side, side), mode="bilinear"),
        "label": label,
        "saliency": saliency,
        "seeds": seeds,
        "step": 0,
        "seed": 5,
    }
