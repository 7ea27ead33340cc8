"""Instances from displacements, pixel by pixel (Ahn et al., 2019)."""

from math import floor, hypot

import numpy as np


def read(field, y, x):
    """Return the field (h, w) at a real position inside it, bilinearly."""
    height, width = field.shape
    top, left = min(floor(y), height - 1), min(floor(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * field[top, left] + across * field[top, right]
    lower = (1 - across) * field[bottom, left] + across * field[bottom, right]
    return (1 - down) * upper + down * lower


def refine_centroids(displacement, steps):
    """Return where each pixel is after `steps` steps, held inside the map."""
    height, width = displacement.shape[1:]
    ends = np.zeros(displacement.shape)
    for row in range(height):
        for column in range(width):
            y, x = float(row), float(column)
            for _ in range(steps):
                dy, dx = read(displacement[0], y, x), read(displacement[1], y, x)
                y, x = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
            ends[:, row, column] = y, x
    return ends


def components(values):
    """Number the 4-connected regions of one non-zero value, in reading order, from 1."""
    height, width = values.shape
    numbers = np.zeros(values.shape, int)
    count = 0
    for start in np.ndindex(height, width):
        if numbers[start] or not values[start]:
            continue
        count += 1
        open_pixels = [start]
        while open_pixels:
            y, x = open_pixels.pop()
            if numbers[y, x]:
                continue
            numbers[y, x] = count
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width and values[v, u] == values[start]:
                    open_pixels.append((v, u))
    return numbers


def label_instances(displacement, threshold, steps):
    """Return the number of the centre that each pixel ends in, or 0."""
    height, width = displacement.shape[1:]
    weak = np.zeros((height, width), int)
    for y, x in np.ndindex(height, width):
        weak[y, x] = hypot(*displacement[:, y, x]) < threshold
    centres = components(weak)
    ends = refine_centroids(displacement, steps)
    labels = np.zeros((height, width), int)
    for y, x in np.ndindex(height, width):
        labels[y, x] = centres[round(ends[0, y, x]), round(ends[1, y, x])]
    return labels


def detect(maps, class_ids, background, smallest):
    """Return (mask, class id, score) of each part of each map that wins over the background."""
    height, width = maps.shape[1:]
    highest = maps.max()
    owner = np.zeros((height, width), int)
    for y, x in np.ndindex(height, width):
        best = background
        for number, scores in enumerate(maps, start=1):
            if scores[y, x] / highest > best:
                best, owner[y, x] = scores[y, x] / highest, number
    parts = components(owner)
    found = []
    for part in range(1, parts.max() + 1):
        mask = parts == part
        number = owner[mask][0] - 1
        if mask.sum() >= smallest * height * width:
            found.append((mask, class_ids[number], (maps[number][mask] / highest).max()))
    return found
