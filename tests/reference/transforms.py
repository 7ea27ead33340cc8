"""Crop, flip and pad at scale 1, and changes of colour, one pixel at a time."""

import colorsys

import numpy as np


def cut(
    array: np.ndarray, top: int, left: int, crop: int, flip: bool, fill: int | list[int]
) -> np.ndarray:
    """Array (H, W, …) → (crop, crop, …): what lies outside of the array becomes `fill`."""
    height, width = array.shape[:2]
    out = np.zeros((crop, crop, *array.shape[2:]), array.dtype)
    for y in range(crop):
        for x in range(crop):
            row, column = top + y, left + (crop - 1 - x if flip else x)
            inside = 0 <= row < height and 0 <= column < width
            out[y, x] = array[row, column] if inside else fill
    return out


def recoloured(image: np.ndarray, change: str, by: float) -> np.ndarray:
    """Array (H, W, 3): each pixel blended with black, the mean grey or its own grey, or turned."""
    greys = [[_grey(pixel) for pixel in row] for row in image.tolist()]
    mean = round(sum(map(sum, greys)) / image[..., 0].size)
    out = np.zeros_like(image)
    for y, row in enumerate(image.tolist()):
        for x, pixel in enumerate(row):
            if change == "hue":
                out[y, x] = _turned(pixel, by)
            else:
                from_ = {"brightness": 0, "contrast": mean, "saturation": greys[y][x]}[change]
                out[y, x] = [_clipped(from_ + by * (value - from_)) for value in pixel]
    return out


def _grey(pixel):
    red, green, blue = pixel
    return round(0.299 * red + 0.587 * green + 0.114 * blue)


def _turned(pixel, by):
    """Hue and saturation in 255 steps, as files hold them."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in pixel))
    turned = (int(255 * hue) / 255 + round(255 * by) / 255) % 1
    back = colorsys.hsv_to_rgb(turned, int(255 * saturation) / 255, value)
    return [_clipped(255 * v) for v in back]


def _clipped(value):
    return min(255, max(0, round(value)))
