"""EPS, explicit pseudo-pixel supervision: saliency teaches where objects end (CVPR 2021)."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fbr.cam.method import Seen
from fbr.cam.plain import Plain
from fbr.losses.classification import multilabel_soft_margin
from fbr.losses.saliency import explicit_pseudo_pixels
from fbr.params import Share, Strict
from fbr.positions import Positions, Size

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
            "saliency": salience_loss(
                logits.float().softmax(1),
                at_positions(batch["saliency"], logits.shape[2:], self.positions),
                batch["label"],
                self.salience,
            ),
        }
        return Seen(losses, features, logits)

    def recognise(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[-1]
        return self.pooled(features, self.classify(features))[:, 1:]

    def activate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)[-1]
        return self.classify(features).softmax(1)[:, 1:], features


def at_positions(saliency: Tensor, size: Size, positions: Positions) -> Tensor:
    """Saliency (B, H, W) in 0…255 → (B, *size) in 0…1, at the pixels where positions lie."""
    return positions.nearest(saliency, size).float() / 255


def salience_loss(chance: Tensor, salient: Tensor, labels: Tensor, numbers: Salience) -> Tensor:
    """EPS's loss of shares (B, 1+K, h, w), background first, with saliency (B, h, w) in 0…1."""
    return explicit_pseudo_pixels(chance, salient, labels, numbers.threshold, numbers.balance)
