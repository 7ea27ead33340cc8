"""Classification and pixel losses, one logit and one pixel at a time, in double precision."""

import math


def multilabel_soft_margin(logits, labels):
    """Mean of −y log σ(x) − (1 − y) log(1 − σ(x)) over images and classes."""
    terms = []
    for logit_row, label_row in zip(logits.tolist(), labels.tolist(), strict=True):
        for x, y in zip(logit_row, label_row, strict=True):
            probability = 1 / (1 + math.exp(-x))
            terms.append(-y * math.log(probability) - (1 - y) * math.log(1 - probability))
    return sum(terms) / len(terms)


def bilinear(plane, height, width):
    """Resize [y][x] with pixel centres at half-integers, borders repeated."""
    rows, columns = len(plane), len(plane[0])

    def sample(position, size, length):
        source = max((position + 0.5) * size / length - 0.5, 0)
        low = min(int(source), size - 1)
        return low, min(low + 1, size - 1), source - low

    resized = []
    for y in range(height):
        top, bottom, down = sample(y, rows, height)
        row = []
        for x in range(width):
            left, right, across = sample(x, columns, width)
            upper = plane[top][left] * (1 - across) + plane[top][right] * across
            lower = plane[bottom][left] * (1 - across) + plane[bottom][right] * across
            row.append(upper * (1 - down) + lower * down)
        resized.append(row)
    return resized


def cross_entropies(logits, target):
    """List of (class, −log softmax of it) of the labelled pixels; logits resized to target."""
    pairs = []
    for planes, labels in zip(logits.tolist(), target.tolist(), strict=True):
        planes = [bilinear(plane, len(labels), len(labels[0])) for plane in planes]
        for y, row in enumerate(labels):
            for x, label in enumerate(row):
                if label != 255:
                    scores = [plane[y][x] for plane in planes]
                    total = math.log(sum(math.exp(s) for s in scores))
                    pairs.append((label, total - scores[label]))
    return pairs
