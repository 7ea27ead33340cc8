"""Negative regions of interest: what the background of each image is made of, by k-means."""

import math
from typing import Literal

import torch
from torch import Tensor

Start = Literal["k-means++", "random"]


def nrois(
    points: Tensor, inside: Tensor, draws: Tensor, start: Start, iterations: int
) -> tuple[Tensor, Tensor]:
    """Centroids (B, K, D) of each image's points inside, and which of them count (B, K) bool.

    points (B, N, D); inside (B, N) bool; draws (B, K) uniform in [0, 1), what the start is drawn
    with. An image with K points inside or fewer has these points themselves. No gradient.
    """
    # The projections come as halves of one tensor; products run faster on memory of their own.
    points, weight = points.detach().contiguous(), inside.to(points.dtype)
    regions, count = draws.shape[1], inside.sum(1, keepdim=True)
    few = count <= regions
    begin = {"k-means++": _plus_plus, "random": _random}[start]
    centres = _take(points, begin(points, weight, draws))
    for _ in range(iterations):
        before, centres = centres, _lloyd(points, weight, centres)
        # What rests stays at rest; a GPU is not asked, it would have to be waited for.
        if not points.is_cuda and torch.equal(before, centres):
            break
    # Where the points are few, they themselves, in their order.
    place = torch.arange(1, regions + 1, device=points.device).repeat(len(points), 1)
    first = torch.searchsorted(inside.cumsum(1), place).clamp(max=points.shape[1] - 1)
    return torch.where(few[:, :, None], _take(points, first), centres), place <= count


def _take(points: Tensor, index: Tensor) -> Tensor:
    """points (B, N, D), index (B, k) → (B, k, D)."""
    return points.gather(1, index[:, :, None].expand(-1, -1, points.shape[2]))


def _random(points: Tensor, weight: Tensor, draws: Tensor) -> Tensor:
    """One point inside of each K-th of them, in the order of the rows: (B, K) indices.

    They are K different points wherever there are as many.
    """
    ladder, regions = weight.double().cumsum(1), draws.shape[1]
    ends = (torch.arange(regions + 1, device=draws.device) * ladder[:, -1:] / regions).floor()
    rank = ends[:, :-1] + (draws * ends.diff(dim=1)).floor()
    return torch.searchsorted(ladder, rank, right=True).clamp(max=weight.shape[1] - 1)


def _by_weight(weight: Tensor, draws: Tensor) -> Tensor:
    """Index of a point with chance in proportion to its weight: (B, N), (B, k) → (B, k)."""
    ladder = weight.double().cumsum(1)
    index = torch.searchsorted(ladder, draws.double() * ladder[:, -1:], right=True)
    return index.clamp(max=weight.shape[1] - 1)


def _plus_plus(points: Tensor, weight: Tensor, draws: Tensor) -> Tensor:
    """Greedy k-means++, as in scikit-learn: indices (B, K) of the points to start from.

    Some points are drawn with chance in proportion to their squared distance from those before;
    the one that leaves the smallest sum of distances is taken. One draw serves all of them, an
    equal share of the chance apart.
    """
    trials = 2 + int(math.log(draws.shape[1]))
    strata = torch.arange(trials, device=draws.device)
    square = points.norm(dim=2).square()
    chosen = [_by_weight(weight, draws[:, :1])]
    nearest = _apart(points, square, chosen[0])
    for k in range(1, draws.shape[1]):
        chance = nearest.squeeze(1) * weight
        # All points alike: any will do.
        chance = torch.where(chance.sum(1, keepdim=True) > 0, chance, weight)
        tried = _by_weight(chance, (strata + draws[:, k : k + 1].double()) / trials)
        left = _apart(points, square, tried).minimum(nearest)
        best = (left @ weight[:, :, None]).argmin(1)
        chosen.append(tried.gather(1, best))
        nearest = left.gather(1, best[:, :, None].expand(-1, -1, left.shape[2]))
    return torch.cat(chosen, 1)


def _apart(points: Tensor, square: Tensor, index: Tensor) -> Tensor:
    """Squared distances from the points at index (B, k) to all, whose squares (B, N): (B, k, N)."""
    apart = square[:, None] - 2 * _take(points, index) @ points.mT
    return (apart + square.gather(1, index)[:, :, None]).clamp(min=0)


def assign(points: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre of each point: (B, N, D), (B, K, D) → (B, N)."""
    # `min` beside `argmin`: the same number, a tenth of the time where it does not run along the
    # last dimension.
    return _beyond(points, centres).min(1).indices


def _beyond(points: Tensor, centres: Tensor) -> Tensor:
    """|p - c|² without |p|², which is the same for all centres: (B, K, N)."""
    square = torch.linalg.vecdot(centres, centres)[:, :, None]
    return torch.baddbmm(square, centres, points.mT, alpha=-2)


def _lloyd(points: Tensor, weight: Tensor, centres: Tensor) -> Tensor:
    """Move each centre to the mean of its points; one that has lost all of them stays."""
    # Whose each point is (B, K, N), without its number: a CPU takes three times as long to find it.
    # Of centres at one place the first has the points, so that the others can part from it.
    first = torch.arange(centres.shape[1], 0, -1, device=points.device)[:, None]
    own = _beyond(points, centres)
    own = own.eq_(own.amin(1, keepdim=True)).mul_(first)
    own = own.eq_(own.amax(1, keepdim=True)).mul_(weight[:, None])
    held = own.sum(2, keepdim=True)
    return torch.where(held > 0, own @ points / held.clamp(min=1), centres)
