"""EPS, explicit pseudo-pixel supervision: saliency teaches where objects end (CVPR 2021)."""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from fbr.cam.method import Seen
from fbr.cam.plain import Plain
from fbr.losses.classification import multilabel_soft_margin
from fbr.losses.saliency import explicit_pseudo_pixels
from fbr.params import Share, Strict

if TYPE_CHECKING:
    from fbr.nets.backbones import Backbone


class Salience(Strict):
    """How class maps and saliency are compared."""

    threshold: Share  # τ: share of a class's map that is salient, for it to be foreground
    balance: Share  # λ: weight of the foreground's map against the background's


class Eps(Plain):
    """The plain network with a map of the background, which together have to explain saliency."""

    saliency = True

    class Options(Plain.Options, Salience):
        pass

    def __init__(self, backbone: "Backbone", classes: int, options: Options) -> None:
        super().__init__(backbone, 1 + classes, options)
        nn.init.xavier_uniform_(self.classify.weight)
        self.salience: Salience = options

    def look(self, batch: dict) -> Seen:
        features = self.backbone(batch["image"])[-1]
        logits = self.classify(features)
        scores = self.pooled(features, logits)[:, 1:]
        losses = {
            "classification": multilabel_soft_margin(scores, batch["label"]),
            "saliency": salience_loss(logits, batch["saliency"], batch["label"], self.salience),
        }
        return Seen(losses, features, logits)

    def recognise(self, images: Tensor) -> Tensor:
        return super().recognise(images)[:, 1:]

    def activate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)[-1]
        return self.classify(features).softmax(1)[:, 1:], features


def salience_loss(logits: Tensor, saliency: Tensor, labels: Tensor, numbers: Salience) -> Tensor:
    """EPS's loss of logits (B, 1+K, h, w) with saliency (B, H, W) in 0…255, read at their pixels.

    A network's position lies at the first pixel of its stride, which `nearest` takes.
    """
    near = F.interpolate(saliency[:, None].float() / 255, logits.shape[2:], mode="nearest")
    return explicit_pseudo_pixels(logits, near[:, 0], labels, numbers.threshold, numbers.balance)
