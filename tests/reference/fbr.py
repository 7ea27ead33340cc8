"""FBR (TCSVT 2024) from its equations: one image, one class, one pixel, one key at a time.

Grids are flat. Masks and numbers come as NumPy arrays, what has a gradient as torch doubles.
"""

import math
from collections import deque

import numpy as np
import torch
import torch.nn.functional as F

TINY = 1e-5


def threshold_pool(features, threshold):
    """g = Σ m f / max(1, Σ m), m = 1[f > τ max f], for each image and channel of (B, L, N)."""
    pooled = []
    for image in features:
        for channel in image:
            chosen = [f for f in channel if f > threshold * max(channel)]
            total = sum(chosen, start=0 * channel.sum())
            pooled.append(total / max(1, len(chosen)))
    return torch.stack(pooled).view(features.shape[:2])


# Seeds


def seeds(scores, labels, background, softmax=False):
    """Score, chance and label map of (B, 1+K, N) for (B, K); background None: the channel's own."""
    scores = scores.astype(np.float64)
    score, chance = np.zeros_like(scores), np.zeros_like(scores)
    label = np.zeros((len(scores), scores.shape[2]), np.int64)
    for b, maps in enumerate(scores):
        shown = [1, *labels[b]]
        if softmax:
            for i in range(maps.shape[1]):
                chance[b, :, i] = np.multiply(_softmax(maps[:, i]), shown)
        for c in range(len(maps)):
            score[b, c] = shown[c] * (_stretched(chance[b, c]) if softmax else _cam(maps[c]))
        if background is not None:
            score[b, 0] = background
        for i in range(maps.shape[1]):
            if not softmax:
                chance[b, :, i] = _softmax(score[b, :, i])
            label[b, i] = list(score[b, :, i]).index(max(score[b, :, i]))
    return score, chance, label


def _softmax(values):
    powers = [math.exp(v) for v in values]
    return [p / sum(powers) for p in powers]


def _stretched(values):
    low, high = min(values), max(values)
    return np.array([(v - low) / (high - low + TINY) for v in values])


def _cam(values):
    rectified = [max(v, 0) for v in values]
    low, high = min(rectified), max(rectified)
    return np.array([max(0, r - low - TINY) / (high - low + TINY) for r in rectified])


def queries(score, chance, label, rank, quantile, blank_background):
    """Per image and class: a sorted list, its element at floor(|v| ρ), then the entropy test."""
    asked = np.zeros(label.shape, bool)
    for b, here in enumerate(label):
        positions = range(len(here))
        sure = set()
        for c in set(here.tolist()) - {0}:
            own = [i for i in positions if here[i] == c]
            values = sorted(score[b, c, i] for i in own if score[b, c, i] > np.float32(0.05))
            if values:
                threshold = values[math.floor(len(values) * rank)]
                sure |= {i for i in own if score[b, c, i] > threshold}
        entropy = []
        for i in positions:
            terms = [p * math.log(p + 1e-10) for p in chance[b, :, i].tolist()]
            entropy.append(0.0 if blank_background and here[i] == 0 else -sum(terms))
        least = np.quantile(entropy, quantile)
        for i in positions:
            asked[b, i] = here[i] > 0 and i not in sure and entropy[i] > least
    return asked


def prototypes(score, label, pixels, top):
    """Σ s z / Σ s over the `top` highest s of the batch, for each class; pixels (B, N, D)."""
    centres = []
    for c in range(1, score.shape[1]):
        found = []
        for b, here in enumerate(label):
            for i, z in enumerate(pixels[b]):
                s = score[b, c, i]
                if c in here and here[i] != c:
                    s = 0.0
                found.append((s, z))
        found = sorted(found, key=lambda pair: -pair[0])[:top]
        total = sum(s for s, _ in found)
        weighted = sum(s * z for s, z in found)
        centres.append(weighted / total if total > 0 else 0 * weighted)
    return np.array(centres)


def graph(prototypes, present, temperature):
    """π from class c to class j: softmax of cos(P_c, P_j) / τ over the other present classes."""
    count = len(present)
    chance = np.zeros((count, count))
    for c in range(count):
        powers = {
            j: math.exp(cosine(prototypes[c], prototypes[j]) / temperature)
            for j in range(count)
            if present[j] and j != c
        }
        for j, power in powers.items():
            chance[c, j] = power / sum(powers.values())
    return chance


def cosine(a, b):
    """Cosine of two vectors, 0 where one of them is 0."""
    if not (a != 0).any() or not (b != 0).any():
        return 0 * (a * b).sum()
    return (a * b).sum() / ((a * a).sum() ** 0.5 * (b * b).sum() ** 0.5)


# Losses


