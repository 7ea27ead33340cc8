"""PPC, pixel-to-prototype contrast, on SEAM or, with saliency, on EPS (Du et al., CVPR 2022).

Each view gives every class a prototype. A pixel is drawn to the prototype of its class: to the
other view's (cross-prototype), by the other view's seeds (cross-CAM), and within its view, there by
hard pixels and semi-hard negatives.

In `mode: intent` a class has a prototype where an image of the batch shows it, and the background's
is weighted by how little the classes score. In `mode: released` all have one, as in the released
code: an image stands for classes that it does not show as well, and the background, which scores
alike everywhere, is the mean of whatever pixels come first. Refined maps, which add up to 1, are
held against saliency as they are in `intent`; the released code takes their softmax, in which no
class of three or more can hold a half, so that the loss drives classes off what is salient.

A prototype is the mean of the positions that score best for its class. FBR's released code on PPC
takes them only from where the class scores above all others; here the best may lie elsewhere.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbr.cam.eps import Salience, at_positions, salience_loss
from fbr.cam.fbr import Background, Draws, gathered, here, processes
from fbr.cam.method import Method, Seen
from fbr.cam.seam import Seam, View, shares
from fbr.cam.seeds import TINY, resized
from fbr.errors import Refusal
from fbr.losses.contrast import class_shares
from fbr.losses.prototypes import hard_pixels, prototype_entropy, semi_hard_entropy
from fbr.params import Count, NotNegative, Positive, Share, Strict
from fbr.positions import Onto

if TYPE_CHECKING:
    from fbr.nets.backbones import Backbone

Losses = dict[str, Tensor]


class Weights(Strict):
    cross_prototype: NotNegative
    cross_cam: NotNegative
    intra_view: NotNegative


class Side(NamedTuple):
    """One view for the contrasts, its B·N positions in rows.

    pixels (n, D) of length 1; labels (n,), seeds in 0…K; prototypes (1+K, D) of length 1; known
    (1+K,), whether the class has one.
    """

    pixels: Tensor
    labels: Tensor
    prototypes: Tensor
    known: Tensor


class Ppc(Seam):
    """SEAM's two views, contrasted; with `salience` the classifier has a background, as in EPS."""

    views = 2

    class Options(Seam.Options):
        mode: Literal["intent", "released"] = "intent"  # of prototypes and saliency, see above
        salience: Salience | None  # none: on SEAM
        projection: Count | None  # D; none takes the φ_fg of the FBR that it carries
        temperature: Positive
        seed_background: Share  # τ_bg
        prototype_part: Count  # a prototype is the mean of the best 1/part of an image's positions
        foreground_only: bool  # cross-view terms of foreground seeds alone, as with FBR
        hard: Share  # share of pixels, and of negatives, that are hard,
        kept: Share  # and of all, how many of them are taken
        weight: Weights

    def __init__(self, backbone: "Backbone", classes: int, options: Options) -> None:
        super().__init__(backbone, classes, options, options.salience is not None)
        self.numbers = options
        self.saliency = options.salience is not None
        self.project: nn.Conv2d | None = None
        if options.projection is not None:
            self.project = nn.Conv2d(self.width, options.projection, 1, bias=False)
            nn.init.xavier_uniform_(self.project.weight)
            self.head = [*self.head, self.project]

    def carry(self, background: Background) -> Method:
        if self.project is None:  # FBR lets it rest where none of its own losses reaches
            background.phi_fg.requires_grad_()
        return super().carry(background)

    def look(self, batch: dict) -> Seen:
        pair = self.pair(batch["image"])
        losses = self.compare(*pair, batch["label"])
        if self.numbers.salience is not None:
            losses["saliency"] = self._salience(pair, batch)
        onto = self.onto(*pair)
        losses |= self._contrasts(pair, onto, batch)
        whole, small = ((v.features, v.refined, v.maps[:, self.first :]) for v in pair)
        return Seen(losses, *whole, (small,), onto)

    def activate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """With saliency, the classifier's own maps, which have learnt the background as well."""
        if not self.saliency:
            return super().activate(images)
        features = self.backbone(images)[-1]
        return self.classify(features).softmax(1)[:, 1:], features

    def finish(self, found: Tensor, keys: Tensor) -> Tensor:
        return Method.finish(self, found, keys) if self.saliency else super().finish(found, keys)

    def _salience(self, pair: tuple[View, View], batch: dict) -> Tensor:
        """EPS's loss of maps and refined maps, a mean over the views."""
        whole = batch["saliency"].float()
        small = resized(whole[:, None], torch.Size([self.side, self.side]))[:, 0]
        total = []
        for view, saliency in zip(pair, (whole, small), strict=True):
            salient = at_positions(saliency, view.maps.shape[2:], self.positions)
            refined = view.refined.float()
            if self.numbers.mode == "released":
                refined = refined.softmax(1)
            for chance in (view.maps.float().softmax(1), refined):
                total.append(salience_loss(chance, salient, batch["label"], self.numbers.salience))
        return sum(total) / 2

    def _contrasts(self, pair: tuple[View, View], onto: Onto, batch: dict) -> Losses:
        """Of both views, at the positions of the small one."""
        device = pair[0].features.device
        whole, small = (self._projected(view.features) for view in pair)
        with torch.autocast(device.type, enabled=False):
            sides = [
                self._side(pixels.flatten(2).mT, scores, batch["label"])
                for pixels, scores in (
                    (onto(whole), onto(pair[0].refined)),
                    (small, pair[1].refined),
                )
            ]
            crossed = list(zip(sides, reversed(sides), strict=True))
            draws = Draws(batch["seed"], batch["step"], device)
            losses = {
                "cross_prototype": sum(
                    self._toward(mine, other, mine.labels) for mine, other in crossed
                ),
                "cross_cam": sum(self._toward(mine, mine, other.labels) for mine, other in crossed),
            }
            if self.numbers.weight.intra_view:
                losses["intra_view"] = sum(self._within(side, draws) for side in sides)
        return {n: value * getattr(self.numbers.weight, n) / 2 for n, value in losses.items()}

    def _projected(self, features: Tensor) -> Tensor:
        """Z (B, D, h, w), not negative, float32."""
        project = self.project
        if project is None:
            if self.background is None:
                raise Refusal(
                    "options: projection: found none without an fbr block, expected a width, or an "
                    "fbr block whose projection ppc shares"
                )
            project = self.background.phi_fg
        return project(features).relu().float()

    def _side(self, pixels: Tensor, scores: Tensor, labels: Tensor) -> Side:
        with torch.no_grad():
            every = shares(scores[:, 1:]).flatten(2)
            classes = every * labels[:, :, None]
            ground = torch.full_like(classes[:, :1], self.numbers.seed_background)
            seeds = torch.cat([ground, classes], 1).argmax(1)
            if self.numbers.mode == "released":
                # Never 0, so that a class which scores nowhere has a prototype, too.
                weight = torch.cat([ground, every], 1).clamp(min=TINY)
            else:
                weight = torch.cat([1 - classes.amax(1, keepdim=True), classes], 1)
            top = max(1, pixels.shape[1] // self.numbers.prototype_part)
            centres, known = prototypes(gathered(weight), gathered(pixels.detach()), top)
        unit = F.normalize(pixels.flatten(0, 1), dim=1)
        return Side(unit, seeds.flatten(), F.normalize(centres, dim=1), known)

    def _toward(self, mine: Side, other: Side, labels: Tensor) -> Tensor:
        """Mean, over every pixel, of the contrast of one side's pixels with one's prototypes."""
        cosines = mine.pixels @ other.prototypes.mT
        loss = prototype_entropy(cosines, labels, other.known, self.numbers.temperature)
        return (loss * (labels > 0) if self.numbers.foreground_only else loss).mean()

    def _within(self, side: Side, draws: Draws) -> Tensor:
        """Mean over the pixels of a class that count, then over the classes seen."""
        n, classes = self.numbers, len(side.known)
        cosines = side.pixels @ side.prototypes.mT
        loss = semi_hard_entropy(cosines, side.labels, side.known, n.hard, n.kept, n.temperature)
        own = cosines.detach().gather(1, side.labels[:, None])[:, 0]
        labels = gathered(side.labels)
        uniform = draws.uniform(len(labels))
        times = hard_pixels(gathered(own), labels, classes, n.hard, n.kept, uniform)
        nothing = times.new_zeros(classes)
        seen, counts = nothing.index_fill(0, labels, 1), nothing.index_add(0, labels, times)
        shares = class_shares(side.labels + 1, seen, counts)
        return processes() * (loss * here(times, len(loss)) * shares).sum()


def prototypes(scores: Tensor, pixels: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """P (1+K, D), and which of them there are: means of the `top` best pixels, weighted by score.

    scores (B, 1+K, N) in 0…1; pixels (B, N, D). A class that scores nowhere has none.
    """
    best, index = scores.transpose(0, 1).flatten(1).topk(top)
    chosen = pixels.reshape(-1, pixels.shape[2])[index]
    weight = best.sum(1, keepdim=True)
    return (best[:, :, None] * chosen).sum(1) / weight.clamp(min=TINY), weight[:, 0] > 0
