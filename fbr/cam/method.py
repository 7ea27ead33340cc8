"""What every CAM method is, and how it carries FBR."""

from copy import deepcopy
from typing import NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from fbr.cam.fbr import Background
from fbr.cam.seeds import TINY
from fbr.errors import Refusal
from fbr.positions import Onto, Positions


class Seen(NamedTuple):
    """One forward pass: losses, and what FBR reads.

    features (B, L, h, w); scores (B, 1+K, h, w), the background's first, before any ReLU. maps
    (B, K, h, w): class maps as the classifier gives them, where scores are refined ones. more:
    these three of further views of the images. onto: brings the first view's maps to where FBR
    clusters and contrasts, if that is coarser.
    """

    losses: dict[str, Tensor | tuple[Tensor, Tensor]]
    features: Tensor
    scores: Tensor
    maps: Tensor | None = None
    more: tuple[tuple[Tensor, Tensor, Tensor | None], ...] = ()
    onto: Onto | None = None


class Method(nn.Module):
    """A method gives `look` and `activate`, and `recognise` if it tells classes.

    head: its modules that start from nothing and take the recipe's `head_lr`. width: L, channels of
    the features that it shows. positions: where they lie in an image. views: of each image, that it
    shows to FBR. saliency: whether the batch has to hold saliency (B, H, W) uint8.
    """

    head: list[nn.Module]
    width: int
    positions: Positions
    views: int = 1
    saliency: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.background: Background | None = None
        self.banks = nn.ModuleList()  # of the views after the first, if they do not share

    def look(self, batch: dict) -> Seen:
        """image (B, 3, H, W) and label (B, K), among others → losses and what they come from."""
        raise NotImplementedError

    def activate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) → foreground maps (B, K, h, w), not negative, and the features below."""
        raise NotImplementedError

    def recognise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → class scores (B, K), above 0 where an image more likely shows a class."""
        raise Refusal("this CAM method does not tell classes; name them (--class)")

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → foreground maps (B, K, h, w), not negative, not normalised."""
        maps, features = self.activate(images)
        return maps if self.background is None else self.background.reread(maps, features)

    def finish(self, found: Tensor, keys: Tensor) -> Tensor:
        """Maps of one image (K, H, W) and ids (k,) → maps of these classes in 0…1, (k, H, W).

        found: the mean of `maps` over scales and flips.
        """
        chosen = found[keys - 1]
        return chosen / chosen.amax((1, 2), keepdim=True).clamp(min=TINY)

    def carry(self, background: Background) -> "Method":
        self.background = background
        background.positions = self.positions
        self.head = [*self.head, background]
        if background.numbers.bank_each_view:
            self.banks.extend(deepcopy(background.bank) for _ in range(self.views - 1))
        return self

    def forward(self, batch: dict) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Named losses of the method, and those of FBR, a mean over views, if it carries it."""
        seen = self.look(batch)
        if self.background is None:
            return seen.losses
        found = [self.background(seen.features, seen.scores, batch, seen.maps, seen.onto)]
        if not seen.more:
            return seen.losses | found[0]
        for view, (features, scores, maps) in enumerate(seen.more):
            # The same projections, another memory.
            memory = self.banks[view].named_buffers(prefix="bank") if self.banks else ()
            given = features, scores, batch, maps
            found.append(functional_call(self.background, dict(memory), given))
        return seen.losses | {name: _mean([view[name] for view in found]) for name in found[0]}


def _mean(values: list[Tensor | tuple[Tensor, Tensor]]) -> Tensor | tuple[Tensor, Tensor]:
    """Of values, or of sums beside their counts."""
    if isinstance(values[0], tuple):
        sums, counts = zip(*values, strict=True)
        return sum(sums), sum(counts)
    return sum(values) / len(values)


class Seeded(Method):
    """A method behind another CAM: it learns from its seeds, too, and is told more at inference.

    `amn_train` and `amn_infer` run it. Its batches have seeds (B, H, W): 0…K, 255 unsure. In place
    of `activate` it gives the two that follow.
    """

    def maps(self, images: Tensor, label: Tensor) -> Tensor:
        """(B, 3, H, W) and image labels (B, K) → what is averaged over scales and flips."""
        raise NotImplementedError

    def finish(self, found: Tensor, keys: Tensor, background: Tensor) -> Tensor:
        """As of every method; background (H, W) bool: where the seeds say so."""
        raise NotImplementedError
