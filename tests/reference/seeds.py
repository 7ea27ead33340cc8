"""Label maps, energies of scores and confident seeds, pixel by pixel, from the rule."""

from math import log

import numpy as np


def label_map(cam, keys, threshold):
    """Strongest class of each pixel, 0 where it does not exceed the threshold; lists of lists."""
    _, height, width = cam.shape
    labels = [[0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            best = threshold
            for score, key in zip(cam[:, y, x], keys, strict=True):
                if score > best:
                    best, labels[y][x] = score, int(key)
    return labels


def score_energies(cam, power, floor=1e-5):
    """-log of background's (1 - strongest)^power and of each class, (1 + k, h, w)."""
    k, height, width = cam.shape
    energies = np.zeros((1 + k, height, width))
    for y in range(height):
        for x in range(width):
            classes = [float(score) for score in cam[:, y, x]]
            scores = [(1 - max(classes, default=0)) ** power, *classes]
            energies[:, y, x] = [-log(max(score, floor)) for score in scores]
    return energies


def confident(surely_class, maybe_class):
    """Class where the strict pass has one, 255 where only the loose pass has one, else 0."""
    seeds = []
    for strict_row, loose_row in zip(surely_class, maybe_class, strict=True):
        row = []
        for strict, loose in zip(strict_row, loose_row, strict=True):
            if strict:
                row.append(int(strict))
            elif loose:
                row.append(255)
            else:
                row.append(0)
        seeds.append(row)
    return seeds
