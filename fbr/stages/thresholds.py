"""Class scores cut at the recipe's threshold into masks, and swept over all for the oracle."""

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


def sweep(classes: int, threshold: float) -> ThresholdCurve:
    """An empty curve over the thresholds of every evaluation, the recipe's own among them."""
    return ThresholdCurve(classes, np.union1d(SWEPT, [threshold]))
