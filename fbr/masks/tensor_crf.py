"""Dense CRF of several images at once, in tensor operations on any device.

The same mean field on the same lattice as that of `fbr.masks.crf` and `fbr.masks.lattice`, where
loops over points are compiled; here a step is an operation on all points. Those of all images are
one list: an image's number is part of its vertices' names, so no image hears another.
"""

from collections.abc import Sequence
from math import inf, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fbr.masks.crf import NEGLIGIBLE, Crf

# A vertex is named by a fingerprint, the sum of its coordinates times these numbers, modulo 2^64;
# the last one is for the number of its image.
_FACTORS = torch.from_numpy(np.random.default_rng(0).integers(2**62, 2**63, 16) | 1)
# A GPU adds in another order each time. Sums of whole numbers, of this size, come out the same.
_ONE = 2**32


@torch.inference_mode()
def mean_field(images: Sequence[Tensor], energies: Sequence[Tensor], settings: Crf) -> list[Tensor]:
    """Return class probabilities (P, C, H, W) float32 of each image, on the device they are on.

    images (H, W, 3) uint8, of any sizes. energies (P, C, H, W) float32, finite: P unaries of an
    image, as many for all; each image has its own C.
    """
    points = [image.shape[0] * image.shape[1] for image in images]
    classes = max(energy.shape[1] for energy in energies)
    # No class that is not the image's own can appear in it.
    own = torch.cat([_padded(-energy.flatten(2), classes) for energy in energies], 2)
    kernels = _kernels(images, settings)
    belief = own.softmax(1)
    everything = own.new_ones(1, own.shape[2])
    own[:, 0] += sum(compat * kernel.filter(everything) for compat, kernel in kernels)
    for _ in range(settings.iterations):
        # All classes but background: as they sum to one, it gets what the others leave.
        likely = belief[:, 1:].amax(2) > NEGLIGIBLE
        present = belief[:, 1:][likely]
        heard = torch.zeros_like(belief[:, 1:])
        heard[likely] = sum(compat * kernel.filter(present) for compat, kernel in kernels)
        belief = (own + torch.cat([-heard.sum(1, keepdim=True), heard], 1)).softmax(1)
    return [
        found[:, : energy.shape[1]].reshape(energy.shape)
        for found, energy in zip(belief.split(points, 2), energies, strict=True)
    ]


def _padded(scores: Tensor, classes: int) -> Tensor:
    return F.pad(scores, (0, 0, 0, classes - scores.shape[1]), value=-inf)


def _kernels(images: Sequence[Tensor], settings: Crf) -> list[tuple[float, "Kernel"]]:
    """Each kernel's weight, and the kernel: over positions, and over positions and colours."""
    places = torch.cat([_places(image) for image in images], 1)
    colours = torch.cat([image.reshape(-1, 3).T.float() for image in images], 1)
    owner = torch.cat(
        [
            torch.full_like(image[..., 0], n, dtype=torch.int64).flatten()
            for n, image in enumerate(images)
        ]
    )
    alike = torch.cat([places / settings.bilateral_sxy, colours / settings.bilateral_srgb])
    return [
        (settings.gaussian_compat, Kernel(places / settings.gaussian_sxy, owner)),
        (settings.bilateral_compat, Kernel(alike, owner)),
    ]


def _places(image: Tensor) -> Tensor:
    """(2, HW): x and y of every pixel."""
    height, width = (torch.arange(side, device=image.device) for side in image.shape[:2])
    return torch.stack(torch.meshgrid(width, height, indexing="xy")).flatten(1).float()


class Kernel:
    """Gaussian of unit width between N points, divided by the roots of its row sums at both ends.

    features (d, N) float32: place and colour of every point, in widths of the Gaussian, d up to 14.
    owner (N,) int64: the number of each point's image; points of two images are infinitely apart.
    """

    def __init__(self, features: Tensor, owner: Tensor) -> None:
        names, self._weights = _corners(features)
        names += owner * _FACTORS[-1].to(owner)
        vertices, self._vertices = names.unique(return_inverse=True)
        self._neighbours = _neighbours(vertices, len(names))
        self._weights /= self.filter(torch.ones_like(features[:1])).sqrt()

    def filter(self, values: Tensor) -> Tensor:
        """Return the kernel times values (C, N) float32, of the same shape: splat, blur, slice."""
        count = self._neighbours.shape[2]
        whole = torch.zeros(len(values), count, dtype=torch.int64, device=values.device)
        for vertex, weight in zip(self._vertices, self._weights, strict=True):
            whole.index_add_(1, vertex, (values * (weight * _ONE)).long())
        held = whole.float() / _ONE
        for before, behind in self._neighbours:
            held = held + 0.5 * (held.index_select(1, before) + held.index_select(1, behind))
        result = torch.zeros_like(values)
        for vertex, weight in zip(self._vertices, self._weights, strict=True):
            result.addcmul_(held.index_select(1, vertex), weight)
        return result


def _corners(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return names (d+1, N) int64 of the vertices around each point, and weights (d+1, N)."""
    d = len(features)
    full = d + 1
    # Onto the plane of d+1 coordinates that sum to zero. Splat, blur and slice spread a point by
    # √(2/3)(d+1); dividing by that makes it one.
    axis = torch.arange(1, full, device=features.device)[:, None]
    steps = features * (sqrt(2 / 3) * full / (axis * (axis + 1)).sqrt())
    onto = F.pad(steps.flip(0).cumsum(0).flip(0), (0, 0, 0, 1))
    onto -= F.pad(axis * steps, (0, 0, 1, 0))

    # The nearest vertex whose coordinates are all multiples of d+1, and what is left to the point.
    # Where the rounded ones do not sum to zero, those with most or least left were rounded the
    # wrong way.
    whole = (onto / full).round()
    left = onto - whole * full
    largest_first = left.argsort(dim=0, descending=True, stable=True)
    rank = largest_first.argsort(dim=0) + whole.sum(0).long()
    back = (rank < 0).long() - (rank > d).long()
    rank, whole, left = rank + full * back, whole.long() + back, left - full * back

    # Vertex k+1 is one step from vertex k along all axes, d steps back along that of rank d-k.
    factors = _FACTORS[:full].to(features.device)
    order = rank.argsort(dim=0, descending=True)
    onward = factors.sum() - full * factors[order[:-1]]
    names = torch.cat([(whole * full * factors[:, None]).sum(0, keepdim=True), onward]).cumsum(0)
    share = left.gather(0, order) / full
    weights = share - share.roll(1, 0)
    weights[0] += 1
    return names, weights


def _neighbours(vertices: Tensor, full: int) -> Tensor:
    """Return numbers (d+1, 2, M+1) of the M vertices before and behind each, along every axis.

    vertices: sorted names. M stands for one that no point touches, M's own neighbours included.
    """
    count = len(vertices)
    factors = _FACTORS[:full].to(vertices)
    onward = factors.sum() - full * factors
    wanted = vertices + torch.stack([-onward, onward], 1)[..., None]
    places = torch.searchsorted(vertices, wanted).clamp_(max=count - 1)
    return F.pad(torch.where(vertices.take(places) == wanted, places, count), (0, 1), value=count)
