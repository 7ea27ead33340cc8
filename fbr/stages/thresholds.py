"""Class scores cut at the recipe's threshold into masks, and swept over all for the oracle."""

from pathlib import Path

import numpy as np

from fbr.datasets.prepared import Entry
from fbr.files import maps, pictures
from fbr.files.atomic import PartialFolder
from fbr.masks.seeds import label_map
from fbr.metrics.semantic import ThresholdCurve

SWEPT = np.arange(60) / 100


def write_cut(masks: PartialFolder, entry: Entry, scores: maps.Maps, threshold: float) -> None:
    """Write a mask, and beside it the scores that it is cut from, so that they can be swept.

    Cut from what is kept, half precision and all: at its threshold the sweep is the mask itself.
    """
    maps.write(masks / f"{entry.id}.npz", scores)
    mask = label_map(scores.full(), scores.keys, threshold)
    pictures.write_mask(masks / f"{entry.id}.png", mask)


def write_swept(file: Path, keys: np.ndarray, scores: np.ndarray) -> None:
    """Write what a sweep needs of scores (k, H, W) that no mask is cut from at a threshold.

    That is each pixel's strongest class, and between which of the thresholds its score lies: a
    few kilobytes, and every threshold decides as it would of the scores themselves.
    """
    kept = np.zeros(scores.shape, np.float16)
    if len(keys):
        passed = np.searchsorted(SWEPT.astype(np.float32), scores.max(0))
        best = scores.argmax(0)[None]
        np.put_along_axis(kept, best, ((passed - 0.5).clip(min=0) / 100)[None], 0)
    maps.write(file, maps.Maps(keys, kept, scores.shape[1:]))


def sweep(classes: int, threshold: float | None) -> ThresholdCurve:
    """An empty curve over the thresholds of every evaluation, and the recipe's own if any."""
    return ThresholdCurve(classes, SWEPT if threshold is None else np.union1d(SWEPT, [threshold]))
