"""Fully connected CRF that pulls label maps onto image edges (Krähenbühl and Koltun, NIPS 2011)."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from fbr.errors import Refusal

VOID = 255


@dataclass(frozen=True)
class Crf:
    """Mean-field iterations, kernel widths (pixels, grey levels) and Potts weights.

    The defaults are those of IRN and AMN. The Gaussian kernel sees positions only, the bilateral
    kernel positions and colours.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0


def dense_crf(image: np.ndarray, unary: np.ndarray, settings: Crf) -> np.ndarray:
    """Run mean-field inference and return class probabilities (C, H, W) float32.

    image (H, W, 3) uint8; unary (C, H, W) negative log-probabilities, up to a constant per pixel.
    Infinite energies are allowed. There is no void class: a pixel of unknown label has equal
    energies. The result sums to one at every pixel and is the same on every call.
    """
    _check(image, unary)
    classes, height, width = unary.shape
    # float32 keeps differences of this size finite; two infinities would give NaN.
    energy = np.clip(np.asarray(unary, np.float32), -1e30, 1e30)
    model = _pydensecrf().DenseCRF2D(width, height, classes)
    model.setUnaryEnergy(np.ascontiguousarray(energy.reshape(classes, -1)))
    model.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        # A copy, because read-only and strided images are refused by the library.
        rgbim=image.copy(order="C"),
        compat=settings.bilateral_compat,
    )
    return np.array(model.inference(settings.iterations), np.float32).reshape(unary.shape)


def unary_from_labels(labels: np.ndarray, classes: int, confidence: float = 0.7) -> np.ndarray:
    """Turn labels (H, W) in 0..C-1 into energies (C, H, W) float32.

    The label gets probability `confidence` in (0, 1), the other classes share the rest. Void
    pixels (255) are unsure: every class is equally likely there.
    """
    chosen = labels == np.arange(classes)[:, None, None]
    other = (1 - confidence) / max(classes - 1, 1)
    energy = np.where(chosen, -np.log(confidence), -np.log(other))
    energy[:, labels == VOID] = np.log(classes)
    return energy.astype(np.float32)


def unary_from_probabilities(probabilities: np.ndarray, floor: float = 1e-5) -> np.ndarray:
    """Turn probabilities (C, H, W) in 0..1 into energies (C, H, W) float32.

    Nothing is held less likely than `floor`, so that the CRF can still overrule a zero.
    """
    return -np.log(np.clip(probabilities.astype(np.float32), floor, 1))


def _check(image: np.ndarray, unary: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise Refusal(f"image is {image.dtype} {image.shape}, the CRF needs uint8 (H, W, 3)")
    if image.shape[:2] != unary.shape[1:]:
        raise Refusal(
            f"image is {_size(image.shape[:2])} but the class scores are {_size(unary.shape[1:])}:"
            " resize the scores to the image first"
        )
    if np.isnan(unary).any():
        raise Refusal("class scores hold NaN: the maps of this image are broken, infer them again")


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _pydensecrf() -> ModuleType:
    try:
        from pydensecrf import densecrf
    except ImportError as missing:
        raise Refusal(
            "the dense CRF needs pydensecrf, which is not installed:"
            " run `pip install pydensecrf2` (it is compiled on the spot and needs a C++ compiler)"
        ) from missing
    return densecrf