def contrast(query, prototype, negatives, temperature):
    """ℓ of one query (D,): -log of the prototype's share among prototype and negatives (M, D)."""
    positive = torch.exp(cosine(query, prototype) / temperature)
    others = [torch.exp(cosine(query, n) / temperature) for n in negatives]
    return -torch.log(positive / (positive + sum(others)))


def released_contrast(query, prototype, negatives, temperature):
    """The same as it was released: the cosine runs along the keys, the 'logits' are D numbers."""
    keys = torch.cat([prototype[None], negatives])[None]  # (1, 1+M, D)
    logits = torch.cosine_similarity(query[None, None], keys, dim=1)  # (1, D)
    return F.cross_entropy(logits / temperature, torch.tensor([0]))


def over_classes(losses, labels, present):
    """Mean over the queries of each class, then over present classes, with queries or without."""
    total = torch.zeros((), dtype=torch.float64)
    for c, there in enumerate(present, start=1):
        own = [loss for loss, label in zip(losses, labels, strict=True) if label == c]
        if there and own:
            total = total + sum(own) / len(own)
    return total / max(1, sum(present))


def background_target(maps, labels, below):
    """1 where Σ y ReLU(CAM) / (max + 1e-5) stays below, for maps (B, K, N) and labels (B, K)."""
    target = np.zeros((len(maps), maps.shape[2]))
    for b, image in enumerate(maps.clip(min=0)):
        for i in range(maps.shape[2]):
            parts = [y * m[i] / (max(m) + TINY) for y, m in zip(labels[b], image, strict=True)]
            target[b, i] = sum(parts) < below
    return target


def segmentation(logits, target):
    """L_seg: binary cross entropy of σ(logit), a mean over pixels."""
    terms = []
    for x, t in zip(logits.flatten(), target.flatten(), strict=True):
        chance = 1 / (1 + torch.exp(-x))
        terms.append(-t * torch.log(chance) - (1 - t) * torch.log(1 - chance))
    return sum(terms) / len(terms)


def similarity(front, back):
    """L_sim: mean cosine of the two projections (B, N, D) of each pixel."""
    pairs = zip(front.flatten(0, 1), back.flatten(0, 1), strict=True)
    cosines = [cosine(z, u) for z, u in pairs]
    return sum(cosines) / len(cosines)


def margin(pixel, prototype, regions, nrois, temperature):
    """Log odds of a prototype against `nrois` NROIs as near as the regions are on average."""
    near = [torch.exp(cosine(pixel, region) / temperature) for region in regions]
    return cosine(pixel, prototype) / temperature - torch.log(nrois * sum(near) / len(near))


def sides(pixel, seed, label, prototypes, regions, nrois, temperature):
    """-log chance of a pixel's seed among the image's classes and the background; -1 costs 0."""
    odds = [
        torch.exp(margin(pixel, p, regions, nrois, temperature)) * y
        for p, y in zip(prototypes, label, strict=True)
    ]
    if seed < 0:
        return 0 * pixel.sum()
    return -torch.log((odds[seed - 1] if seed else 1) / (1 + sum(odds)))


# Clusters and the bank


def nearest(points, centres):
    """Number of the nearest centre of each point, the first of equals."""
    return [int(np.argmin([((p - c) ** 2).sum() for c in centres])) for p in points]


def inertia(points, centres):
    """Σ of squared distances to the nearest centre."""
    pairs = zip(points, nearest(points, centres), strict=True)
    return sum(((p - centres[k]) ** 2).sum() for p, k in pairs)


class Queue:
    """First in, first out, of a fixed length: (row, label) pairs, oldest first."""

    def __init__(self, size):
        self.held = deque(maxlen=size)

    def push(self, rows, labels, counts):
        for row, label, count in zip(rows, labels, counts, strict=True):
            if count:
                self.held.append((row.tolist(), label.tolist()))


def watched(u, label, regions, count, ground):
    """Norm of Z_bg, spread of NROIs around their image's mean, how many lie mostly on companions.

    u (B, N, D), label (B, N), regions (B, K, D), count (B, K), ground (B, N) bool; numbers as the
    module gives them: a mean, then pairs of sum and count.
    """
    norms = [np.linalg.norm(z) for image in u for z in image]
    spread = length = on = held = 0
    for z, here, centres, counts, shown in zip(u, label, regions, count, ground, strict=True):
        centres = [c for c, counted in zip(centres, counts, strict=True) if counted]
        for c in centres:
            spread += np.linalg.norm(c - np.mean(centres, axis=0))
            length += np.linalg.norm(c)
        own = [[] for _ in centres]
        for place, (pixel, seed) in enumerate(zip(z, here, strict=True)):
            if seed == 0:
                own[np.argmin([np.sum((pixel - c) ** 2) for c in centres])].append(shown[place])
        on += sum(2 * sum(places) > len(places) for places in own)
        held += len(centres)
    return np.mean(norms), (spread, length), (on, held)
