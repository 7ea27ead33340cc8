"""One random geometry for an image and everything drawn over it: resize, crop and flip in one go.

The crop is read through the resize's source box, so only the pixels that survive are resampled.
Colours of the image alone may move, too.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
SMOOTH = {"bilinear": BILINEAR, "bicubic": Image.Resampling.BICUBIC}


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


Drawn = tuple[float, float] | list[float]


def _drawn(rng: np.random.Generator, among: Drawn) -> float:
    return float(rng.choice(among) if isinstance(among, list) else rng.uniform(*among))


@dataclass(frozen=True)
class RandomGeometry:
    """What a recipe draws from: a factor or a longer side, a crop, flips.

    A pair is an interval, a list the numbers that there are.
    """

    crop: int
    scale: Drawn | None
    long_side: Drawn | None
    flip: bool

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Geometry:
        """One geometry for an image of this size."""
        if self.scale:
            scale = _drawn(rng, self.scale)
        else:
            scale = _drawn(rng, self.long_side) / max(height, width)
        tall, wide = scaled(height, width, scale)
        top, left = (
            int(rng.integers(min(0, side - self.crop), max(0, side - self.crop) + 1))
            for side in (tall, wide)
        )
        return Geometry(scale, top, left, self.crop, bool(self.flip and rng.random() < 0.5))


@dataclass(frozen=True)
class Colours:
    """Changes of an image's colours, one after another: names of CHANGES, and by how much."""

    changes: tuple[tuple[str, "float | tuple[int, ...]"], ...]

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 → the same shape; each change rounds and clips."""
        picture = Image.fromarray(image)
        for name, by in self.changes:
            picture = CHANGES[name](picture, by)
        return np.asarray(picture)


def _turn_hue(picture: Image.Image, by: float) -> Image.Image:
    """Turn the colour circle by a share of it; Pillow's has 255 steps."""
    hue, *rest = picture.convert("HSV").split()
    turned = hue.point([(step + round(255 * by)) % 255 for step in range(256)])
    return Image.merge("HSV", (turned, *rest)).convert("RGB")


def _shift(picture: Image.Image, by: tuple[int, ...]) -> Image.Image:
    """Add levels, of 180 around the circle to the hue, of 255 to saturation and value."""
    levels = np.array(picture.convert("HSV"), np.int16)
    turn, *rest = by
    levels[..., 0] = (levels[..., 0] + round(turn * 255 / 180)) % 255
    levels[..., 1:] = (levels[..., 1:] + np.array(rest, np.int16)).clip(0, 255)
    return Image.fromarray(levels.astype(np.uint8), "HSV").convert("RGB")


CHANGES: dict[str, Callable[[Image.Image, Any], Image.Image]] = {
    "shift": _shift,
    "brightness": lambda picture, by: ImageEnhance.Brightness(picture).enhance(by),
    "contrast": lambda picture, by: ImageEnhance.Contrast(picture).enhance(by),
    "saturation": lambda picture, by: ImageEnhance.Color(picture).enhance(by),
    "hue": _turn_hue,
}


@dataclass(frozen=True)
class RandomColours:
    """What a recipe draws from: factors within 1 ± a number, and a turn of the hue within ± it."""

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def draw(self, rng: np.random.Generator) -> Colours:
        """All four changes, in an order of their own."""
        limits = asdict(self)
        turn = limits.pop("hue")
        changes = [(name, rng.uniform(1 - by, 1 + by)) for name, by in limits.items()]
        changes.append(("hue", rng.uniform(-turn, turn)))
        return Colours(tuple(changes[place] for place in rng.permutation(len(changes))))


@dataclass(frozen=True)
class RandomShift:
    """Hue, saturation and value, each moved by whole levels within ± a number."""

    levels: int

    def draw(self, rng: np.random.Generator) -> Colours:
        """One change, of all three."""
        by = rng.integers(-self.levels, self.levels, 3, endpoint=True)
        return Colours((("shift", tuple(int(level) for level in by)),))
