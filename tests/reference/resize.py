"""Bilinear resizing with aligned pixel centres, one target pixel at a time."""

import math

import numpy as np


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Image (H, W) → (height, width); beyond the outermost pixel centres the edge is repeated."""
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            out[y, x] = _at(
                image,
                (y + 0.5) * image.shape[0] / height - 0.5,
                (x + 0.5) * image.shape[1] / width - 0.5,
            )
    return out


def _at(image: np.ndarray, y: float, x: float) -> float:
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            inside = image[
                min(max(row, 0), image.shape[0] - 1), min(max(column, 0), image.shape[1] - 1)
            ]
            total += weight * float(inside)
    return total
