"""SEAM: a network whose maps follow the image through a change of scale (Wang et al., CVPR 2020).

Every image is seen twice, as it is and small. The maps of both have to agree (ER), and each one's
maps, refined by which pixels look alike, have to agree with the other's best classes (ECR). They
are compared at the same points of the image; the released code resizes images and maps by aligned
corners, which is off by up to a third of a position at its size, at the far edges.
"""

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from fbr.cam.method import Seen
from fbr.cam.plain import Plain
from fbr.cam.seeds import TINY, resized, stretched
from fbr.errors import Refusal
from fbr.losses.classification import multilabel_soft_margin
from fbr.losses.equivariance import (
    best_alone,
    cross_equivariance,
    equivariance,
    least_activation,
)
from fbr.params import Counts, Share
from fbr.positions import Onto, Positions

if TYPE_CHECKING:
    from fbr.nets.backbones import Backbone

Side = Annotated[int, Field(ge=16)]
Levels = Annotated[list[Annotated[int, Field(lt=0)]], Field(min_length=1)]


class View(NamedTuple):
    """What the network sees in one view.

    size: of the images, in pixels. features (B, L, h, w); maps (B, K or 1+K, h, w) before any ReLU;
    refined (B, 1+K, h, w) in 0…1.
    """

    size: tuple[int, int]
    features: Tensor
    maps: Tensor
    refined: Tensor


class Seam(Plain):
    """The plain network, its maps refined by the pixel correlation module, on two scales."""

    class Options(Plain.Options):
        view: Side  # of the second view, in pixels
        hard_share: Share  # of an image's values that ECR looks at, those that differ most
        levels: Levels  # of the backbone, that tell which pixels look alike
        level_widths: Counts  # channels that each is narrowed to
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of whole channels of the features

        @model_validator(mode="after")
        def _a_width_each(self) -> "Seam.Options":
            if len(self.levels) != len(self.level_widths):
                raise ValueError(
                    f"found {len(self.levels)} levels and {len(self.level_widths)} level_widths, "
                    "expected one width for each level"
                )
            return self

    def __init__(
        self, backbone: "Backbone", classes: int, options: Options, with_background: bool = False
    ) -> None:
        super().__init__(backbone, classes + with_background, options)
        nn.init.xavier_uniform_(self.classify.weight)
        self.first = int(with_background)  # channel of the first class
        self.side, self.hard_share = options.view, options.hard_share
        self.dropout = nn.Dropout2d(options.dropout)
        self.levels = options.levels
        if min(options.levels) < -len(backbone.channels):
            raise Refusal(
                f"options: levels: found {min(options.levels)}, expected -1 down to "
                f"{-len(backbone.channels)}: the network has {len(backbone.channels)} levels"
            )
        channels = [backbone.channels[level] for level in options.levels]
        places = [backbone.positions[level] for level in [*options.levels, -1]]
        self.correlate = Correlation(channels, options.level_widths, places)
        self.head = [*self.head, self.correlate]

    def look(self, batch: dict) -> Seen:
        whole, small = self.pair(batch["image"])
        losses = self.compare(whole, small, batch["label"])
        return Seen(losses, whole.features, whole.refined, whole.maps[:, self.first :])

    def pair(self, images: Tensor) -> tuple[View, View]:
        """The images as they are, and on squares of `side`."""
        return self.see(images), self.see(resized(images, torch.Size([self.side, self.side])))

    def see(self, images: Tensor) -> View:
        levels = self.backbone(images)
        features = self.dropout(levels[-1])
        maps = self.classify(features)
        with torch.no_grad():
            classes = maps[:, self.first :].float().relu()
            classes = best_alone(classes / (classes.amax((2, 3), keepdim=True) + TINY))
        refined = self.correlate(classes, images, [levels[level] for level in self.levels])
        return View(tuple(images.shape[2:]), features, maps, refined)

    def onto(self, whole: View, small: View) -> Onto:
        return Onto(whole.size, small.size, self.positions)

    def compare(self, whole: View, small: View, labels: Tensor) -> dict[str, Tensor]:
        """Losses of both views, compared where the small one has its positions; labels (B, K)."""
        shown = labels[:, :, None, None]
        with_ground = F.pad(shown, (0, 0, 0, 0, 1, 0), value=1)
        views, onto = (whole, small), self.onto(whole, small)
        maps = [shares(view.maps[:, self.first :]) for view in views]
        refined = [shares(view.refined) for view in views]
        maps = [onto(maps[0]) * shown, maps[1] * shown]
        refined = [onto(refined[0]) * with_ground, refined[1] * with_ground]
        scores = [self.pooled(view.features, view.maps)[:, self.first :] for view in views]
        classified = [multilabel_soft_margin(score, labels) for score in scores]
        least = [least_activation(view.refined[:, 1:] * shown) for view in views]
        crossed = [
            cross_equivariance(mine, other, self.hard_share)
            for mine, other in zip(refined, reversed(maps), strict=True)
        ]
        return {
            "classification": sum(classified) / 2,
            "least_activation": sum(least) / 2,
            "equivariance": equivariance(*maps),
            "cross_equivariance": sum(crossed),
        }

    def recognise(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[-1]
        return self.pooled(features, self.classify(features))[:, self.first :]

    def activate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        view = self.see(images)
        return view.refined[:, 1:], view.features

    def finish(self, found: Tensor, keys: Tensor) -> Tensor:
        """Refined maps from their least to their largest value: a mean is nowhere next to 0."""
        if self.background is not None and self.background.numbers.maps != "cam":
            return super().finish(found, keys)
        return shares(found[None, keys - 1])[0]


class Correlation(nn.Module):
    """PCM: maps become means over the pixels that look alike, in colours and earlier features.

    places: positions of the levels that these features come from, and of the maps.
    """

    def __init__(self, channels: list[int], widths: list[int], places: list[Positions]) -> None:
        super().__init__()
        *self.places, self.positions = places
        self.narrow = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1, bias=False)
            for inputs, outputs in zip(channels, widths, strict=True)
        )
        self.mix = nn.Conv2d(3 + sum(widths), sum(widths), 1, bias=False)
        for conv in self.narrow:
            nn.init.kaiming_normal_(conv.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, maps: Tensor, images: Tensor, levels: list[Tensor]) -> Tensor:
        """maps (B, C, h, w) without gradient → the same, float32; levels train no backbone."""
        size, at = maps.shape[2:], self.positions.nearest
        parts = [
            narrow(at(level.detach(), size, place)).relu()
            for narrow, level, place in zip(self.narrow, levels, self.places, strict=True)
        ]
        looks = self.mix(torch.cat([at(images, size).to(parts[0].dtype), *parts], 1))
        return correlated(maps, looks)


def correlated(maps: Tensor, looks: Tensor) -> Tensor:
    """Means of maps (B, C, h, w) over all pixels, weighted by max(0, cosine) of looks (B, D, h, w).

    One product gives the sums and their weights: the N×N cosines are never divided.
    """
    looks = looks.flatten(2)
    looks = looks / (looks.float().norm(dim=1, keepdim=True) + TINY).to(looks.dtype)
    alike = (looks.mT @ looks).relu()
    sums = F.pad(maps.flatten(2), (0, 0, 0, 1), value=1) @ alike
    return (sums[:, :-1].float() / (sums[:, -1:].float() + TINY)).view(maps.shape)


def shares(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w), rectified, each from its own least and largest value to 0…1."""
    return stretched(maps.float().relu().flatten(2)).view(maps.shape)
