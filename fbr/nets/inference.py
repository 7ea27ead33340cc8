"""Networks applied to one image at several scales and flipped."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fbr.nets.inputs import normalise


@torch.inference_mode()
def multi_scale(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    scales: list[float],
    flip: bool,
    size: tuple[int, int],
    device: torch.device,
    bfloat16: bool,
) -> Tensor:
    """Mean over scales and flips of a network's maps (C, *size), float32, on the device.

    image (H, W, 3) uint8. network: (B, 3, H, W) → (B, C, h, w). A flipped image's maps are flipped
    back before they count.
    """
    whole = normalise(torch.from_numpy(image)[None].to(device))
    total: Tensor | float = 0.0
    for scale in scales:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        resized = whole
        if (height, width) != image.shape[:2]:
            resized = F.interpolate(whole, (height, width), mode="bilinear", align_corners=False)
        batch = torch.cat([resized, resized.flip(3)]) if flip else resized
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            maps = network(batch)
        maps = F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)
        if flip:
            maps = (maps[:1] + maps[1:].flip(3)) / 2
        total = total + maps[0]
    return total / len(scales)
