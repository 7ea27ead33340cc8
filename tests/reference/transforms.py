"""Crop, flip and pad at scale 1, one pixel at a time."""

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
