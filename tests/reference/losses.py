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


def softmax(scores):
    """exp(x) / sum of exp(x)."""
    powers = [math.exp(s - max(scores)) for s in scores]
    return [p / sum(powers) for p in powers]


def pooled(planes, labels, window, sigma):
    """Planes [c][y][x] averaged over same-labelled neighbours, Gaussian in chessboard distance."""
    height, width, reach = len(labels), len(labels[0]), window // 2
    result = [[[0.0] * width for _ in range(height)] for _ in planes]
    for y in range(height):
        for x in range(width):
            if labels[y][x] == 255:
                continue
            total, sums = 0.0, [0.0] * len(planes)
            for v in range(max(y - reach, 0), min(y + reach, height - 1) + 1):
                for u in range(max(x - reach, 0), min(x + reach, width - 1) + 1):
                    if labels[v][u] == labels[y][x]:
                        distance = max(abs(v - y), abs(u - x))
                        weight = math.exp(-(distance**2) / (2 * sigma**2))
                        total += weight
                        sums = [
                            s + weight * plane[v][u] for s, plane in zip(sums, planes, strict=True)
                        ]
            for c, value in enumerate(sums):
                result[c][y][x] = value / total
    return result


def pixel_losses(logits, target, options):
    """List of (image, label, loss) of the pixels that count; logits and target of one size."""
    found = []
    for image, (planes, labels) in enumerate(zip(logits.tolist(), target.tolist(), strict=True)):
        pool = options.pool
        if pool and pool.space == "logits":
            planes = pooled(planes, labels, pool.window, pool.sigma)
        chances = [[[0.0] * len(row) for row in labels] for _ in planes]
        for y, row in enumerate(labels):
            for x in range(len(row)):
                for c, chance in enumerate(softmax([plane[y][x] for plane in planes])):
                    chances[c][y][x] = chance
        if pool and pool.space == "probs":
            chances = pooled(chances, labels, pool.window, pool.sigma)
        own = []
        for y, row in enumerate(labels):
            for x, label in enumerate(row):
                if label != 255:
                    logs = [math.log(max(plane[y][x], 1e-300)) for plane in chances]
                    even = -sum(logs) / len(logs)
                    smooth = options.smoothing
                    own.append((-logs[label], label, -(1 - smooth) * logs[label] + smooth * even))
        if options.hard:
            entropies = sorted((entropy for entropy, _, _ in own), reverse=True)
            number = math.ceil(options.hard.at_least * len(own) - 1e-6)
            last = entropies[number - 1] if number else math.inf
            below = options.hard.below
            own = [o for o in own if math.exp(-o[0]) < below or o[0] >= last]
        found += [(image, label, loss) for _, label, loss in own]
    return found


def minkowski(losses, k):
    """(mean lᵏ)^(1/k); 0 of nothing."""
    return (sum(loss**k for loss in losses) / len(losses)) ** (1 / k) if losses else 0.0
