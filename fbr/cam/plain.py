"""The plain CAM: a classification network with global average pooling (Zhou et al., CVPR 2016)."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbr.cam.method import Method, Seen
from fbr.losses.classification import multilabel_soft_margin
from fbr.params import Share, Strict

if TYPE_CHECKING:
    from fbr.nets.backbones import Backbone


class Plain(Method):
    """1×1 classifier on the last map; its pooled response is the class score."""

    class Options(Strict):
        tap: Share | None = None  # threshold of the pooling; none pools over everything

    def __init__(self, backbone: "Backbone", classes: int, options: Options) -> None:
        super().__init__()
        self.backbone, self.positions = backbone, backbone.positions[-1]
        self.classify = nn.Conv2d(backbone.channels[-1], classes, 1, bias=False)
        self.head, self.width = [self.classify], backbone.channels[-1]
        self.tap = options.tap

    def look(self, batch: dict[str, Tensor]) -> Seen:
        features = self.backbone(batch["image"])[-1]
        losses = {"classification": multilabel_soft_margin(self.pooled(features), batch["label"])}
        return Seen(losses, features, F.pad(self.classify(features), (0, 0, 0, 0, 1, 0)))

    def recognise(self, images: Tensor) -> Tensor:
        return self.pooled(self.backbone(images)[-1])

    def pooled(self, features: Tensor, maps: Tensor | None = None) -> Tensor:
        """Class scores (B, K) of features (B, L, h, w).

        maps: what `classify` makes of them, if a loss needs it: its mean is the score of the mean,
        and features with one gradient less to add up make a step quicker.
        """
        if self.tap is None and maps is not None:
            return maps.float().mean((2, 3))
        mean = features.mean((2, 3)) if self.tap is None else threshold_pool(features, self.tap)
        return self.classify(mean[:, :, None, None]).flatten(1)

    def activate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)[-1]
        return self.classify(features).relu(), features


def threshold_pool(features: Tensor, threshold: float) -> Tensor:
    """TAP (Bae et al., ECCV 2020): the mean of a channel over what is above a share of its peak.

    features (B, L, h, w), not negative → (B, L); a channel that is 0 everywhere gives 0.
    """
    seen = features.detach()
    # 0 and 1 in the features' own kind: a sum over what is bool takes a CPU twenty times as long.
    above = torch.gt(seen, threshold * seen.amax((2, 3), keepdim=True), out=torch.empty_like(seen))
    count = above.sum((2, 3), dtype=torch.float32).clamp(min=1)
    return (features * above).sum((2, 3)) / count.to(features.dtype)
