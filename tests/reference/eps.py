"""EPS (CVPR 2021) from its equations: one image, one class, one pixel at a time, in doubles."""

import torch


def loss(logits, saliency, labels, threshold, balance):
    """Mean (S - (α FG + (1-α)(1 - BG)))² of logits (B, 1+K, N), saliency (B, N), labels (B, K)."""
    terms = []
    for maps, salient, present in zip(logits, saliency, labels, strict=True):
        powers = maps.exp()
        chance = [
            [power / sum(powers[:, i]) for power in powers[:, i]] for i in range(len(salient))
        ]
        ground = {k: _is_ground(chance, salient, k, threshold) for k in range(1, len(maps))}
        for pixel, s in zip(chance, salient, strict=True):
            front, back = 0, pixel[0]
            for k in range(1, len(maps)):
                if present[k - 1] and ground[k]:
                    back = back + pixel[k]
                elif present[k - 1]:
                    front = front + pixel[k]
            terms.append((balance * front + (1 - balance) * (1 - back) - s) ** 2)
    return torch.stack(terms).mean()


def _is_ground(chance, salient, k, threshold):
    """Whether Σ round(P) round(S) / Σ (round(P) + 1e-4) stays at or below the threshold."""
    own = [round(float(pixel[k].detach())) for pixel in chance]
    both = sum(o * round(float(s)) for o, s in zip(own, salient, strict=True))
    return both / sum(o + 1e-4 for o in own) <= threshold
