"""Label maps from class activation maps: by a threshold, by a CRF, and where two CRF passes agree.

The confident seeds are those that IRN trains on (Ahn et al., CVPR 2019), and AMN after it.
"""

from collections.abc import Sequence

import numpy as np

from fbr.masks.crf import VOID, Crf, dense_crfs, unary_from_labels, unary_from_probabilities


def label_map(cam: np.ndarray, keys: np.ndarray, threshold: float) -> np.ndarray:
    """Return the strongest class of each pixel (H, W) uint8, 0 where none exceeds `threshold`.

    cam (k, H, W) in 0..1; keys (k,) ids in 1..K of the maps; k may be 0. Compared in float32: a
    score equal to the threshold is background, of equal classes the first wins. No void pixels.
    """
    return _ids(keys)[_strongest(cam, threshold)]


def label_energies(cam: np.ndarray, threshold: float, confidence: float = 0.7) -> np.ndarray:
    """What a CRF is told of the label map at `threshold`: (1+k, H, W) float32, background first.

    `confidence` in (0, 1) is the probability of each pixel's label.
    """
    return unary_from_labels(_strongest(cam, threshold), len(cam) + 1, confidence)


def score_energies(cam: np.ndarray, power: float) -> np.ndarray:
    """What a CRF is told of the scores themselves: (1+k, H, W) float32, background first.

    Background's score is (1 - strongest)^power: a larger power leaves less of it (PPC's masks).
    Only differences of log scores count, so that they need not sum to one.
    """
    background = (1 - cam.max(axis=0, keepdims=True, initial=0)).clip(0) ** power
    return unary_from_probabilities(np.concatenate([background, cam]))


def crf_masks(
    images: Sequence[np.ndarray],
    energies: Sequence[np.ndarray],
    keys: Sequence[np.ndarray],
    settings: Crf,
) -> list[np.ndarray]:
    """Return each image's label maps after T passes of a CRF, (T, H, W) uint8 without void.

    images (H, W, 3) uint8; energies (T, 1+k, H, W), a pass each; keys (k,) ids of the maps. Only an
    image's own classes and background take part, so no other class can appear and the time grows
    with k, not with K.
    """
    found = dense_crfs(images, energies, settings)
    return [likeliest(own, belief) for own, belief in zip(keys, found, strict=True)]


def likeliest(keys: np.ndarray, belief: np.ndarray) -> np.ndarray:
    """Ids of the most probable labels: keys (k,), belief (T, 1+k, H, W) → (T, H, W) uint8."""
    return _ids(keys)[belief.argmax(axis=1)]


def confident_seeds(surely_class: np.ndarray, maybe_class: np.ndarray) -> np.ndarray:
    """Return seeds (H, W) uint8: a class, background, or void (255) where two passes disagree.

    The label map of a high threshold decides what is surely a class, that of a low one what is
    surely background.
    """
    unsure = (surely_class == 0) & (maybe_class != 0)
    return np.where(unsure, np.uint8(VOID), surely_class)


def _strongest(cam: np.ndarray, threshold: float) -> np.ndarray:
    """Index (H, W) of the largest of [threshold, *cam]; the first of equals."""
    background = np.full((1, *cam.shape[1:]), threshold, np.float32)
    return np.concatenate([background, cam.astype(np.float32)]).argmax(axis=0)


def _ids(keys: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], keys]).astype(np.uint8)
