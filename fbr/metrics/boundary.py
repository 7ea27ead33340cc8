"""Boundary IoU: only what lies near contours counts (Cheng et al., CVPR 2021, arXiv 2103.16562).

IoU hardly sees the contours of large objects; this sees nothing else.
"""

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from fbr.metrics.semantic import VOID

SHARE = 0.02  # of the diagonal, the paper's


def reach(size: tuple[int, int]) -> int:
    """How far a boundary reaches inwards: 2 % of the diagonal, in pixels, at least one."""
    return max(1, round(SHARE * float(np.hypot(*size))))


def boundary(mask: np.ndarray, reach: int) -> np.ndarray:
    """Which pixels (H, W) bool lie at most `reach` from another id or from the image's end.

    mask (H, W) uint8; chessboard distance. Of every class at once this is the class's mask without
    its erosion by a square of 2·reach + 1: void (255) is an id like any other.
    """
    side = 2 * reach + 1
    low = high = mask
    for axis in (0, 1):
        low = minimum_filter1d(low, side, axis, mode="nearest")
        high = maximum_filter1d(high, side, axis, mode="nearest")
    near = low != high
    near[:reach] = near[-reach:] = near[:, :reach] = near[:, -reach:] = True
    return near


def boundary_counts(pred: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """Pixels (3, C) int64 of each class's boundaries: common, predicted and true ones.

    pred, target (H, W) uint8 of ids 0..C-1 or void (255). Where the target is void, what is
    predicted counts as void, too: its contour there is nobody's fault.
    """
    void = target == VOID
    pred = np.where(void, np.uint8(VOID), pred)
    width = reach(target.shape)
    ours, theirs = boundary(pred, width), boundary(target, width)
    regions = ((pred == target) & ours & theirs, ours, theirs)
    ids = (target, pred, target)
    return np.stack(
        [np.bincount(i[r], minlength=256)[:classes] for i, r in zip(ids, regions, strict=True)]
    )
