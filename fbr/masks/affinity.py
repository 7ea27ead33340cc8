"""Semantic affinity of neighbouring pixels, from boundaries (IRN) or from features (PSA)."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

VOID = 255

Offset = tuple[int, int]


class PathIndex(NamedTuple):
    """The P neighbour pairs of a pixel, each pair of the grid counted once, and the paths between.

    displacements: P steps (dy, dx) from a pair's first pixel to its second, the upper one first.
    paths: for each displacement, the steps from the first pixel to every pixel on the way.
    reach: the largest step along an axis.
    """

    displacements: tuple[Offset, ...]
    paths: tuple[tuple[Offset, ...], ...]
    reach: int


@cache
def path_index(radius: int) -> PathIndex:
    """Return the pairs closer than `radius` >= 2 pixels (a strict bound, as in the paper)."""
    reach = radius - 1
    displacements = tuple(
        (dy, dx)
        for dy in range(radius)
        for dx in range(-reach, radius)
        if (dy, dx) > (0, 0) and dy * dy + dx * dx < radius * radius
    )
    return PathIndex(displacements, tuple(_path(dy, dx) for dy, dx in displacements), reach)


def _path(dy: int, dx: int) -> tuple[Offset, ...]:
    # Every pixel less than one pixel off the line: a thinner path would slip through a boundary
    # that is one pixel wide and runs diagonally.
    columns = range(min(0, dx), max(0, dx) + 1)
    length = dy * dy + dx * dx
    return tuple((y, x) for y in range(dy + 1) for x in columns if (y * dx - x * dy) ** 2 < length)


def _shifted(field: Tensor, reach: int, fill: float) -> Callable[[int, int], Tensor]:
    height, width = field.shape[-2:]
    padded = F.pad(field, (reach, reach, 0, reach), value=fill)
    return lambda dy, dx: padded[..., dy : dy + height, reach + dx : reach + dx + width]


def edge_to_affinity(edge: Tensor, radius: int) -> Tensor:
    """Return 1 - the strongest boundary on the path, for each pair of neighbours.

    edge: (B, 1, h, w) in 0..1, of any size. Result: (B, P, h, w) in 0..1, at the place of each
    pair's first pixel, in the order of `path_index(radius)`; 0 where the second lies outside.
    """
    _, paths, reach = path_index(radius)
    boundary = _shifted(edge.squeeze(1), reach, fill=1.0)
    strongest = [torch.stack([boundary(*step) for step in path]).max(0).values for path in paths]
    return 1 - torch.stack(strongest, dim=1)


def feature_affinity(features: Tensor, radius: int) -> Tensor:
    """Return exp(-mean |difference| over channels) of each pair (PSA, CVPR 2018).

    features: (B, C, h, w), any values. Result: (B, P, h, w) in 0..1, as `edge_to_affinity` has it;
    one displacement at a time, for all at once would take P times the memory of the features.
    """
    displacements, _, reach = path_index(radius)
    # Infinitely far from any feature: such a pair's affinity and its gradient are exactly 0.
    second = _shifted(features, reach, fill=float("inf"))
    apart = [(features - second(*step)).abs().mean(1) for step in displacements]
    return torch.exp(-torch.stack(apart, dim=1))


def pair_difference(field: Tensor, radius: int) -> Tensor:
    """Return first minus second of each pair: (B, C, h, w) to (B, C, P, h, w).

    Pixels outside count as 0, so mask the result with `pair_labels`, which knows no such pairs.
    """
    displacements, _, reach = path_index(radius)
    second = _shifted(field, reach, fill=0.0)
    return torch.stack([field - second(*step) for step in displacements], dim=2)


class PairLabels(NamedTuple):
    """Boolean masks (B, P, h, w): the pairs of one class, by class, and those of two classes."""

    background: Tensor
    foreground: Tensor
    negative: Tensor


def pair_labels(labels: Tensor, radius: int) -> PairLabels:
    """Sort the pairs of label maps (B, h, w) of 0..K and 255 into agreeing and disagreeing ones.

    A pair with a void pixel, or with one outside the map, is in none of the masks.
    """
    displacements, _, reach = path_index(radius)
    neighbour = _shifted(labels, reach, fill=VOID)
    second = torch.stack([neighbour(*step) for step in displacements], dim=1)
    first = labels.unsqueeze(1)
    known = (first != VOID) & (second != VOID)
    agree = known & (first == second)
    return PairLabels(agree & (first == 0), agree & (first != 0), known & (first != second))
