"""Pairs, affinities and losses of inter-pixel relations, one pair at a time (Ahn et al., 2019)."""

from math import hypot, log

VOID = 255


def pairs(height, width, radius):
    """List ((y, x), (dy, dx)) of all pairs closer than `radius`, each once."""
    pixels = [(y, x) for y in range(height) for x in range(width)]
    return [
        ((y, x), (v - y, u - x))
        for y, x in pixels
        for v, u in pixels
        if (y, x) < (v, u) and hypot(v - y, u - x) < radius
    ]


def affinity(edge, first, step):
    """Return 1 - the strongest boundary less than a pixel off the line, inside the pair's box."""
    (y, x), (dy, dx) = first, step
    strongest = 0.0
    for v in range(y, y + dy + 1):
        for u in range(min(x, x + dx), max(x, x + dx) + 1):
            off = abs((v - y) * dx - (u - x) * dy) / hypot(dy, dx)
            if off < 1 - 1e-9:
                strongest = max(strongest, float(edge[v][u]))
    return 1 - strongest


def kind(labels, first, step):
    """Return "background", "foreground", "negative", or None for a pair with a void pixel."""
    one, other = labels[first[0]][first[1]], labels[first[0] + step[0]][first[1] + step[1]]
    if VOID in (one, other):
        return None
    if one != other:
        return "negative"
    return "foreground" if one else "background"


def total_loss(edges, displacements, labels, radius):
    """Return 1/2 (1/2 bg + 1/2 fg + neg) + 1/2 (dp_fg + dp_bg), each a mean over the batch."""
    parts = {name: [] for name in ("bg", "fg", "neg", "dp_fg", "dp_bg")}
    for edge, field, label in zip(edges, displacements, labels, strict=True):
        for first, step in pairs(len(edge), len(edge[0]), radius):
            alike = affinity(edge, first, step)
            (y, x), (dy, dx) = first, step
            change = [float(axis[y][x] - axis[y + dy][x + dx]) for axis in field]
            what = kind(label, first, step)
            if what == "background":
                parts["bg"].append(-log(alike + 1e-5))
                parts["dp_bg"] += [abs(c) for c in change]
            elif what == "foreground":
                parts["fg"].append(-log(alike + 1e-5))
                parts["dp_fg"] += [abs(c - way) for c, way in zip(change, step, strict=True)]
            elif what == "negative":
                parts["neg"].append(-log(1 + 1e-5 - alike))
    mean = {name: sum(terms) / max(len(terms), 1) for name, terms in parts.items()}
    affinities = 0.5 * (0.5 * mean["bg"] + 0.5 * mean["fg"] + mean["neg"])
    return affinities + 0.5 * (mean["dp_fg"] + mean["dp_bg"])
