"""AMN: pixels of another CAM's confident seeds classified apart (Lee, Kim and Shim, CVPR 2022).

The image's labels condition the features, so that the network knows what it may find. Seeds are
read where positions lie, and so are the maps of inference; the released code reads both in the
middles of cells, the same but for crops of no whole strides.
"""

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fbr.cam.method import Method, Seeded, Seen
from fbr.cam.seeds import TINY
from fbr.losses.segmentation import balanced_cross_entropy
from fbr.nets.aspp import Aspp
from fbr.nets.dropout import BitDropout
from fbr.params import Counts, LossOptions, Positive, Strict

if TYPE_CHECKING:
    from fbr.nets.backbones import Backbone


class Amn(Seeded):
    """Features times a code of the labels, under parallel dilated convolutions (ASPP)."""

    class Options(Strict):
        rates: Counts  # dilations
        deviation: Positive  # of the convolutions' first weights
        dropout: Annotated[float, Field(ge=0, lt=1)]
        smoothing: Annotated[float, Field(ge=0, le=0.5)]  # ε, of a target to the other classes

    def __init__(self, backbone: "Backbone", classes: int, options: Options) -> None:
        super().__init__()
        self.backbone, self.width = backbone, backbone.channels[-1]
        self.positions = backbone.positions[-1]
        self.encode = nn.Linear(classes, self.width)
        self.dropout = BitDropout(options.dropout)
        self.classify = Aspp(self.width, 1 + classes, options.rates, options.deviation)
        self.head = [self.encode, self.classify]
        # The loss spreads over all classes, the target's own among them.
        spread = options.smoothing * (1 + classes) / classes
        self.loss = LossOptions(smoothing=spread)

    def look(self, batch: dict[str, Tensor]) -> Seen:
        features, logits = self.conditioned(batch["image"], batch["label"])
        target = self.positions.nearest(batch["seeds"], logits.shape[2:])
        losses = balanced_cross_entropy(logits, target.long(), self.loss)
        return Seen(losses, features, logits)

    def conditioned(self, images: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Features f' (B, L, h, w) and logits (B, 1+K, h, w), the background's first."""
        features = self.backbone(images)[-1] * self.encode(label)[:, :, None, None]
        return features, self.classify(self.dropout(features))

    @property
    def reread(self) -> bool:
        """Whether FBR makes the maps of inference."""
        return self.background is not None and self.background.numbers.maps != "cam"

    def maps(self, images: Tensor, label: Tensor) -> Tensor:
        """Logits (B, 1+K, h, w), or foreground maps (B, K, h, w) where FBR makes them."""
        features, logits = self.conditioned(images, label)
        if not self.reread:
            return logits
        chance = logits.float().softmax(1)[:, 1:] * label[:, :, None, None]
        return self.background.reread(chance, features)

    def finish(self, found: Tensor, keys: Tensor, background: Tensor) -> Tensor:
        """Chances of classes: as they are on background, elsewhere from their least to their most.

        A class's least and most are those of the whole image.
        """
        if self.reread:
            return Method.finish(self, found, keys)
        chance = found.softmax(0)[keys]
        least, most = chance.amin((1, 2), keepdim=True), chance.amax((1, 2), keepdim=True)
        return torch.where(background, chance, (chance - least) / (most - least).clamp(min=TINY))
