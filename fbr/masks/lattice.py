"""Gaussian filter of many points in few dimensions, on a permutohedral lattice.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. Points in d dimensions lie on the plane of d+1 coordinates that sum to zero, each
in a simplex of d+1 vertices. A filter splats values onto the vertices, blurs along the d+1 axes,
and slices, that is, reads values back at the points. Loops are compiled: this is the only module
that imports numba.
"""

import numpy as np
from numba import njit

# A vertex is known by a fingerprint, the sum of its coordinates times these numbers, modulo 2^64.
# Two of a million vertices share one with a chance of 3e-8, and a neighbour is one addition away.
_FACTORS = np.random.default_rng(0).integers(2**62, 2**63, 16) | 1


class Kernel:
    """Gaussian of unit width between N points, divided by the roots of its row sums at both ends.

    features (d, N) float32: place and colour of every point, in widths of the Gaussian, d up to 15.
    Building takes as long as a few filters; one kernel serves all classes and iterations.
    """

    def __init__(self, features: np.ndarray) -> None:
        names, self._weights = _corners(features)
        self._vertices, self._neighbours = _connect(names)
        sums = self.filter(np.ones((1, features.shape[1]), np.float32))
        self._weights /= np.sqrt(sums)

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Return the kernel times values (C, N) float32, of the same shape."""
        return _filter(self._vertices, self._weights, self._neighbours, values)


@njit(cache=True)
def _corners(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return fingerprints (d+1, N) int64 of the vertices around each point, and weights (d+1, N).

    The loop over points is always the innermost: the compiler then takes many points at a time.
    """
    d, count = features.shape
    full = d + 1
    jump = full * _FACTORS[:full]
    around = _FACTORS[:full].sum()
    names = np.zeros((full + 1, count), np.int64)
    weights = np.zeros((full, count), np.float32)

    # The nearest vertex whose coordinates are all multiples of d+1, and what is left to the point.
    left = np.empty((full, count), np.float32)
    total = np.zeros(count, np.float32)
    excess = np.zeros(count, np.int32)
    for j in range(d, -1, -1):
        # Splat, blur and slice spread a point by √(2/3)(d+1); dividing by that makes it one.
        scale = np.float32(np.sqrt(2 / 3) * full / np.sqrt(j * (j + 1))) if j else np.float32(0)
        for i in range(count):
            step = features[j - 1, i] * scale
            place = total[i] - j * step
            total[i] += step
            whole = np.rint(place / full)
            left[j, i] = place - whole * full
            excess[i] += np.int32(whole)
            names[0, i] += np.int64(whole) * jump[j]

    # Rank the coordinates by what is left, the largest first. Where the rounded ones do not sum to
    # zero, those with most or least left were rounded the wrong way.
    rank = np.zeros((full, count), np.int32)
    for j in range(full):
        for m in range(j + 1, full):
            for i in range(count):
                less = left[j, i] < left[m, i]
                rank[j, i] += less
                rank[m, i] += not less
    for j in range(full):
        for i in range(count):
            r = rank[j, i] + excess[i]
            back = (r < 0) - (r > d)
            rank[j, i] = r + full * back
            left[j, i] -= full * back
            names[0, i] += back * jump[j]

    # Vertex k+1 is one step from vertex k along all axes, d steps back along that of rank d-k.
    weights[0] = 1
    for k in range(full):
        after = (k + 1) % full
        for i in range(count):
            names[k + 1, i] = names[k, i] + around
        for j in range(full):
            for i in range(count):
                here = rank[j, i] == d - k
                share = left[j, i] / full if here else np.float32(0)
                weights[k, i] += share
                weights[after, i] -= share
                names[k + 1, i] -= jump[j] if here else 0
    return names[:full], weights


@njit(cache=True)
def _connect(names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the vertices by first appearance, and find their neighbours.

    Returns numbers (d+1, N) int32 in place of fingerprints, and neighbours (d+1, 2, M) int32 of the
    M vertices, before and behind on every axis, M where there is none.
    """
    full, count = names.shape
    vertices = np.empty((full, count), np.int32)
    known = np.empty(full * count, np.int64)
    bits = 16
    table = np.full(1 << bits, -1, np.int32)
    seen = 0
    for i in range(count):
        for k in range(full):
            if i and names[k, i] == names[k, i - 1]:
                vertices[k, i] = vertices[k, i - 1]
                continue
            slot = _slot(table, bits, known, names[k, i])
            if table[slot] < 0:
                table[slot] = seen
                known[seen] = names[k, i]
                seen += 1
            vertices[k, i] = table[slot]
            if 2 * seen > table.size:
                bits += 1
                table = np.full(1 << bits, -1, np.int32)
                for vertex in range(seen):
                    table[_slot(table, bits, known, known[vertex])] = vertex

    neighbours = np.full((full, 2, seen), seen, np.int32)
    for j in range(full):
        onward = _FACTORS[:full].sum() - full * _FACTORS[j]
        for vertex in range(seen):
            other = table[_slot(table, bits, known, known[vertex] + onward)]
            if other >= 0:
                neighbours[j, 1, vertex] = other
                neighbours[j, 0, other] = vertex
    return vertices, neighbours


@njit(cache=True)
def _slot(table: np.ndarray, bits: int, known: np.ndarray, name: int) -> int:
    """Return where the hash table holds the vertex of this fingerprint, or the free slot for it."""
    slot = np.int64(np.uint64(name) >> np.uint64(64 - bits))
    while table[slot] >= 0 and known[table[slot]] != name:
        slot = (slot + 1) & (table.size - 1)
    return slot


@njit(cache=True)
def _filter(
    vertices: np.ndarray, weights: np.ndarray, neighbours: np.ndarray, values: np.ndarray
) -> np.ndarray:
    full, _, count = neighbours.shape
    result = np.zeros_like(values)
    for c in range(len(values)):
        # One more than there are: the neighbour of those that have none.
        held = np.zeros(count + 1, np.float32)
        blurred = np.zeros(count + 1, np.float32)
        source, target = values[c], result[c]
        for k in range(full):
            vertex, weight = vertices[k], weights[k]
            for i in range(source.size):
                held[vertex[i]] += weight[i] * source[i]
        for j in range(full):
            before, behind = neighbours[j]
            for v in range(count):
                blurred[v] = held[v] + np.float32(0.5) * (held[before[v]] + held[behind[v]])
            held, blurred = blurred, held
        for k in range(full):
            vertex, weight = vertices[k], weights[k]
            for i in range(source.size):
                target[i] += weight[i] * held[vertex[i]]
    return result
