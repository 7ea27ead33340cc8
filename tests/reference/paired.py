"""Twin of `fbr.metrics.paired`: sums written out, quantiles of Student's t from a printed table."""

T_975 = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 29: 2.0452}


def interval(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Mean difference and the bounds of its 95 % interval, for two pairs or more."""
    count = len(ours)
    total = 0.0
    for a, b in zip(ours, theirs, strict=True):
        total += a - b
    mean = total / count
    squares = 0.0
    for a, b in zip(ours, theirs, strict=True):
        squares += (a - b - mean) ** 2
    half = T_975[count - 1] * (squares / (count - 1) / count) ** 0.5
    return mean, mean - half, mean + half
