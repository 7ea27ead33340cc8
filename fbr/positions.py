"""Where the positions of a network's maps lie in the image that it sees, and reading there."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]  # height and width
MANY = 64  # channels from which on they had better come last, as in the networks


def _kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make each tensor once; not while a network is exported, to files that hold for any size."""
    # Enough for an image at five scales, flipped; of large photographs each takes megabytes.
    cached = lru_cache(maxsize=32)(torch.inference_mode(False)(make))

    @wraps(make)
    def kept(*what: object) -> Tensor:
        return make(*what) if torch.compiler.is_exporting() else cached(*what)

    return kept


class Positions(NamedTuple):
    """Position j lies at pixel first + j·stride of what a network sees, down and to the right.

    Padded convolutions begin at pixel 0, patches in the middle of the first. Resized like pictures,
    from cells to cells, maps of the former lie half a stride too low, and too far right but where a
    flip blurs them to the left as well.
    """

    stride: int
    first: float = 0.0

    def pixels(self, count: int, device: torch.device) -> Tensor:
        """Where the first `count` of a side lie, float64."""
        return self.first + self.stride * torch.arange(count, dtype=torch.float64, device=device)

    def count(self, size: Size) -> Size:
        """How many there are, down and to the right, of an image of this size."""
        return _count(size[0], self.stride), _count(size[1], self.stride)

    def nearest(
        self,
        picture: Tensor,
        size: Size,
        within: "Positions | None" = None,
        view: Size | None = None,
    ) -> Tensor:
        """Of a picture (…, H, W), or of a map with positions `within` it, what lies nearest.

        size: of the map that is to be met. view: pixels of the picture as the network saw it, if
        not H and W. Beyond the picture its edges go on.
        """
        if within == self:
            return picture
        rows, columns = self._each(_nearest, picture, size, within, view)
        return picture[..., rows[:, None], columns]

    def bilinear(
        self,
        picture: Tensor,
        size: Size,
        within: "Positions | None" = None,
        view: Size | None = None,
    ) -> Tensor:
        """As `nearest`, of pictures or maps (B, C, H, W), between what lies near: float32."""
        if within == self:
            return picture.float()
        return _read(picture, *self._each(_beside, picture, size, within, view))

    def _each(
        self,
        make: Callable[..., Tensor],
        picture: Tensor,
        size: Size,
        within: "Positions | None",
        view: Size | None,
    ) -> list[Tensor]:
        """What is made for rows and for columns."""
        sides = picture.shape[-2:]
        return [
            make(self, within or PIXELS, count, side, seen, picture.device)
            for count, side, seen in zip(size, sides, view or sides, strict=True)
        ]

    def unmirrored(self, maps: Tensor, width: int) -> Tensor:
        """Maps (B, C, h, w) of a view from right to left, of `width` pixels, where others lie."""
        columns = _mirrored(self, maps.shape[3], width, maps.device)
        with torch.autocast(maps.device.type, enabled=False):
            return maps.float() @ columns.mT

    def drawn(self, maps: Tensor, view: Size, size: Size, mirrored: bool = False) -> Tensor:
        """Maps (B, C, h, w) of a view, a picture of `view` pixels, drawn over it: (B, C, *size).

        Bilinear, float32; edges go on. mirrored: the view is the picture from right to left.
        """
        grid, device = maps.shape[2:], maps.device
        rows = _drawn(self, view[0], size[0], grid[0], False, device)
        columns = _drawn(self, view[1], size[1], grid[1], mirrored, device)
        return _read(maps, rows, columns)

    def around(self, picture: Tensor, size: Size, finer: int = 1) -> Tensor:
        """Means of a picture (B, C, H, W) over squares of a stride around each of `size` positions.

        Each square is cut into finer × finer. Beyond the picture its edges go on.
        """
        rows, columns = (
            _around(self, count, finer, side, picture.device)
            for count, side in zip(size, picture.shape[2:], strict=True)
        )
        return _read(picture, rows, columns)


PIXELS = Positions(1)


