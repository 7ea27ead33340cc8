"""Label maps from class activation maps: by a threshold, by a CRF, and where two CRF passes agree.

The confident seeds are those that IRN trains on (Ahn et al., CVPR 2019), and AMN after it.
"""

import numpy as np

from fbr.masks.crf import (
    VOID,
    Crf,
    dense_crf,
    unary_from_labels,
    unary_from_probabilities,
)


def label_map(cam: np.ndarray, keys: np.ndarray, threshold: float) -> np.ndarray:
    """Return the strongest class of each pixel (H, W) uint8, 0 where none exceeds `threshold`.

    cam (k, H, W) in 0..1; keys (k,) ids in 1..K of the maps; k may be 0. Compared in float32: a
    score equal to the threshold is background, of equal classes the first wins. No void pixels.
    """
    return _ids(keys)[_strongest(cam, threshold)]


def crf_mask(
    image: np.ndarray,
    cam: np.ndarray,
    keys: np.ndarray,
    threshold: float,
    settings: Crf,
    confidence: float = 0.7,
) -> np.ndarray:
    """Return the label map at `threshold` after a CRF, (H, W) uint8, without void pixels.

    image (H, W, 3) uint8; cam, keys and threshold as in `label_map`; `confidence` in (0, 1) is the
    probability of each pixel's label before the CRF. Only the image's classes and background
    take part, so no other class can appear and the time grows with k, not with K.
    """
    unary = unary_from_labels(_strongest(cam, threshold), len(cam) + 1, confidence)
    return _ids(keys)[dense_crf(image, unary, settings).argmax(axis=0)]


def score_crf_mask(
    image: np.ndarray, cam: np.ndarray, keys: np.ndarray, power: float, settings: Crf
) -> np.ndarray:
    """Return the likeliest class after a CRF that sees scores, (H, W) uint8, without void pixels.

    Background's score is (1 - strongest)^power: a larger power leaves less of it (PPC's masks). The
    other arguments are those of `crf_mask`; only differences of log scores count, so that they need
    not sum to one.
    """
    background = (1 - cam.max(axis=0, keepdims=True, initial=0)).clip(0) ** power
    unary = unary_from_probabilities(np.concatenate([background, cam]))
    return _ids(keys)[dense_crf(image, unary, settings).argmax(axis=0)]


def confident_seeds(
    image: np.ndarray,
    cam: np.ndarray,
    keys: np.ndarray,
    fg_threshold: float,
    bg_threshold: float,
    settings: Crf,
    confidence: float = 0.7,
) -> np.ndarray:
    """Return seeds (H, W) uint8: a class, background, or void (255) where the passes disagree.

    The pass at the high `fg_threshold` decides what is surely a class, the pass at the low
    `bg_threshold` what is surely background. Other arguments as in `crf_mask`.
    """
    surely_class = crf_mask(image, cam, keys, fg_threshold, settings, confidence)
    maybe_class = crf_mask(image, cam, keys, bg_threshold, settings, confidence)
    unsure = (surely_class == 0) & (maybe_class != 0)
    return np.where(unsure, np.uint8(VOID), surely_class)


def _strongest(cam: np.ndarray, threshold: float) -> np.ndarray:
    """Index (H, W) of the largest of [threshold, *cam]; the first of equals."""
    background = np.full((1, *cam.shape[1:]), threshold, np.float32)
    return np.concatenate([background, cam.astype(np.float32)]).argmax(axis=0)


def _ids(keys: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], keys]).astype(np.uint8)
