"""What two views of an image owe each other: the losses of SEAM (Wang et al., CVPR 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def equivariance(one: Tensor, other: Tensor) -> Tensor:
    """ER: mean distance of two views' maps (B, K, h, w), each in 0…1; a scalar."""
    return (one - other).abs().mean()


def cross_equivariance(refined: Tensor, other: Tensor, share: float) -> Tensor:
    """ECR: how far one view's refined maps are from the other's, as a scalar.

    refined (B, 1+K, h, w) and other (B, K, h, w) in 0…1. The other view is reduced to its best
    class at each pixel and gives no gradient; of each image the `share` of values that differ most
    is averaged, so that the many zeros of absent classes do not hide them.
    """
    apart = (best_alone(other.detach()) - refined).abs().flatten(1)
    return apart.topk(max(1, int(apart.shape[1] * share))).values.mean()


def best_alone(shares: Tensor) -> Tensor:
    """(B, K, h, w) in 0…1 → (B, 1+K, h, w): at each pixel the best class, and 1 less it.

    Classes that tie for the best all stay; the background comes first.
    """
    best = shares.amax(1, keepdim=True)
    return torch.cat([1 - best, shares * (shares == best)], 1)


def least_activation(maps: Tensor) -> Tensor:
    """Mean, over images, of the quarter of pixels at which the best class is weakest; a scalar.

    maps (B, K, h, w), 0 for classes that an image does not show. What is there is background, and
    should be nothing.
    """
    best = maps.amax(1).flatten(1)
    return F.relu(best.topk(max(1, best.shape[1] // 4), largest=False).values).mean()
