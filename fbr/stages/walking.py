"""Between the maps that are kept, cells of a picture, and the positions of a network that walks."""

import numpy as np
import torch
from torch import Tensor

from fbr.files.maps import Maps
from fbr.positions import Positions, Size

TOGETHER = 64  # maps at a time: a network that knows nothing yet finds instances by the thousand


def at_positions(found: Maps, grid: Size, positions: Positions) -> np.ndarray:
    """Maps (k, *grid) float32 of an image, read where positions lie."""
    picture = torch.from_numpy(found.cam.astype(np.float32))[None]
    return positions.bilinear(picture, grid, view=found.size)[0].numpy()


def in_cells(walked: Tensor, size: Size, positions: Positions) -> Tensor:
    """Maps (n, k, h, w) of images of this size, drawn in place to as many cells of the picture."""
    grid = walked.shape[2:]
    for part in walked.flatten(0, 1)[None].split(TOGETHER, dim=1):
        part.copy_(positions.drawn(part, size, grid))
    return walked
