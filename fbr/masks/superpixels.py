"""Superpixels, and regions grown from them by greedy merging in one global order.

After Chaibou et al., "Adaptive strategy for superpixel-based region-growing image segmentation"
(2017): its abstract fixes what is compared and the order, the equations here are a reconstruction.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse
from skimage.color import rgb2lab
from skimage.segmentation import slic

from fbr.masks.crf import VOID
from fbr.masks.seeds import label_map

GRID = 1000  # a compactness at which superpixels are squares, whatever the image
BINS = 8
LAB = np.array([(0, 100), (-60, 60), (-60, 60)])  # from the first bin's centre to the last one's


@dataclass(frozen=True)
class Growing:
    """What makes two neighbours alike, and how much sooner small ones merge.

    scales: beyond its own colours a region is compared by those of its surroundings, so many rings
    wide. border: pixels from a common border that count as near it. border_share: ω, the weight of
    the border beside the content. small_first: η, taken off for the smaller one's share of the
    image.
    """

    scales: int = 1
    border: int = 3
    border_share: float = 0.5
    small_first: float = 0.25


class Merge(NamedTuple):
    """Region `gone` becomes a part of region `kept`, the one of lower number."""

    kept: int
    gone: int
    priority: float


def over_segment(
    image: np.ndarray, count: int, compactness: float = 20, sigma: float = 1
) -> np.ndarray:
    """Cut an image (H, W, 3) uint8 into about `count` connected superpixels, (H, W) int 0..n-1.

    SLIC of low compactness collapses to a few on noisy texture: as long as it gives less than half
    of what was asked for, it is asked again for ones four times as compact, up to a plain grid.
    """
    pixels = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    if pixels.size <= count:
        return pixels
    found = slic(image, count, compactness, sigma=sigma, start_label=0)
    if 2 * len(np.unique(found)) < count and compactness < GRID:
        return over_segment(image, count, 4 * compactness, sigma)
    return np.unique(found, return_inverse=True)[1].reshape(found.shape)


def grow(
    image: np.ndarray,
    superpixels: np.ndarray,
    growing: Growing,
    regions: int = 1,
    least: float = 0.0,
) -> np.ndarray:
    """Merge superpixels until `regions` are left, or no two are alike by `least` any more.

    image (H, W, 3) uint8; superpixels (H, W) int 0..n-1. Returns (H, W) int 0..r-1, numbered by
    their first superpixel. One region may be more than asked for: `least` ends it, too.
    """
    region = np.arange(superpixels.max() + 1)
    left = len(region)
    for kept, gone, priority in merges(image, superpixels, growing):
        if left <= regions or priority < least:
            break
        region[region == gone] = kept
        left -= 1
    return np.unique(region, return_inverse=True)[1][superpixels]


def merges(image: np.ndarray, superpixels: np.ndarray, growing: Growing) -> Iterator[Merge]:
    """Yield the pair of highest priority, merge it, and so on until one region is left.

    S_ij - η · min(|i|, |j|) / |image| is the priority of neighbours i, j. Their likeness S is a
    mean, weighted by ω, of content and border, both Bhattacharyya coefficients of Lab histograms:
    of the regions with their surroundings, over all scales, and of the strips along the border.
    Arguments as in `grow`. The merges form a tree, so every prefix of them is a segmentation.
    """
    regions = _Regions(image, superpixels, growing)
    current: dict[tuple[int, int], float] = {}
    heap: list[tuple[float, int, int]] = []

    def rank(pairs: Iterable[tuple[int, int]]) -> None:
        pairs = sorted(pairs)
        for (i, j), priority in zip(pairs, regions.priorities(pairs), strict=True):
            if current.get((i, j)) != priority:
                current[i, j] = priority
                heapq.heappush(heap, (-priority, i, j))

    rank(regions.pairs(range(len(regions.near))))
    while heap:
        priority, kept, gone = heapq.heappop(heap)
        # Whatever a merge has changed was pushed anew; what is popped may be of an earlier time.
        if current.get((kept, gone)) != -priority:
            continue
        yield Merge(kept, gone, -priority)
        for other in regions.near[gone]:
            del current[min(gone, other), max(gone, other)]
        rank(regions.pairs(regions.merge(kept, gone)))


def region_mask(
    cam: np.ndarray, keys: np.ndarray, regions: np.ndarray, threshold: float, margin: float = 0.0
) -> np.ndarray:
    """Return the strongest class of each region by its mean score, (H, W) uint8.

    cam (k, H, W), keys and threshold as in `label_map`; regions (H, W) int. 255 where the best
    score, the background's threshold included, leads the next one by less than `margin`.
    """
    means = region_means(cam, regions)
    labels = label_map(means, keys, threshold)
    ranked = np.sort([*means, np.full(labels.shape, threshold, np.float32)], axis=0)
    if len(ranked) > 1:
        labels[ranked[-1] - ranked[-2] < margin] = VOID
    return labels[0][regions]


def region_means(cam: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Mean scores of each region: cam (k, H, W), regions (H, W) int → (k, 1, number of regions)."""
    sizes = np.bincount(regions.ravel())
    sums = [np.bincount(regions.ravel(), scores.ravel(), len(sizes)) for scores in cam]
    return (np.reshape(sums, (len(cam), 1, len(sizes))) / sizes).astype(np.float32)


