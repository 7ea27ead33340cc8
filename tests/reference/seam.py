"""SEAM (CVPR 2020) from its equations: one image, one class, one pixel at a time, in doubles."""

import torch

TINY = 1e-5


def correlated(maps, looks):
    """Σ_i A_ij m_i / Σ_i A_ij, A = max(0, cosine), of maps (B, C, N) and looks (B, D, N)."""
    means = torch.zeros_like(maps)
    for b in range(len(maps)):
        for j in range(maps.shape[2]):
            alike = [
                max(0.0, _cosine(looks[b, :, i], looks[b, :, j])) for i in range(maps.shape[2])
            ]
            for c in range(maps.shape[1]):
                total = sum(a * m for a, m in zip(alike, maps[b, c], strict=True))
                means[b, c, j] = total / (sum(alike) + TINY)
    return means


def _cosine(a, b):
    return float((a / (a.norm() + TINY)) @ (b / (b.norm() + TINY)))


def best_alone(shares):
    """(K, N) → (1+K, N): 1 - max, and what reaches the maximum."""
    alone = torch.zeros(1 + len(shares), shares.shape[1], dtype=shares.dtype)
    for i in range(shares.shape[1]):
        best = max(shares[:, i])
        alone[0, i] = 1 - best
        for k, share in enumerate(shares[:, i]):
            alone[1 + k, i] = share if share == best else 0
    return alone


def equivariance(one, other):
    """Mean |a - b| over all values."""
    pairs = zip(one.flatten(), other.flatten(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / one.numel()


def cross_equivariance(refined, other, share):
    """Mean over images of the mean of the largest `share` of |other's best - refined|."""
    terms = []
    for mine, theirs in zip(refined, other, strict=True):
        target = best_alone(theirs.detach())
        apart = [abs(t - m) for t, m in zip(target.flatten(), mine.flatten(), strict=True)]
        apart = sorted(apart, reverse=True)[: int(len(apart) * share)]
        terms.append(sum(apart) / len(apart))
    return sum(terms) / len(terms)


def least_activation(maps):
    """Mean over images of the lowest quarter of max(0, best class)."""
    terms = []
    for image in maps:
        best = sorted(max(image[:, i]) for i in range(image.shape[1]))[: image.shape[1] // 4]
        terms.append(sum(b.clamp(min=0) for b in best) / len(best))
    return sum(terms) / len(terms)


def stretched(values):
    """(N,) → max(0, v) from its least and largest to 0…1."""
    values = values.clamp(min=0)
    return (values - values.min()) / (values.max() - values.min() + TINY)
