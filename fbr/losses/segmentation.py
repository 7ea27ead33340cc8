"""Pixel losses, as sums and counts so that several processes divide exactly.

A part is a pair (sum, count). Batches differ in their number of labelled pixels, so a mean of
means would depend on how the batch is split; the training loop adds up both over all processes and
then takes sum / max(count, 1).
"""

import torch
import torch.nn.functional as F

VOID = 255

Part = tuple[torch.Tensor, torch.Tensor]


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> Part:
    """Return the cross entropy summed over the labelled pixels, and their number.

    logits (B, C, h, w), background first; target (B, H, W) integer ids, void (255) left out. Logits
    of another size are resized to the target bilinearly (align_corners=False). A batch without a
    labelled pixel gives (0, 0) with zero gradients. The sum is float32, the count int64.
    """
    losses = _per_pixel(logits, target)
    return losses.sum(), (target != VOID).sum()


def balanced_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0
) -> dict[str, Part]:
    """Return the parts of ½ mean over background + ½ mean over foreground pixels (DSRG's balance).

    Arguments as in `cross_entropy`; smoothing: the part of a pixel that its target spreads evenly
    over the other classes. Each sum carries its ½, so the loss is the plain sum of the two parts'
    sum / count. A part without pixels adds nothing; the other keeps its ½.
    """
    losses = _per_pixel(logits, target, smoothing) / 2
    background = target == 0
    foreground = ~background & (target != VOID)
    return {
        "background": ((losses * background).sum(), background.sum()),
        "foreground": ((losses * foreground).sum(), foreground.sum()),
    }


def _per_pixel(logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Cross entropy (B, H, W) float32, 0 at void pixels."""
    logits = logits.float()
    if logits.shape[-2:] != target.shape[-2:]:
        logits = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=False)
    # torch spreads over all classes, the target's own among them.
    spread = smoothing * logits.shape[1] / max(logits.shape[1] - 1, 1)
    return F.cross_entropy(
        logits, target.long(), ignore_index=VOID, reduction="none", label_smoothing=spread
    )


LOSSES = {
    "cross_entropy": lambda logits, target: {"cross_entropy": cross_entropy(logits, target)},
    "balanced_cross_entropy": balanced_cross_entropy,
}
