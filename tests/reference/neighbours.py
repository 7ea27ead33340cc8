"""Maps that follow colours: one pixel, one neighbour at a time."""

import math

import numpy as np


def follow_colours(maps, colours, steps, dilations, contrast):
    """maps (C, h, w) and colours (3, h, w) of one image, on the same grid."""
    height, width = colours.shape[1:]
    weights = {}
    for y in range(height):
        for x in range(width):
            around = [
                (min(max(y + d * j, 0), height - 1), min(max(x + d * i, 0), width - 1))
                for d in dilations
                for j in (-1, 0, 1)
                for i in (-1, 0, 1)
            ]
            apart = [float(abs(colours[:, v, u] - colours[:, y, x]).sum()) for v, u in around]
            scale = contrast * (np.std(apart, ddof=1) + 1e-4)
            powers = [math.exp(-a / scale) for a in apart]
            weights[y, x] = [
                (v, u, p / sum(powers)) for (v, u), p in zip(around, powers, strict=True)
            ]
    maps = maps.astype(np.float64)
    for _ in range(steps):
        moved = np.zeros_like(maps)
        for (y, x), parts in weights.items():
            for v, u, weight in parts:
                moved[:, y, x] += weight * maps[:, v, u]
        maps = moved
    return maps
