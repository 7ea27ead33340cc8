"""From the bytes of photographs to what every network takes."""

import torch

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, of values in 0…1


def normalise(image: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 with ImageNet's statistics.

    The permuted view already lies in memory the way `channels_last` wants it.
    """
    mean = torch.tensor(MEAN, device=image.device) * 255
    std = torch.tensor(STD, device=image.device) * 255
    return ((image.float() - mean) / std).permute(0, 3, 1, 2)
