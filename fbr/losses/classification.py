"""Image-level classification loss that trains the networks behind class activation maps."""

import torch
import torch.nn.functional as F


def multilabel_soft_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the binary cross entropy of K independent classes, a float32 scalar.

    logits (B, K) foreground logits, without background; labels (B, K) of any type, 1 where the
    class is in the image. The mean is over images and classes.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())
