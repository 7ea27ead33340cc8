"""One random geometry for an image and everything drawn over it: resize, crop and flip in one go.

The crop is read through the resize's source box, so only the pixels that survive are resampled.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


@dataclass(frozen=True)
class Geometry:
    """Resize (H, W) by `scale`, cut a square of `crop` at (top, left) of the result, maybe flip.

    top and left may be negative: there the crop sticks out and is padded.
    """

    scale: float
    top: int
    left: int
    crop: int
    flip: bool

    def apply(self, array: np.ndarray, resample: Image.Resampling, fill: int) -> np.ndarray:
        """(H, W) or (H, W, 3) uint8 → the same with H = W = crop, contiguous."""
        height, width = array.shape[:2]
        tall, wide = scaled(height, width, self.scale)
        y0, x0 = max(self.top, 0), max(self.left, 0)
        y1, x1 = min(self.top + self.crop, tall), min(self.left + self.crop, wide)
        box = (x0 * width / wide, y0 * height / tall, x1 * width / wide, y1 * height / tall)
        part = np.asarray(Image.fromarray(array).resize((x1 - x0, y1 - y0), resample, box=box))
        if self.flip:
            part = part[:, ::-1]
        out = np.full((self.crop, self.crop, *array.shape[2:]), fill, np.uint8)
        x = self.crop - (x1 - self.left) if self.flip else x0 - self.left
        y = y0 - self.top
        out[y : y + part.shape[0], x : x + part.shape[1]] = part
        return out


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width after a resize, at least one pixel each."""
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class RandomGeometry:
    """What a recipe draws from: a factor or a longer side, a crop, flips."""

    crop: int
    scale: tuple[float, float] | None
    long_side: tuple[float, float] | None
    flip: bool

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Geometry:
        """One geometry for an image of this size."""
        if self.scale:
            scale = rng.uniform(*self.scale)
        else:
            scale = rng.uniform(*self.long_side) / max(height, width)
        tall, wide = scaled(height, width, scale)
        top, left = (
            int(rng.integers(min(0, side - self.crop), max(0, side - self.crop) + 1))
            for side in (tall, wide)
        )
        return Geometry(scale, top, left, self.crop, bool(self.flip and rng.random() < 0.5))
