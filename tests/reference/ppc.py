"""PPC (CVPR 2022) from its equations: one class, one pixel, one prototype at a time, in doubles."""

import math

import torch

from tests.reference.fbr import cosine
from tests.reference.seam import stretched


def seeds(maps, labels, background):
    """Shares of the classes shown (B, K, N) and their argmax beside the background's, (B, N)."""
    shares, found = [], []
    for image, shown in zip(maps, labels, strict=True):
        own = torch.stack([stretched(m) * y for m, y in zip(image, shown, strict=True)])
        shares.append(own)
        found.append([_best([background, *own[:, i].tolist()]) for i in range(own.shape[1])])
    return torch.stack(shares), torch.tensor(found)


def _best(values):
    return values.index(max(values))


def prototypes(shares, pixels, top):
    """Σ s z / Σ s over the `top` best positions of each of 1+K classes, or None."""
    ground = [[1 - max(image[:, i]) for i in range(image.shape[1])] for image in shares]
    return [
        _centre([own[c - 1] for own in shares] if c else ground, pixels, top)
        for c in range(1 + shares.shape[1])
    ]


def released_prototypes(maps, pixels, top, background):
    """The same with maps of every class, shown or not, and a background that scores one number."""
    shares = [[stretched(m) for m in image] for image in maps]
    ground = [[background] * pixels.shape[1] for _ in pixels]
    return [
        _centre([own[c - 1] for own in shares] if c else ground, pixels, top)
        for c in range(1 + maps.shape[1])
    ]


def _centre(scores, pixels, top):
    """Of scores and pixels of every image, the weighted mean of the best `top` positions."""
    scored = [
        (float(score), z)
        for own, image in zip(scores, pixels, strict=True)
        for score, z in zip(own, image, strict=True)
    ]
    scored = sorted(scored, key=lambda pair: -pair[0])[:top]
    total = sum(score for score, _ in scored)
    return sum(score * z for score, z in scored) / total if total > 0 else None


def contrast(pixel, label, centres, temperature, negatives=None):
    """-log of the own prototype's share among it and the negatives, by default all others."""
    if centres[label] is None:
        return 0 * pixel.sum()
    if negatives is None:
        negatives = _others(label, centres)
    own = torch.exp(cosine(pixel, centres[label]) / temperature)
    others = [torch.exp(cosine(pixel, centres[c]) / temperature) for c in negatives]
    return -torch.log(own / (own + sum(others)))


def _others(label, centres):
    return [c for c, centre in enumerate(centres) if centre is not None and c != label]


def semi_hard(pixel, label, centres, hard, kept):
    """Classes of the ⌈hard·n⌉ nearest negatives less the nearest, ⌊kept·n⌋ of them, at least 1."""
    others = _others(label, centres)
    others.sort(key=lambda c: -float(cosine(pixel.detach(), centres[c])))
    if not others:
        return []
    last = math.ceil(hard * len(others) - 1e-6)
    return others[last - max(1, math.floor(kept * len(others) + 1e-6)) : last]


def hard_pixels(cosines, labels, hard, kept, uniform):
    """How often each pixel counts: of its class ⌊kept·n⌋ by chance, and as many semi-hard ones."""
    times = [0] * len(labels)
    for c in set(labels):
        own = [i for i, label in enumerate(labels) if label == c]
        number = math.floor(kept * len(own) + 1e-6)
        last = math.floor(hard * len(own) + 1e-6)
        by_nearness = sorted(own, key=lambda i: cosines[i])
        by_chance = sorted(own, key=lambda i: uniform[i])
        for i in by_nearness[last - number : last] + by_chance[:number]:
            times[i] += 1
    return times


def over_classes(losses, times, labels):
    """Mean over the pixels of a class, each counted `times`, then over the classes there are."""
    means = []
    for c in set(labels):
        own = [
            (loss, t) for loss, t, label in zip(losses, times, labels, strict=True) if label == c
        ]
        count = sum(t for _, t in own)
        means.append(sum(loss * t for loss, t in own) / count if count else 0 * losses[0])
    return sum(means) / len(means)
