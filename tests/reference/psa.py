"""Affinities of features, their losses and the walk over them, by pairs (Ahn and Kwak, 2018)."""

from math import exp, log

import numpy as np

from tests.reference.affinity import kind, pairs


def affinity(features, first, step):
    """Return exp(-mean |difference|) of two pixels of features (C, h, w)."""
    (y, x), (dy, dx) = first, step
    apart = [abs(float(f[y][x]) - float(f[y + dy][x + dx])) for f in features]
    return exp(-sum(apart) / len(apart))


def total_loss(features, labels, radius):
    """Return 1/4 bg + 1/4 fg + 1/2 neg, each a mean over the batch."""
    parts = {"background": [], "foreground": [], "negative": []}
    for image, label in zip(features, labels, strict=True):
        for first, step in pairs(len(label), len(label[0]), radius):
            if what := kind(label, first, step):
                alike = affinity(image, first, step)
                wanted = 1 - alike if what == "negative" else alike
                parts[what].append(-log(wanted + 1e-5))
    mean = {name: sum(terms) / max(len(terms), 1) for name, terms in parts.items()}
    return mean["background"] / 4 + mean["foreground"] / 4 + mean["negative"] / 2


def masks(cam, keys, features, beta, exp_times, radius, threshold):
    """Let a constant background and the maps walk by the dense matrix; the highest wins."""
    height, width = features.shape[1:]
    matrix = np.eye(height * width)
    for (y, x), (dy, dx) in pairs(height, width, radius):
        i, j = y * width + x, (y + dy) * width + x + dx
        matrix[i, j] = matrix[j, i] = affinity(features, (y, x), (dy, dx)) ** beta
    matrix /= matrix.sum(axis=0)
    for _ in range(exp_times):
        matrix = matrix @ matrix
    scores = np.concatenate([np.full((1, height, width), threshold), cam])
    walked = (scores.reshape(len(scores), -1) @ matrix).reshape(scores.shape)
    return np.array([0, *keys])[walked.argmax(axis=0)]
