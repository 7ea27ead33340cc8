"""Object regions and contexts (arXiv 1909.11065, equations 2 and 3), one pixel at a time."""

import math


def regions(pixels, coarse):
    """pixels [c][y][x], coarse logits [n][y][x] → a vector for each n."""
    places = [(y, x) for y in range(len(pixels[0])) for x in range(len(pixels[0][0]))]
    found = []
    for plane in coarse.tolist():
        weights = _softmax([plane[y][x] for y, x in places])
        found.append([_dot(weights, [c[y][x] for y, x in places]) for c in pixels.tolist()])
    return found


def context(queries, keys, values):
    """queries [d][y][x], keys and values [n][d] → for each pixel [d][y][x], the values' mean."""
    queries, keys, values = queries.tolist(), keys.tolist(), values.tolist()
    found = [[[0.0 for _ in row] for row in plane] for plane in queries]
    for y, row in enumerate(queries[0]):
        for x in range(len(row)):
            query = [plane[y][x] for plane in queries]
            shares = _softmax([_dot(query, key) / math.sqrt(len(query)) for key in keys])
            for d in range(len(query)):
                found[d][y][x] = _dot(shares, [value[d] for value in values])
    return found


def _softmax(scores):
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def _dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))
