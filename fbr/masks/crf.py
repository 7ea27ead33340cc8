"""Fully connected CRF that pulls label maps onto image edges (Krähenbühl and Koltun, NIPS 2011)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from fbr.errors import Refusal

if TYPE_CHECKING:
    from fbr.masks.lattice import Kernel

VOID = 255
# A class that no pixel believes in more than this is not filtered, for what neighbours would say
# of it is as little: of a network's many classes a few are left.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Crf:
    """Mean-field iterations, kernel widths (pixels, grey levels) and Potts weights.

    The defaults are those of IRN and AMN. The Gaussian kernel sees positions only, the bilateral
    kernel positions and colours. All engines compute the same: `numba` is ours and the quickest on
    a CPU, `torch` is ours for several images at once, on a GPU where there is one, and
    `pydensecrf` is what the published systems used.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0
    engine: Literal["numba", "torch", "pydensecrf"] = "numba"


def dense_crf(image: np.ndarray, unary: np.ndarray, settings: Crf) -> np.ndarray:
    """Run mean-field inference and return class probabilities (C, H, W) float32.

    image (H, W, 3) uint8; unary (C, H, W) negative log-probabilities, up to a constant per pixel.
    Infinite energies are allowed. There is no void class: a pixel of unknown label has equal
    energies. The result sums to one at every pixel and is the same on every call. Where no pixel
    of an image prefers a class it means nothing, and engines differ: the mean field sits on a
    ridge there, from which they round to different sides.
    """
    return dense_crfs([image], [unary[None]], settings)[0][0]


def dense_crfs(
    images: Sequence[np.ndarray], unaries: Sequence[np.ndarray], settings: Crf
) -> list[np.ndarray]:
    """`dense_crf` of several images of any sizes, and of P unaries (P, C, H, W) of each.

    C may differ between images. `torch` takes all of them at once, other engines one by one.
    """
    for image, unary in zip(images, unaries, strict=True):
        _check(image, unary)
    if not images:
        return []
    # float32 keeps differences of this size finite; two infinities would give NaN.
    energies = [
        np.ascontiguousarray(np.clip(np.asarray(unary, np.float32), -1e30, 1e30))
        for unary in unaries
    ]
    return ENGINES[settings.engine](images, energies, settings)


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
    if image.shape[:2] != unary.shape[2:]:
        raise Refusal(
            f"image is {_size(image.shape[:2])} but the class scores are {_size(unary.shape[2:])}:"
            " resize the scores to the image first"
        )
    if np.isnan(unary).any():
        raise Refusal("class scores hold NaN: the maps of this image are broken, infer them again")


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _ours(image: np.ndarray, energy: np.ndarray, settings: Crf) -> np.ndarray:
    """Filter all classes but background: as they sum to one, it gets what the others leave."""
    height, width, _ = image.shape
    near = _kernel(height, width, settings.gaussian_sxy)
    # As bytes, for the kernel is kept by them.
    planes = image.transpose(2, 0, 1).tobytes()
    alike = _kernel(height, width, settings.bilateral_sxy, settings.bilateral_srgb, planes)
    kernels = ((settings.gaussian_compat, near), (settings.bilateral_compat, alike))
    own = -energy.reshape(len(energy), -1)
    belief = _softmax(own)
    everything = np.ones((1, belief.shape[1]), np.float32)
    own[:1] += sum(compat * kernel.filter(everything) for compat, kernel in kernels)
    for _ in range(settings.iterations):
        likely = 1 + np.flatnonzero(belief[1:].max(axis=1) > NEGLIGIBLE)
        heard = sum(compat * kernel.filter(belief[likely]) for compat, kernel in kernels)
        scores = own.copy()
        scores[likely] += heard
        scores[0] -= heard.sum(axis=0)
        belief = _softmax(scores)
    return belief.reshape(energy.shape)


# A mask and two passes for its seeds are of one image, and the next image is often of one size.
@lru_cache(maxsize=2)
def _kernel(height: int, width: int, sxy: float, srgb: float = 1, planes: bytes = b"") -> "Kernel":
    """Kernel over positions, and over colours where `planes` holds those, uint8 (3, H, W)."""
    try:
        from fbr.masks.lattice import Kernel
    except ImportError as missing:
        raise Refusal(
            f"the dense CRF needs numba, which cannot be imported ({missing}):"
            " run `pip install numba`, or choose `engine: torch`"
        ) from missing
    places = np.indices((height, width), np.float32)[::-1].reshape(2, -1)
    colours = np.frombuffer(planes, np.uint8).reshape(-1, height * width).astype(np.float32)
    return Kernel(np.concatenate([places / sxy, colours / srgb]))


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = scores - scores.max(axis=0)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=0)
    return weights


def _theirs(image: np.ndarray, energy: np.ndarray, settings: Crf) -> np.ndarray:
    try:
        from pydensecrf import densecrf
    except ImportError as missing:
        raise Refusal(
            "the dense CRF needs pydensecrf, which is not installed:"
            " run `pip install pydensecrf2` (it is compiled on the spot and needs a C++ compiler),"
            " or choose `engine: numba`"
        ) from missing
    classes, height, width = energy.shape
    model = densecrf.DenseCRF2D(width, height, classes)
    model.setUnaryEnergy(energy.reshape(classes, -1))
    model.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        # A copy, because read-only and strided images are refused by the library.
        rgbim=image.copy(order="C"),
        compat=settings.bilateral_compat,
    )
    return np.array(model.inference(settings.iterations), np.float32).reshape(energy.shape)


def _one_by_one(
    engine: Callable[[np.ndarray, np.ndarray, Crf], np.ndarray],
    images: Sequence[np.ndarray],
    energies: Sequence[np.ndarray],
    settings: Crf,
) -> list[np.ndarray]:
    return [
        np.stack([engine(image, one, settings) for one in energy])
        for image, energy in zip(images, energies, strict=True)
    ]


def _together(
    images: Sequence[np.ndarray], energies: Sequence[np.ndarray], settings: Crf
) -> list[np.ndarray]:
    # Not at the top: it brings torch, which the other engines' processes do without.
    import torch

    from fbr.masks.tensor_crf import mean_field

    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = mean_field(
        [torch.tensor(np.ascontiguousarray(image), device=here) for image in images],
        [torch.from_numpy(energy).to(here) for energy in energies],
        settings,
    )
    return [belief.cpu().numpy() for belief in found]


ENGINES: dict[
    str, Callable[[Sequence[np.ndarray], Sequence[np.ndarray], Crf], list[np.ndarray]]
] = {
    "numba": partial(_one_by_one, _ours),
    "torch": _together,
    "pydensecrf": partial(_one_by_one, _theirs),
}
