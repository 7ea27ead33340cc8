"""What every CAM method is, and how it carries FBR."""

from typing import NamedTuple

from torch import Tensor, nn

from fbr.cam.fbr import Background

TINY = 1e-5


class Seen(NamedTuple):
    """One forward pass: losses, and what FBR reads.

    features (B, L, h, w); scores (B, 1+K, h, w), the background's first, before any ReLU.
    """

    losses: dict[str, Tensor | tuple[Tensor, Tensor]]
    features: Tensor
    scores: Tensor


class Method(nn.Module):
    """A method gives `look` and `activate`.

    head: its modules that start from nothing and take the recipe's `head_lr`. width: L, channels of
    the features that it shows.
    """

    head: list[nn.Module]
    width: int

    def __init__(self) -> None:
        super().__init__()
        self.background: Background | None = None

    def look(self, batch: dict) -> Seen:
        """image (B, 3, H, W) and label (B, K), among others → losses and what they come from."""
        raise NotImplementedError

    def activate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) → foreground maps (B, K, h, w), not negative, and the features below."""
        raise NotImplementedError

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
        self.head = [*self.head, background]
        return self

    def forward(self, batch: dict) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Named losses of the method, and those of FBR if it carries it."""
        seen = self.look(batch)
        if self.background is None:
            return seen.losses
        return seen.losses | self.background(seen.features, seen.scores, batch)


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
