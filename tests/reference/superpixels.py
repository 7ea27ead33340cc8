"""Greedy merging of superpixels, everything counted anew from the pixels before every merge."""

from math import sqrt

from skimage.color import rgb2lab

BINS = 8
RANGES = ((0, 100), (-60, 60), (-60, 60))


def histogram(lab, pixels):
    """Return the shares of 3 · BINS bins; a pixel goes to the two nearest bins of a channel."""
    counts = [0.0] * (3 * BINS)
    for y, x in pixels:
        for channel, (low, high) in enumerate(RANGES):
            place = (lab[y][x][channel] - low) / (high - low) * (BINS - 1)
            place = min(max(place, 0), BINS - 1)
            for bin in range(BINS):
                counts[channel * BINS + bin] += max(0, 1 - abs(place - bin))
    return shares(counts)


def shares(counts):
    return [count / sum(counts) for count in counts]


def rho(one, other):
    """Return the Bhattacharyya coefficient of two distributions."""
    return sum(sqrt(p * q) for p, q in zip(one, other, strict=True))


def merges(image, superpixels, scales, border, border_share, small_first):
    """List (kept, gone, priority) until one region is left."""
    lab = rgb2lab(image)
    height, width = len(superpixels), len(superpixels[0])
    pixels = {}
    for y in range(height):
        for x in range(width):
            pixels.setdefault(superpixels[y][x], []).append((y, x))

    def closest(i, j):
        return {p: min((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 for q in pixels[j]) for p in i}

    distance = {(i, j): closest(pixels[i], j) for i in pixels for j in pixels if i != j}
    touch = {pair for pair, of in distance.items() if min(of.values()) == 1}
    strip = {p: [at for at, d in distance[p].items() if d <= border**2] for p in touch}

    members = {i: [i] for i in pixels}
    done = []
    while len(members) > 1:

        def facing(one, other):
            return [
                at
                for i in members[one]
                for j in members[other]
                if (i, j) in touch
                for at in strip[i, j]
            ]

        near = {i: [j for j in members if j != i and facing(i, j)] for i in members}
        levels = [{i: histogram(lab, [p for m in members[i] for p in pixels[m]]) for i in members}]
        for _ in range(scales):
            last = levels[-1]
            levels.append({})
            for i in members:
                total = list(last[i])
                for j in near[i]:
                    weight = rho(last[i], last[j]) ** 4
                    total = [t + weight * share for t, share in zip(total, last[j], strict=True)]
                levels[-1][i] = shares(total)
        ranked = []
        for i in members:
            for j in near[i]:
                if i < j:
                    content = sum(rho(level[i], level[j]) for level in levels) / len(levels)
                    along = rho(histogram(lab, facing(i, j)), histogram(lab, facing(j, i)))
                    alike = (1 - border_share) * content + border_share * along
                    sizes = [sum(len(pixels[m]) for m in members[r]) for r in (i, j)]
                    priority = alike - small_first * min(sizes) / (height * width)
                    ranked.append((-round(priority, 9), i, j))
        priority, kept, gone = min(ranked)
        members[kept] += members.pop(gone)
        done.append((kept, gone, -priority))
    return done
