"""Networks applied to images at several scales, flipped, and in windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fbr.nets.inputs import normalise
from fbr.nets.precision import autocast
from fbr.positions import Positions, Size


@dataclass(frozen=True)
class Looks:
    """At which scales an image is seen, and whether flipped, too."""

    scales: Sequence[float]
    flip: bool


def multi_scale(
    network: Callable[[Tensor], Tensor],
    images: np.ndarray,
    scales: list[float],
    flip: bool,
    size: tuple[int, int],
    device: torch.device,
    bfloat16: bool,
    positions: Positions | None = None,
) -> Tensor:
    """Mean over scales and flips of a network's maps (N, C, *size), float32, on the device.

    images (N, H, W, 3) uint8. network: (B, 3, H, W) → (B, C, h, w). A flipped image's maps are
    flipped back before they count. positions: where those of its maps lie; if none is told they are
    resized like pictures.
    """
    return several(network, images, [Looks(scales, flip)], size, device, bfloat16, positions)[0]


@torch.inference_mode()
def several(
    network: Callable[[Tensor], Tensor],
    images: np.ndarray,
    ways: Sequence[Looks],
    size: tuple[int, int],
    device: torch.device,
    bfloat16: bool,
    positions: Positions | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """`multi_scale` in several ways at once: what they have in common is looked at once.

    finish: what becomes of maps that are drawn by their positions, before a mean is taken.
    """
    whole = normalise(torch.from_numpy(images).to(device))
    totals: list[Tensor | None] = [None] * len(ways)
    for scale in dict.fromkeys(scale for way in ways for scale in way.scales):
        view = tuple(max(1, round(side * scale)) for side in images.shape[1:3])
        resized = whole
        if view != images.shape[1:3]:
            resized = F.interpolate(whole, view, mode="bilinear", align_corners=False)
        flip = any(way.flip for way in ways if scale in way.scales)
        batch = torch.cat([resized, resized.flip(3)]) if flip else resized
        batch = batch.contiguous(memory_format=torch.channels_last)
        with autocast(device.type, bfloat16):
            maps = network(batch).float()
        plain, mirrored = maps[: len(images)], maps[len(images) :]
        for number, way in enumerate(ways):
            if scale in way.scales:
                both = (plain, mirrored) if way.flip else (plain,)
                if positions is None:
                    seen = _resized(both, size)
                else:
                    seen = _drawn(both, view, size, positions, finish)
                seen = seen.mul_(way.scales.count(scale) / len(way.scales) / len(both))
                totals[number] = seen if totals[number] is None else totals[number].add_(seen)
    return totals


def _resized(maps: Sequence[Tensor], size: Size) -> Tensor:
    """The sum of maps, and of the same from right to left if there are two, at `size`.

    Added on the network's own grid, where scores are few: resizing is linear, and alike from the
    left and from the right.
    """
    total = maps[0] if len(maps) == 1 else maps[0] + maps[1].flip(3)
    return F.interpolate(total, size, mode="bilinear", align_corners=False)


def _drawn(
    maps: Sequence[Tensor],
    view: Size,
    size: Size,
    positions: Positions,
    finish: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """As `_resized`, by where positions lie in the view."""
    drawn = (positions.drawn(m, view, size, mirrored=bool(i)) for i, m in enumerate(maps))
    return reduce(Tensor.add_, map(finish, drawn) if finish else drawn)


class Windowed(nn.Module):
    """A network that sees an image through overlapping windows, whose maps are averaged.

    Its maps are of the size of what it sees.
    """

    def __init__(self, network: nn.Module, side: int, overlap: float) -> None:
        super().__init__()
        self.network, self.side, self.overlap = network, side, overlap

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, H, W) float32. An image no larger than a window is one."""
        height, width = images.shape[2:]
        tall, wide = min(self.side, height), min(self.side, width)
        total, seen = 0.0, images.new_zeros(height, width)
        for top in starts(height, tall, self.overlap):
            for left in starts(width, wide, self.overlap):
                place = (..., slice(top, top + tall), slice(left, left + wide))
                maps = self.network(images[place].contiguous(memory_format=torch.channels_last))
                if isinstance(total, float):
                    total = maps.new_zeros(*maps.shape[:2], height, width)
                total[place] += maps
                seen[place] += 1
        return total / seen


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Where windows begin, evenly from end to end, each overlapping the next by that share."""
    step = max(1, int(side * (1 - overlap)))
    count = -(-(length - side) // step) + 1
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]
