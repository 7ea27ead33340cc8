"""The CRF over predictions, in processes of their own: without torch, which they would wait for."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fbr.files import pictures
from fbr.masks.crf import Crf, dense_crf, unary_from_probabilities


class Seen(NamedTuple):
    """An image (H, W, 3), and masks to be made of it: file, probabilities (C, H, W), which CRF."""

    image: np.ndarray
    left: list[tuple[Path, np.ndarray, Crf]]


def refine(seen: Seen) -> None:
    """Write the masks."""
    for file, scores, crf in seen.left:
        pictures.write_mask(file, refined(scores, seen.image, crf))


def refined(scores: np.ndarray, image: np.ndarray, crf: Crf) -> np.ndarray:
    """Ids (H, W) uint8 from probabilities (C, H, W)."""
    return dense_crf(image, unary_from_probabilities(scores), crf).argmax(0).astype("uint8")
