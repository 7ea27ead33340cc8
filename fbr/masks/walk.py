"""Random walk that spreads class scores over affinities (PSA, CVPR 2018; IRN, CVPR 2019)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fbr.masks.affinity import edge_to_affinity, path_index

TAIL = 1e-6  # what is left out of an expansion, relative to the scores
TOGETHER = 64  # maps at a time: a network that knows nothing yet finds instances by the thousand


def random_walk(
    cam: Tensor, edge: Tensor, beta: float = 10, exp_times: int = 8, radius: int = 5
) -> Tensor:
    """Return (cam * (1 - edge)) T^(2^exp_times), (..., k, h, w) float32.

    cam: (..., k, h, w), any k including 0. edge: (..., h, w) boundary map in 0..1. Images of one
    size walk together along the leading dimensions, on the device where the boundaries are.
    T is that of `spread`, with a_ij = 1 - the strongest boundary between two pixels.
    """
    affinity = edge_to_affinity(edge.float().reshape(-1, 1, *edge.shape[-2:]), radius)
    affinity = affinity.view(*edge.shape[:-2], *affinity.shape[1:])
    return spread(cam * (1 - edge.unsqueeze(-3)), affinity, beta, exp_times, radius)


def spread(scores: Tensor, affinity: Tensor, beta: float, exp_times: int, radius: int) -> Tensor:
    """Return scores T^(2^exp_times), (..., k, h, w) float32.

    scores: (..., k, h, w), any k including 0. affinity: a of each pair in 0..1, (..., P, h, w) as
    `edge_to_affinity` and `feature_affinity` give it.
    T[i, j] = a_ij^beta / sum_i a_ij^beta over the pixels i closer than `radius` to j, a_jj = 1.
    Columns sum to one: with a row of scores on its left each step replaces a score by a weighted
    mean of its neighbourhood, the paper's S^-1 A with a column of scores on its right. So a map
    stays inside its initial range, and a constant one stays as it is.
    """
    # Single precision would lose four digits to the expansion, whose terms cancel.
    step = _step(affinity.double() ** beta, radius)
    # T is similar to a symmetric matrix with eigenvalues in [-1, 1], where x^n is nearly a
    # polynomial of a degree near √n: 78 steps do the work of 256.
    weights = chebyshev(2**exp_times)
    parts = scores.flatten(-2).split(TOGETHER, dim=-2)
    walked = [_expanded(part.double(), step, weights).float() for part in parts]
    return torch.cat(walked, -2).view(scores.shape)


def _expanded(start: Tensor, step: Callable[[Tensor], Tensor], weights: list[float]) -> Tensor:
    """The sum of weighted Chebyshev polynomials of `step`, of scores (..., k, hw)."""
    before, now = start, step(start)
    total = weights[0] * before + (weights[1] * now if len(weights) > 1 else 0)
    for weight in weights[2:]:
        before, now = now, step(now).mul_(2).sub_(before)
        if weight:
            total.add_(now, alpha=weight)
    lowest, highest = start.amin(-1, keepdim=True), start.amax(-1, keepdim=True)
    return total.clamp(lowest, highest)


def _step(weights: Tensor, radius: int) -> Callable[[Tensor], Tensor]:
    """A step of the walk for all maps (..., k, hw) at once, from the pairs' weights (..., P, h, w).

    In reading order every displacement is one distance. Its pairs that leave the map weigh 0, so
    none of them wraps around to the next row.
    """
    height, width = weights.shape[-2:]
    count = height * width
    pairs = []
    for (dy, dx), weight in zip(
        path_index(radius).displacements, weights.flatten(-2).unbind(-2), strict=True
    ):
        if dy < height and abs(dx) < width:
            far = dy * width + dx
            pairs.append((far, weight[..., None, : count - far]))

    total = weights.new_ones(*weights.shape[:-3], 1, count)
    for far, weight in pairs:
        total[..., far:] += weight
        total[..., :-far] += weight
    norm = 1 / total

    def step(flow: Tensor) -> Tensor:
        out = flow.clone()
        for far, weight in pairs:
            out[..., far:].addcmul_(weight, flow[..., :-far])
            out[..., :-far].addcmul_(weight, flow[..., far:])
        return out.mul_(norm)

    return step


def chebyshev(power: int) -> list[float]:
    """Weights of Chebyshev's polynomials T_0, T_1, … in x^power, up to where TAIL is left."""
    weights = [0.0] * (power + 1)
    for k in range(power // 2 + 1):
        weights[power - 2 * k] = math.comb(power, k) / 2 ** (power - 1)
    if power % 2 == 0:
        weights[0] /= 2
    left = 0.0
    while left + weights[-1] < TAIL:
        left += weights.pop()
    return weights
