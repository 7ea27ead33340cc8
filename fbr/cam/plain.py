"""The plain CAM: a classification network with global average pooling (Zhou et al., CVPR 2016)."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fbr.losses.classification import multilabel_soft_margin
from fbr.params import Strict

if TYPE_CHECKING:
    from fbr.nets.backbones import Backbone


class Plain(nn.Module):
    """1×1 classifier on the last map; its pooled response is the class score.

    What every CAM method offers: `forward(batch)` → named losses, `maps(images)` → class maps,
    `head` → the modules that start from nothing and take the recipe's `head_lr`.
    """

    class Options(Strict):
        """The method's own numbers in params.yaml: none."""

    def __init__(self, backbone: "Backbone", classes: int, options: Options) -> None:
        super().__init__()
        self.backbone = backbone
        self.classify = nn.Conv2d(backbone.channels[-1], classes, 1, bias=False)
        self.head = [self.classify]

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, 3, H, W), label (B, K) → {"classification": scalar}."""
        pooled = self.backbone(batch["image"])[-1].mean((2, 3), keepdim=True)
        logits = self.classify(pooled).flatten(1)
        return {"classification": multilabel_soft_margin(logits, batch["label"])}

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → foreground maps (B, K, h, w), not negative, not normalised."""
        return self.classify(self.backbone(images)[-1]).relu()
