"""Class scores on disk, as maps and behind masks: small, pickle-free, present classes only.

Measured on one 375×500 image with two classes: 25 KB, against 1.5 to 15 MB for the usual .npy.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from fbr.errors import Refusal
from fbr.files.atomic import replacing


@dataclass(frozen=True)
class Maps:
    """keys (k,) uint8 class ids 1…K; cam (k, h, w) float16 in 0…1; size (H, W).

    At stride 4, but behind masks of a CRF or of superpixels, whose edges are sharper.
    """

    keys: np.ndarray
    cam: np.ndarray
    size: tuple[int, int]

    def full(self) -> np.ndarray:
        """The maps at image size: (k, H, W) float32."""
        cam = self.cam.astype(np.float32)
        return cam if cam.shape[1:] == self.size else resize(cam, self.size)


def write(path: Path, maps: Maps) -> None:
    """Write one image's maps as a compressed npz; equal maps give equal bytes."""
    cam = maps.cam.astype(np.float16)
    if not np.isfinite(cam).all():
        raise Refusal(
            f"the maps of id '{path.stem}' hold NaN or infinity: the network behind them is "
            "broken, train it again"
        )
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file,
            keys=maps.keys.astype(np.uint8),
            cam=cam,
            size=np.asarray(maps.size, np.int32),
        )


def read(path: Path, size: tuple[int, int] | None = None) -> Maps:
    """Read one image's maps, or say which id is missing or broken.

    size: (H, W) of the image that they are to be of.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            keys, cam, found = file["keys"], file["cam"], file["size"]
    except FileNotFoundError:
        raise Refusal(f"{path}: missing, expected the maps of id '{path.stem}'") from None
    except Exception as error:  # numpy, zipfile and zlib name a broken file in a dozen ways
        raise Refusal(
            f"{path}: cannot be read as maps of id '{path.stem}' ({error}); run its stage again"
        ) from None
    if cam.ndim != 3 or cam.dtype.kind != "f" or keys.shape != cam.shape[:1] or found.shape != (2,):
        raise Refusal(
            f"{path}: found keys {keys.shape}, cam {cam.dtype} {cam.shape}, size {found.shape}; "
            f"expected (k,), float16 (k, h, w) and (2,)"
        )
    if not np.isfinite(cam).all():
        raise Refusal(f"{path}: holds NaN or infinity, expected scores; run its stage again")
    height, width = (int(side) for side in found)
    if size is not None and (height, width) != tuple(size):
        raise Refusal(
            f"{path}: found maps of an image of {width}×{height} pixels, expected "
            f"{size[1]}×{size[0]}; run its stage again"
        )
    return Maps(keys, cam, (height, width))


def resize(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (k, h, w) float32 bilinearly to (k, H, W), pixel centres aligned as in torch.

    Two small matrix products; needs no torch, so a pool of plain processes can do it.
    """
    down = _weights(maps.shape[-2], size[0])
    across = _weights(maps.shape[-1], size[1])
    return np.ascontiguousarray(down @ maps @ across.T, dtype=np.float32)


@lru_cache(maxsize=256)
def _weights(source: int, target: int) -> np.ndarray:
    """(target, source) float32 weights of linear interpolation, edges clamped."""
    centre = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    low = np.floor(centre).astype(np.int64)
    high = np.minimum(low + 1, source - 1)
    part = (centre - low).astype(np.float32)
    weights = np.zeros((target, source), np.float32)
    np.add.at(weights, (np.arange(target), low), 1 - part)
    np.add.at(weights, (np.arange(target), high), part)
    return weights
