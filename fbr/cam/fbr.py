"""FBR, fine-grained background representation (Yin et al., TCSVT 2024), carried by a CAM method.

Features have two projections, one for the foreground and one for the background. The background of
each image is clustered into negative regions of interest (NROIs), which a memory bank keeps;
foreground pixels that the seeds are unsure of are drawn to the prototype of their class, away from
NROIs (L_fb) and from pixels of other classes (L_if).

Several processes compute what one would with the batch of all: what a loss compares with is
gathered, only its own pixels are a process's own.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fbr.cam import seeds as reading
from fbr.cam.bank import Bank
from fbr.cam.nrois import assign, nrois
from fbr.cam.seeds import Seeds
from fbr.losses.contrast import (
    across_keys,
    class_shares,
    mean_cosine,
    pixel_contrast,
    pixel_margin,
    prototype_contrast,
    tally,
)
from fbr.masks.neighbours import follow_colours
from fbr.nets.dropout import BitDropout
from fbr.params import Fbr
from fbr.positions import PIXELS, Onto, Positions

Losses = dict[str, Tensor | tuple[Tensor, Tensor]]


class Background(nn.Module):
    """The plug-in: features, seed scores and image labels in, named losses out."""

    prototypes: Tensor
    positions: Positions

    def __init__(self, channels: int, classes: int, numbers: Fbr) -> None:
        super().__init__()
        self.numbers = numbers
        self.positions = PIXELS  # where what it is given lies, until a method says
        self.phi_fg = _projection(channels, numbers.width)
        self.phi_bg = None if numbers.one_space else _projection(channels, numbers.width)
        self.phi_seg, self.dropout = (
            nn.Linear(numbers.width, 1, bias=False),
            BitDropout(numbers.dropout),
        )
        nn.init.xavier_uniform_(self.phi_seg.weight)
        self.bank = Bank(numbers.bank, numbers.width, classes, getattr(torch, numbers.bank_dtype))
        self.register_buffer("prototypes", torch.zeros(classes, numbers.width))
        self._rest()

    def _rest(self) -> None:
        """What no loss reaches does not train: several processes would wait for its gradient."""
        weight = self.numbers.weight
        mode = self.numbers.mode  # what is released has no gradient of one or both contrasts
        contrast = {
            "intent": weight.l_fb + weight.l_if,
            "released": 0,
            "released_ppc": weight.l_if,
        }[mode] > 0
        behind = weight.l_seg + weight.l_sim > 0
        one = self.phi_bg is None
        self.phi_fg.requires_grad_(contrast or weight.l_sim + weight.l_pix > 0 or (one and behind))
        self.phi_seg.requires_grad_(weight.l_seg > 0)
        if self.phi_bg is not None:
            self.phi_bg.requires_grad_(behind)

    def forward(
        self,
        features: Tensor,
        scores: Tensor,
        batch: dict,
        maps: Tensor | None = None,
        onto: Onto | None = None,
    ) -> Losses:
        """Losses by name, those of no weight left out, and what is only watched, without gradient.

        features (B, L, h, w); scores (B, 1+K, h, w); maps (B, K, h, w), of the classes before they
        were refined, none if scores hold them; batch: image (B, 3, H, W), label (B, K), the
        numbers step and seed; logged: whether values are watched (they are where it is not told),
        with companions (B, H, W) where the data has them. onto: brings projections and scores to
        the positions at which they are clustered and contrasted; L_seg and L_sim keep to the
        features' own.
        """
        labels, weight, own = batch["label"], self.numbers.weight, features.shape[2:]
        z, u = whole = self.project(features)
        with torch.autocast(features.device.type, enabled=False):
            # Maps one after the other, as nearly all that reads them goes through them.
            scores = scores.detach().to(torch.float32, memory_format=torch.contiguous_format)
            if maps is None:
                maps = scores[:, 1:]
            if onto is not None:
                z, u = (onto(part.mT.unflatten(2, own)).flatten(2).mT for part in whole)
                scores = onto(scores)
            found = self.read(scores, z.detach(), batch)
            draws = Draws(batch["seed"], batch["step"], features.device)
            regions, count = self._remember(u, found.label, labels, draws)
            losses = {}
            if weight.l_fb or weight.l_if or weight.l_pix:
                losses |= self._contrasts(z, found, labels, draws)
            if weight.l_seg:
                losses["l_seg"] = self._segmentation(whole[1], maps, labels)
            if weight.l_sim:
                losses["l_sim"] = mean_cosine(*whole)
            for name in losses:
                begun = batch["step"] >= getattr(self.numbers.from_step, name)
                losses[name] = losses[name] * (getattr(weight, name) * begun)
            if batch.get("logged", True):
                losses |= self._watched(u, found.label, scores.shape[2:], regions, count, batch)
            return losses

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Z_fg and Z_bg after their ReLU, float32 (B, N, D) each; features are read once."""
        parts = [self.phi_fg] if self.phi_bg is None else [self.phi_fg, self.phi_bg]
        # A matrix product: on a CPU a 1×1 convolution takes longer, backward above all.
        weight = torch.cat([part.weight for part in parts]).flatten(1)
        both = F.linear(features.permute(0, 2, 3, 1).flatten(1, 2), weight).relu().float()
        z = both.split(self.numbers.width, 2)
        return z[0], z[-1]

    @torch.no_grad()
    def read(self, scores: Tensor, z: Tensor, batch: dict) -> Seeds:
        """Seeds of scores (B, 1+K, h, w); z (B, N, D) only where seeds are relabelled by it."""
        start = self.numbers.relabel_from
        if start is not None and batch["step"] >= start:
            chance, own = self._chance(z).view_as(scores[:, 1:]), scores[:, 1:]
            # Logits have their product where they are added.
            logits = self.numbers.scores == "softmax"
            own = own + chance.clamp(min=reading.TINY).log() if logits else own.relu() * chance
            scores = torch.cat([scores[:, :1], own], 1)
        if (how := self.numbers.follow_colours) is not None:
            maps = scores.relu() if self.numbers.scores == "cam" else scores
            where = self._places(scores.shape[2:], batch["image"].shape[2:])
            scores = follow_colours(maps, batch["image"], **how.model_dump(), positions=where)
        return reading.seeds(scores.flatten(2), batch["label"], self.numbers)

    def _places(self, grid: torch.Size, image: torch.Size) -> Positions | None:
        """Where the positions of a grid lie in the image, if it is not that of a smaller view."""
        return self.positions if self.positions.count(image) == grid else None

    @torch.no_grad()
    def _remember(
        self, u: Tensor, label: Tensor, labels: Tensor, draws: "Draws"
    ) -> tuple[Tensor, Tensor]:
        """Cluster the background of each image, u = Z_bg (B, N, D), and push its NROIs.

        Or what is simpler: the mean of all the batch's background, which is of no one image (0
        classes), or each pixel of it.
        """
        n, inside = self.numbers, label == 0
        if n.background == "prototype":
            total, many = (inside[:, :, None] * u.detach()).sum((0, 1)), inside.sum()
            total, many = gathered(total[None]).sum(0), gathered(many[None]).sum()
            regions, count = (total / many.clamp(min=1))[None], many[None] > 0
            self.bank.push(regions, torch.zeros_like(labels[:1]), count)
            return regions[None], count[None]
        if n.background == "pixels":
            regions, count = u.detach(), inside
        else:
            regions, count = nrois(u, inside, draws.own(len(u), n.nrois), n.start, n.iterations)
        tags = labels[:, None].expand(-1, regions.shape[1], -1).contiguous()
        rows, tags, counted = (gathered(part).flatten(0, 1) for part in (regions, tags, count))
        self.bank.push(rows, tags, counted)
        return regions, count

    def _contrasts(self, z: Tensor, found: Seeds, labels: Tensor, draws: "Draws") -> Losses:
        """L_fb, L_if and L_pix of z = Z_fg (B, N, D); labels (B, K)."""
        n, losses = self.numbers, {}
        pixels, everywhere = gathered(z.detach()), Seeds(*(gathered(part) for part in found))
        centres = self._prototypes(everywhere, pixels)
        if n.weight.l_fb or n.weight.l_if:
            losses |= self._queries(z, found, everywhere, pixels, centres, draws)
        if n.weight.l_pix:
            losses["l_pix"] = self._sides(z, found, everywhere, labels, centres, draws)
        return losses

    def _queries(
        self,
        z: Tensor,
        found: Seeds,
        everywhere: Seeds,
        pixels: Tensor,
        centres: Tensor,
        draws: "Draws",
    ) -> Losses:
        """L_fb and L_if, of the pixels that the seeds are unsure of."""
        n, (classes, width) = self.numbers, centres.shape
        query = reading.unsure(everywhere, n)
        if n.cap:
            query = capped(query, everywhere.label, classes, n.cap, draws.uniform(*query.shape))
        label = everywhere.label.clamp(min=0).flatten()
        present = tally(label, classes)[1:] > 0
        counts = tally(label * query.flatten(), classes)[1:]
        own = (found.label * here(query, len(z))).flatten()
        flat, unit = z.reshape(-1, width), F.normalize(centres, dim=1)
        if n.mode == "released":
            flat = flat.detach()

        losses, kinds = {}, {}
        worth = {"l_fb": self.bank.held > 0, "l_if": present.sum() > 1}
        if n.weight.l_fb:
            negatives = self._negatives(unit, draws)
            if n.mode == "intent":
                kinds["l_fb"] = negatives
            else:
                losses["l_fb"] = across_keys(flat.detach(), own, centres, negatives, n.temperature)
        if n.weight.l_if:
            pi = reading.graph(unit, present, n.temperature)
            index = reading.draw_pixels(pi, label, draws.uniform(2, classes, n.negatives))
            chosen = pixels.reshape(-1, width).index_select(0, index.flatten())
            kinds["l_if"] = chosen.view(*index.shape, -1)
        if kinds:
            others = F.normalize(torch.stack(list(kinds.values())), dim=3)
            values = prototype_contrast(flat, own, unit, others, n.temperature)
            losses |= dict(zip(kinds, values, strict=True))
        # Gradients are averaged over processes, and these are sums over them.
        shares = class_shares(own, present, counts) * processes()
        return {name: (values * shares).sum() * worth[name] for name, values in losses.items()}

    def _negatives(self, unit: Tensor, draws: "Draws") -> Tensor:
        """M rows of the bank for each class (K, M, D); unit (K, D), prototypes of length 1.

        Where some are to be hard or all from images without the class, they are picked from a pool
        of random draws, so that the cost does not depend on the size of the bank.
        """
        n, classes = self.numbers, len(unit)
        if not (n.hard or n.foreign):
            return self.bank.draw(draws.uniform(classes, n.negatives))[0]
        rows, labels = self.bank.draw(draws.uniform(classes, n.negatives * n.pool))
        allowed = torch.ones_like(labels[..., 0])
        if n.foreign:
            shown = torch.eye(classes, dtype=torch.bool, device=unit.device)[:, None]
            allowed = ~(labels & shown).any(2)
        near = (F.normalize(rows, dim=2) @ unit[..., None])[..., 0]
        hard = round(n.hard * n.negatives)
        nearest = (near + 4 * allowed).topk(hard, dim=1).indices
        # The others in the order of the draws; what is not allowed comes last.
        left = allowed.float().scatter(1, nearest, -1.0)
        rest = left.argsort(dim=1, descending=True, stable=True)[:, : n.negatives - hard]
        index = torch.cat([nearest, rest], 1)
        return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[2]))

    def _prototypes(self, found: Seeds, pixels: Tensor) -> Tensor:
        """P (K, D): of this batch, or a running mean over the batches that show a class."""
        n = self.numbers
        top = max(1, pixels.shape[1] // n.prototype_part)
        now = reading.prototypes(found, pixels, top, n.own_seeds)
        if not (n.momentum or n.maps != "cam" or n.relabel_from is not None):
            return now
        known, seen = (p.square().sum(1, keepdim=True) > 0 for p in (self.prototypes, now))
        kept = torch.where(known, n.momentum * self.prototypes + (1 - n.momentum) * now, now)
        self.prototypes.copy_(torch.where(seen, kept, self.prototypes))
        return self.prototypes.clone()

    def _sides(
        self,
        z: Tensor,
        found: Seeds,
        everywhere: Seeds,
        labels: Tensor,
        centres: Tensor,
        draws: "Draws",
    ) -> Tensor:
        """L_pix: the mean over sure foreground plus that over sure background."""
        n = self.numbers
        z, unit = F.normalize(z, dim=2), F.normalize(centres, dim=1)
        regions = F.normalize(self.bank.draw(draws.uniform(n.negatives))[0], dim=1)
        loss = pixel_contrast(z, found.label, labels, unit, regions, n.nrois, n.temperature)
        total = 0 * z.sum()
        for side, whole in (
            (found.label > 0, everywhere.label > 0),
            (found.label == 0, everywhere.label == 0),
        ):
            total = total + (loss * side).sum() / whole.sum().clamp(min=1)
        return total * processes() * (self.bank.held > 0)

    def _segmentation(self, u: Tensor, maps: Tensor, labels: Tensor) -> Tensor:
        """L_seg: φ_seg is to tell where the CAMs of the image add up to next to nothing.

        Refined maps would not do: they are means over many pixels, and nothing nowhere.
        """
        logits = self.phi_seg(self.dropout(u))[..., 0]
        maps = maps.detach().float().flatten(2).relu()
        share = labels / (maps.amax(2) + reading.TINY)
        target = (share[:, None] @ maps)[:, 0] < self.numbers.background_below
        return F.binary_cross_entropy_with_logits(logits, target.float())

    def reread(self, maps: Tensor, features: Tensor) -> Tensor:
        """The maps of inference (B, K, h, w), from the method's own and the features below."""
        if self.numbers.maps == "cam":
            return maps
        chance = self._chance(self.project(features)[0]).view_as(maps)
        return chance if self.numbers.maps == "chance" else maps * chance

    def _chance(self, z: Tensor) -> Tensor:
        """(B, N, D) → (B, K, N), how surely a pixel is its class's and no NROI's."""
        n = self.numbers
        unit = F.normalize(self.prototypes, dim=1)
        regions = F.normalize(self.bank.some(n.reference), dim=1)
        margin = pixel_margin(F.normalize(z, dim=2), unit, regions, n.nrois, n.temperature)
        return margin.sigmoid().mT

    @torch.no_grad()
    def _watched(
        self,
        u: Tensor,
        label: Tensor,
        size: torch.Size,
        regions: Tensor,
        count: Tensor,
        batch: dict,
    ) -> Losses:
        """Whether the background collapses: its norm, how far NROIs spread, where they lie."""
        watched = {"background_norm": u.norm(dim=2).mean()}
        if self.numbers.background != "nrois":
            return watched
        middle = (regions * count[:, :, None]).sum(1) / count.sum(1).clamp(min=1)[:, None]
        apart = ((regions - middle[:, None]).norm(dim=2) * count).sum()
        watched["nroi_spread"] = (apart, (regions.norm(dim=2) * count).sum())
        if "companions" in batch:
            ground = batch["companions"]
            if places := self._places(size, ground.shape[1:]):
                ground = places.nearest(ground, size).flatten(1) > 0
            else:
                ground = F.interpolate(ground[:, None], size, mode="nearest").flatten(1) > 0
            nearest, none = assign(u, regions), torch.zeros_like(regions[..., 0])
            side = torch.where(ground, 1.0, -1.0) * (label == 0)
            most = none.scatter_add(1, nearest, side) > 0
            watched["nroi_companions"] = ((most & count).sum(), count.sum())
        return watched


def _projection(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return conv


class Draws:
    """Uniform numbers of one step, the same in every process."""

    def __init__(self, seed: int, step: int, device: torch.device) -> None:
        # A CPU's generator takes no more than 32 bits.
        self.generator = torch.Generator(device)
        self.generator.manual_seed((seed * 1_000_003 + step) % (1 << 32))

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def own(self, images: int, *shape: int) -> Tensor:
        """Numbers for the images of this process, out of those for the images of all."""
        return here(self.uniform(processes() * images, *shape), images)


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(part: Tensor) -> Tensor:
    """The rows of all processes, in their order; no gradient."""
    if processes() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(processes())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def here(rows: Tensor, images: int) -> Tensor:
    """The rows of this process among those of all."""
    if processes() == 1:
        return rows
    return rows[dist.get_rank() * images :][:images]


def capped(query: Tensor, label: Tensor, classes: int, cap: int, uniform: Tensor) -> Tensor:
    """At most `cap` queries of each class, those with the least draws; arguments (B, N)."""
    order = uniform.flatten().argsort()
    own = (label * query).flatten()[order]
    each = own[:, None] == torch.arange(1, classes + 1, device=own.device)
    kept = (each & (each.cumsum(0) <= cap)).any(1)
    return torch.zeros_like(kept).index_put((order,), kept).view_as(query)