class Onto(NamedTuple):
    """Reads maps of one view of an image where the positions of a smaller view lie.

    image, view: heights and widths in pixels.
    """

    image: Size
    view: Size
    positions: Positions

    def __call__(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) of the image → float32 (B, C, h', w'), bilinear, edges go on."""
        if self.image == self.view:
            return maps.float()
        rows, columns = (
            _between(self.positions, whole, part, count, maps.device)
            for whole, part, count in zip(self.image, self.view, maps.shape[2:], strict=True)
        )
        return _read(maps, rows, columns)


def _count(side: int, stride: int) -> int:
    """⌈side / stride⌉, without a negative number: ONNX divides those towards 0."""
    return (side + stride - 1) // stride


def _read(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (B, C, h, w) at places, by weights for rows and for columns: two small products."""
    with torch.autocast(maps.device.type, enabled=False):
        maps = maps.float()
        if maps.shape[1] < MANY or torch.compiler.is_exporting():
            return rows @ maps @ columns.mT
        last = maps.permute(0, 2, 3, 1)
        drawn = (rows @ last.flatten(2)).unflatten(2, last.shape[2:])
        return (columns @ drawn).permute(0, 3, 1, 2)


@_kept
def _nearest(
    own: Positions, of: Positions, count: int, side: int, view: int, device: torch.device
) -> Tensor:
    """For each of `count` positions in `view` pixels, which of the `side` others lies nearest."""
    pixel = _seen(own, of, count, side, view, device)
    return ((pixel - of.first) / of.stride + 0.5).floor().long().clamp(0, side - 1)


@_kept
def _beside(
    own: Positions, of: Positions, count: int, side: int, view: int, device: torch.device
) -> Tensor:
    """Weights of the `side` others at each of `count` positions in `view` pixels."""
    return _weights(of, _seen(own, of, count, side, view, device), side)


def _seen(
    own: Positions, of: Positions, count: int, side: int, view: int, device: torch.device
) -> Tensor:
    """Pixels at which `count` positions lie; of a picture of another side than the view, its."""
    pixel = own.pixels(count, device)
    return _centres(pixel, view, side) if of == PIXELS else pixel


@_kept
def _mirrored(own: Positions, count: int, width: int, device: torch.device) -> Tensor:
    """Weights of `count` positions of the mirror image at each of as many of the image."""
    return _weights(own, width - 1 - own.pixels(count, device), count)


@_kept
def _drawn(
    own: Positions, view: int, side: int, count: int, mirrored: bool, device: torch.device
) -> Tensor:
    """Weights of `count` positions of a view at each of the `side` pixels that it is drawn to."""
    pixel = _centres(torch.arange(side, dtype=torch.float64, device=device), side, view)
    return _weights(own, view - 1 - pixel if mirrored else pixel, count)


@_kept
def _around(own: Positions, count: int, finer: int, side: int, device: torch.device) -> Tensor:
    """Of each part of a cell, which share lies in each of `side` pixels: (count · finer, side)."""
    part = own.stride / finer
    begin = own.first - own.stride / 2 + 0.5  # of the first cell, in pixels from the picture's edge
    edges = begin + part * torch.arange(count * finer + 1, dtype=torch.float64, device=device)
    pixel = torch.arange(side + 1, dtype=torch.float64, device=device)
    pixel[0], pixel[-1] = -torch.inf, torch.inf
    below, above = edges[:-1, None], edges[1:, None]
    inside = above.minimum(pixel[1:]) - below.maximum(pixel[:-1])
    return (inside.clamp(min=0) / part).float()


@_kept
def _between(own: Positions, whole: int, part: int, count: int, device: torch.device) -> Tensor:
    """Weights of `count` positions of the image at each position of its view of `part` pixels."""
    pixel = own.pixels(_count(part, own.stride), device)
    return _weights(own, _centres(pixel, part, whole), count)


def _centres(pixel: Tensor, side: int, other: int) -> Tensor:
    """Where pixels of a picture lie in the same one of another side."""
    return (pixel + 0.5) * other / side - 0.5


def _weights(own: Positions, pixel: Tensor, count: int) -> Tensor:
    """Of each position at each pixel, bilinear: (pixels, count)."""
    place = ((pixel - own.first) / own.stride).clamp(0, count - 1)
    each = torch.arange(count, dtype=torch.float64, device=pixel.device)
    return (1 - (place[:, None] - each).abs()).clamp(min=0).float()
