"""AMN from its description: one pixel, one class, one tap of a convolution at a time."""

import math

import numpy as np


def conditioned(features, label, weight, bias):
    """f' (L, h, w): each channel times its entry of W y + b."""
    out = np.zeros(features.shape)
    for channel, plane in enumerate(features):
        code = bias[channel] + sum(weight[channel, k] * y for k, y in enumerate(label))
        out[channel] = plane * code
    return out


def aspp(features, branches):
    """Logits (C, h, w): the sum of 3×3 convolutions (weight, bias, rate), zero outside."""
    channels, height, width = features.shape
    logits = np.zeros((len(branches[0][1]), height, width))
    for weight, bias, rate in branches:
        for c in range(len(bias)):
            for y in range(height):
                for x in range(width):
                    logits[c, y, x] += bias[c]
                    for dy in (-1, 0, 1):
                        for dx in (-1, 0, 1):
                            at, across = y + dy * rate, x + dx * rate
                            if 0 <= at < height and 0 <= across < width:
                                taps = weight[c, :, dy + 1, dx + 1]
                                logits[c, y, x] += sum(
                                    taps[i] * features[i, at, across] for i in range(channels)
                                )
    return logits


def balanced(logits, target, smoothing):
    """½ mean over background + ½ mean over foreground; a side without pixels adds nothing.

    Lists of logits, one list a pixel, and ids; the target is 1-ε on the id, ε/K on each other.
    """
    sides = {True: [], False: []}
    for scores, label in zip(logits, target, strict=True):
        if label == 255:
            continue
        total = math.log(sum(math.exp(s) for s in scores))
        loss = 0.0
        for c, score in enumerate(scores):
            wanted = 1 - smoothing if c == label else smoothing / (len(scores) - 1)
            loss -= wanted * (score - total)
        sides[label == 0].append(loss)
    return sum(sum(side) / len(side) / 2 for side in sides.values() if side)


def finish(logits, keys, background):
    """Softmax over all of (1+K, H, W); on background as it is, elsewhere stretched to 0…1."""
    _, height, width = logits.shape
    chance = np.zeros(logits.shape)
    for y in range(height):
        for x in range(width):
            powers = [math.exp(s) for s in logits[:, y, x]]
            chance[:, y, x] = [p / sum(powers) for p in powers]
    maps = []
    for key in keys:
        low, high = chance[key].min(), chance[key].max()
        rows = chance[key].tolist()
        for y in range(height):
            for x in range(width):
                if not background[y, x]:
                    rows[y][x] = (rows[y][x] - low) / max(high - low, 1e-5)
        maps.append(rows)
    return np.array(maps).reshape(len(keys), height, width)
