"""How far a score would move had other images been drawn: percentile intervals (Efron, 1979)."""

import numpy as np

from fbr.metrics.semantic import ious, known_mean

RESAMPLES, CONFIDENCE, SEED = 1000, 0.95, 0
TOGETHER = 1 << 24  # images drawn at once: 128 MB of weights


def interval(
    counts: np.ndarray,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> tuple[float, float]:
    """Bounds of the mean IoU over images drawn anew, with repetition; NaN of no labelled pixel.

    counts (n, 3, C): pixels of each image and class that are common, predicted and true. The same
    images in the same order give the same bounds.
    """
    images = len(counts)
    rng = np.random.default_rng(seed)
    flat = counts.reshape(images, counts.shape[1] * counts.shape[2]).astype(np.float64)
    rows = max(1, TOGETHER // max(images, 1))
    found = []
    for done in range(0, resamples, rows):
        sums = _weights(rng, min(rows, resamples - done), images) @ flat
        found.append(known_mean(ious(sums.reshape(-1, *counts.shape[1:]))))
    means = np.concatenate(found)
    means = means[np.isfinite(means)]
    if not means.size:
        return float("nan"), float("nan")
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _weights(rng: np.random.Generator, rows: int, images: int) -> np.ndarray:
    """How often each image is drawn (rows, n) float64, `images` times a row."""
    drawn = rng.integers(max(images, 1), size=(rows, images)) + images * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(float)
