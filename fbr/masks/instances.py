"""Instances from a displacement field and class scores (IRN, CVPR 2019)."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from scipy import ndimage
from skimage import measure

from fbr.files.maps import resize

# Pixels a step: hundreds of steps this short do not reach the next pixel.
_AT_REST = 1e-4
_TOGETHER = 16  # maps at image size at a time


def refine_centroids(displacement: np.ndarray | torch.Tensor, steps: int = 300) -> np.ndarray:
    """Follow the field from every pixel and return where it ends, (2, h, w) float32 as (y, x).

    displacement: (2, h, w), (dy, dx) in pixels. Each step adds the field read bilinearly at the
    present position, which is held inside the map; it ends early once no pixel moves.
    """
    field = torch.as_tensor(displacement, dtype=torch.float32)
    height, width = field.shape[1:]
    last = torch.tensor([height - 1.0, width - 1.0]).view(2, 1, 1)
    position = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ).float()
    for _ in range(steps):
        unit = 2 * position / last.clamp(min=1) - 1
        places = unit.flip(0).permute(1, 2, 0)
        (move,) = F.grid_sample(field[None], places[None], align_corners=True)
        moved = torch.clamp(position + move, min=torch.zeros(2, 1, 1), max=last)
        resting = (moved - position).abs().max() < _AT_REST
        position = moved
        if resting:
            break
    return position.numpy()


def label_instances(
    displacement: np.ndarray | torch.Tensor, threshold: float = 2.5, steps: int = 300
) -> np.ndarray:
    """Return (h, w) int: the number of the centre in which each pixel ends, 0 if it ends in none.

    A centre is a 4-connected region whose displacement (2, h, w) is shorter than `threshold`.
    """
    field = np.asarray(displacement)
    centres = measure.label(np.hypot(*field) < threshold, connectivity=1)
    rows, columns = np.rint(refine_centroids(field, steps)).astype(int)
    return centres[rows, columns]


def instance_cams(
    cam: np.ndarray, class_ids: np.ndarray, instances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Split class scores (k, h, w) into one map an instance and class: (n, h, w) and n class ids.

    instances: (h, w) numbers; pixels of number 0 make up one more group, so that an object whose
    centre lies outside the image is not lost. Maps without any score are left out.
    """
    numbers = np.unique(instances)
    inside = instances == numbers[:, None, None]
    maps = (cam[:, None] * inside).reshape(-1, *instances.shape)
    scored = maps.any(axis=(1, 2))
    return maps[scored], np.repeat(class_ids, len(numbers))[scored]


class Instances(NamedTuple):
    """Detected instances: masks (m, H, W) bool, class_ids (m,) and scores (m,) in 0..1."""

    masks: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray


def detect(
    maps: np.ndarray,
    class_ids: np.ndarray,
    background: float = 0.25,
    smallest: float = 0.01,
    size: tuple[int, int] | None = None,
) -> Instances:
    """Cut instance-wise score maps (n, h, w), resized to `size`, into masks that do not overlap.

    Scores are divided by the highest of all. A pixel goes to the map that is highest there and
    above `background`; each 4-connected part of a map is a detection, scored by its highest pixel,
    and dropped if it covers less than the share `smallest` of the image. n may be 0.
    """
    best, owner = _strongest(maps, size or maps.shape[1:])
    best /= max(best.max(initial=0), np.finfo(np.float32).tiny)
    owner[best <= background] = 0
    parts, count = measure.label(owner, background=0, connectivity=1, return_num=True)

    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = np.flatnonzero((sizes > 0) & (sizes >= smallest * parts.size))
    confidence = ndimage.maximum(best, parts, kept)
    maps_of_kept = ndimage.maximum(owner, parts, kept).astype(int) - 1
    return Instances(
        parts == kept[:, None, None], np.asarray(class_ids)[maps_of_kept], np.asarray(confidence)
    )


def _strongest(maps: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The highest score of each pixel (H, W), not below 0, and 1 + the number of its map.

    A few maps at a time: at image size thousands would fill the memory.
    """
    best, owner = np.zeros(size, np.float32), np.zeros(size, np.int64)
    for start in range(0, len(maps), _TOGETHER):
        scores = resize(maps[start : start + _TOGETHER], size)
        highest, number = scores.max(0), scores.argmax(0)
        higher = highest > best
        best[higher] = highest[higher]
        owner[higher] = start + 1 + number[higher]
    return best, owner


def encode(mask: np.ndarray) -> dict:
    """Return a mask (h, w) bool as a COCO run-length code that JSON can hold."""
    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def decode(code: dict) -> np.ndarray:
    """Return the mask (h, w) bool of a COCO run-length code."""
    return coco.decode(code).astype(bool)