class _Regions:
    """Sizes, colours and neighbours of regions, and the colours of strips along their borders."""

    def __init__(self, image: np.ndarray, superpixels: np.ndarray, growing: Growing) -> None:
        self.growing = growing
        colours = _binned(image)
        self.area = len(colours)
        owner = superpixels.ravel()
        count = owner.max() + 1
        self.size = np.bincount(owner)
        inside = sparse.csr_array(
            (np.ones(self.area, np.float32), (owner, np.arange(self.area))), (count, self.area)
        )
        self.sums = (inside @ colours).astype(np.float64)
        pairs, strips = _borders(superpixels, growing.border)
        self.strips = (strips @ colours).astype(np.float64)
        self.row = {(int(i), int(j)): row for row, (i, j) in enumerate(pairs)}
        self.near: list[set[int]] = [set() for _ in range(count)]
        for i, j in self.row:
            self.near[i].add(j)
        # Each region's distribution at every scale.
        self.seen = np.zeros((growing.scales + 1, count, colours.shape[1]))
        self._look(set(range(count)))

    def pairs(self, regions: Iterable[int]) -> set[tuple[int, int]]:
        """Every pair (lower, higher) of neighbours of which one is among these."""
        return {(min(i, j), max(i, j)) for i in regions for j in self.near[i]}

    def priorities(self, pairs: list[tuple[int, int]]) -> list[float]:
        """Of pairs of neighbours, rounded so that equal ones are equal whatever was added up."""
        if not pairs:
            return []
        first, second = np.array(pairs).T
        content = np.sqrt(self.seen[:, first] * self.seen[:, second]).sum(2).mean(0)
        one, other = (
            np.sqrt(_shares(self.strips[[self.row[pair] for pair in facing]]))
            for facing in (pairs, [(j, i) for i, j in pairs])
        )
        omega = self.growing.border_share
        alike = (1 - omega) * content + omega * (one * other).sum(1)
        smaller = np.minimum(self.size[first], self.size[second]) / self.area
        return (alike - self.growing.small_first * smaller).round(9).tolist()

    def merge(self, kept: int, gone: int) -> set[int]:
        """Make one region of two; returns the regions of which some likeness has changed."""
        self.size[kept] += self.size[gone]
        self.sums[kept] += self.sums[gone]
        for other in self.near[gone] - {kept}:
            for old, new in ((gone, other), (kept, other)), ((other, gone), (other, kept)):
                row = self.row.pop(old)
                if new in self.row:
                    self.strips[self.row[new]] += self.strips[row]
                else:
                    self.row[new] = row
            self.near[other] = self.near[other] - {gone} | {kept}
        self.near[kept] = (self.near[kept] | self.near[gone]) - {kept, gone}
        self.near[gone] = set()
        return self._look({kept})

    def _look(self, changed: set[int]) -> set[int]:
        """Bring the distributions up to date after these regions' own colours have changed.

        At each scale a region adds its neighbours of the scale before, weighted by ρ⁴: those alike
        count, the others hardly. So a change reaches one ring further with every scale.
        """
        own = list(changed)
        self.seen[0, own] = _shares(self.sums[own])
        for before, after in zip(self.seen[:-1], self.seen[1:], strict=True):
            changed = changed.union(*(self.near[i] for i in changed))
            for i in changed:
                around = before[list(self.near[i])]
                weights = np.sqrt(around * before[i]).sum(1) ** 4
                after[i] = _shares(before[i] + weights @ around)
        return changed


def _shares(histograms: np.ndarray) -> np.ndarray:
    """Histograms (..., bins) divided by their sums."""
    return histograms / histograms.sum(-1, keepdims=True)


def _binned(image: np.ndarray) -> np.ndarray:
    """Each pixel's part (HW, 3 · BINS) float32 of the bins of L, a and b, dealt to the nearest two.

    Dealt, not counted: a shading that crosses the edge of a bin must not part a region.
    """
    low, high = LAB.T
    place = (rgb2lab(image).reshape(-1, 3, 1) - low[:, None]) / (high - low)[:, None] * (BINS - 1)
    parts = (1 - abs(place.clip(0, BINS - 1) - np.arange(BINS))).clip(0)
    return parts.reshape(len(parts), -1).astype(np.float32)


def _borders(superpixels: np.ndarray, reach: int) -> tuple[np.ndarray, sparse.csr_array]:
    """Ordered pairs (m, 2) of 4-neighbours, and of each the pixels of the first near the second.

    The pixels (m, HW), 1 where one is no further than `reach` from some pixel of the second.
    """
    count = superpixels.max() + 1
    pixels = np.arange(superpixels.size).reshape(superpixels.shape)
    touching, near = [], []
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if not 0 < dy * dy + dx * dx <= reach * reach:
                continue
            here, there = _windows(superpixels.shape, dy, dx)
            first, second = superpixels[here], superpixels[there]
            apart = first != second
            near.append(pixels[here][apart] * count + second[apart])
            if abs(dy) + abs(dx) == 1:
                touching.append(first[apart] * count + second[apart])
    ids = np.unique(np.concatenate(touching))
    pixel, other = np.divmod(np.unique(np.concatenate(near)), count)
    pair = superpixels.ravel()[pixel] * count + other
    known = np.isin(pair, ids)
    rows, columns = np.searchsorted(ids, pair[known]), pixel[known]
    shape = (len(ids), superpixels.size)
    strips = sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape)
    return np.stack(np.divmod(ids, count), 1), strips


def _windows(shape: tuple[int, int], dy: int, dx: int) -> tuple[tuple[slice, slice], ...]:
    """The part of a map whose pixels have one at (dy, dx) from them, and the part of these."""
    steps = list(zip((dy, dx), shape, strict=True))
    return tuple(
        tuple(slice(max(-sign * d, 0), max(n - max(sign * d, 0), 0)) for d, n in steps)
        for sign in (1, -1)
    )
