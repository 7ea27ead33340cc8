"""Segmentation heads on a backbone's maps: the DeepLabs, object contexts and their controls."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fbr.errors import Refusal, chosen
from fbr.nets.aspp import Aspp
from fbr.nets.backbones import Backbone
from fbr.params import Grid
from fbr.positions import Onto, Positions, Size


@dataclass(frozen=True)
class Shape:
    """What a head stands on and how large it is.

    channels, positions: of the backbone's maps, finest first. rates: dilations of parallel
    branches. width: of the head's own maps; dropout before its classifier; None is what the paper
    has.
    """

    channels: list[int]
    positions: list[Positions]
    classes: int
    rates: list[int] | None = None
    width: int | None = None
    dropout: float | None = None

    def level(self, stride: int) -> int:
        """The last of the maps that are at least as fine as this stride; else the finest."""
        return max((i for i, own in enumerate(self.positions) if own.stride <= stride), default=0)


class Head(nn.Module):
    """Maps, finest first, in; logits (B, classes, h, w) on the grid of one of them out."""

    grid: int = -1  # which

    def outputs(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """What is trained: "" are the head's scores, any others are auxiliary."""
        return {"": self(maps)}


class DeepLabV1(Head):
    """One convolution with a large field of view (LargeFOV, arXiv 1412.7062, section 3.2)."""

    WIDTH, DROPOUT = 1024, 0.5  # the paper's

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        rates = _rates(shape, "deeplabv1")
        if len(rates) > 1:
            raise Refusal(f"head 'deeplabv1' has one rate, found rates {rates}")
        width = shape.width or self.WIDTH
        self.see = _block(shape.channels[-1], width, 3, rates[0])
        self.think = _block(width, width, 1)
        self.dropout = nn.Dropout(_dropout(shape, self.DROPOUT))
        self.classify = nn.Conv2d(width, shape.classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.classify(self.dropout(self.think(self.see(maps[-1]))))


class DeepLabV2(Head):
    """Sum of parallel dilated convolutions on the last map (ASPP, arXiv 1606.00915, fig. 4)."""

    DEVIATION = 0.01  # of its first weights

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        rates = _rates(shape, "deeplabv2")
        self.branches = Aspp(shape.channels[-1], shape.classes, rates, self.DEVIATION)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.branches(maps[-1])


class SideBySide(Head):
    """Parallel dilated convolutions and image pooling, joined by another convolution.

    What PPC's code calls DeepLab-V2. `point` adds the convolution of single positions that
    DeepLab-V3 has besides (ASPP, arXiv 1706.05587, fig. 5).
    """

    WIDTH = 256

    def __init__(self, shape: Shape, name: str = "aspp", *, point: bool = False) -> None:
        super().__init__()
        last, rates = shape.channels[-1], _rates(shape, name)
        self.width = width = shape.width or min(self.WIDTH, last)
        branches = [_block(last, width, 1)] if point else []
        branches += [_block(last, width, 3, rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        # One value a channel and image: too few for batch statistics, so channels share theirs.
        self.pool = _block(last, width, 1, norm=nn.GroupNorm(math.gcd(8, width // 2), width))
        self.project = _block(width * (len(branches) + 1), width, 1)
        self.dropout = nn.Dropout(_dropout(shape, 0.0))
        self.classify = nn.Conv2d(width, shape.classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.classify(self.dropout(self.seen(maps[-1])))

    def seen(self, deep: Tensor) -> Tensor:
        """What all branches see, on the grid of the last map."""
        pooled = self.pool(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        return self.project(torch.cat([*(b(deep) for b in self.branches), pooled], 1))


class DeepLabV3Plus(SideBySide):
    """DeepLab-V3, refined by a fine map (arXiv 1802.02611)."""

    FINE = 48  # the paper's

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape, "deeplabv3plus", point=True)
        self.grid = shape.level(4)
        self.places = shape.positions[-1], shape.positions[self.grid]
        width = self.width
        self.fine = _block(shape.channels[self.grid], self.FINE, 1)
        self.refine = nn.Sequential(_block(width + self.FINE, width, 3), _block(width, width, 3))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """On the grid of the fine map."""
        deep, fine = self.seen(maps[-1]), self.fine(maps[self.grid])
        of_deep, of_fine = self.places
        deep = of_fine.bilinear(deep, fine.shape[2:], of_deep).to(fine.dtype)
        return self.classify(self.dropout(self.refine(torch.cat([deep, fine], 1))))


class Context(Head):
    """Pixels beside a context of theirs, and auxiliary scores from a map before the last.

    Which context is what OCR and its controls differ in; all else is the same.
    """

    WIDTH, DROPOUT = 512, 0.05  # the paper's

    def __init__(self, shape: Shape, build: Callable[[int, int], nn.Module] | None) -> None:
        super().__init__()
        width = shape.width or min(self.WIDTH, shape.channels[-1])
        # Of a network without another map on the last one's grid, that one itself.
        before = shape.positions[-2:] == [shape.positions[-1]] * 2
        self.level = -2 if before else -1
        channels = shape.channels[self.level]
        self.coarse = nn.Sequential(
            _block(channels, min(width, channels), 3),
            nn.Conv2d(min(width, channels), shape.classes, 1),
        )
        self.pixels = _block(shape.channels[-1], width, 3)
        self.context = build and build(width, max(width // 2, 1))
        self.fuse = _block(width * (2 if build else 1), width, 1)
        self.dropout = nn.Dropout2d(_dropout(shape, self.DROPOUT))
        self.classify = nn.Conv2d(width, shape.classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.outputs(maps)[""]

    def outputs(self, maps: list[Tensor]) -> dict[str, Tensor]:
        coarse, pixels = self.coarse(maps[self.level]), self.pixels(maps[-1])
        if self.context is not None:
            pixels = torch.cat([self.context(pixels, coarse), pixels], 1)
        return {"": self.classify(self.dropout(self.fuse(pixels))), "aux": coarse}


class ObjectContext(nn.Module):
    """Object-contextual representations (Yuan et al., ECCV 2020, arXiv 1909.11065, section 3.2).

    A pixel's context is the mean of what the classes' regions look like, each counting as much as
    the pixel resembles it.
    """

    def __init__(self, width: int, key: int) -> None:
        super().__init__()
        self.query = nn.Sequential(_block(width, key, 1), _block(key, key, 1))
        self.key = nn.Sequential(_vectors(width, key), _vectors(key, key))
        self.value = _vectors(width, key)
        self.out = _block(key, width, 1)

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        """pixels (B, C, h, w), coarse logits (B, N, h, w) → contexts (B, C, h, w)."""
        objects = regions(pixels, coarse)
        queries = self.query(pixels).flatten(2).transpose(1, 2)
        keys, values = self.key(objects), self.value(objects)
        likeness = queries @ keys.transpose(1, 2) / keys.shape[2] ** 0.5
        contexts = likeness.float().softmax(2).to(values.dtype) @ values
        return self.out(contexts.transpose(1, 2).unflatten(2, pixels.shape[2:]))


class GlobalContext(nn.Module):
    """The mean of all pixels, alike for each of them: what regions must be better than."""

    def __init__(self, width: int, key: int) -> None:
        super().__init__()
        self.value, self.out = _vectors(width, key), _block(key, width, 1)

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        """pixels (B, C, h, w) → contexts (B, C, h, w)."""
        mean = self.value(pixels.mean((2, 3)))
        return self.out(mean[:, :, None, None].expand(-1, -1, *pixels.shape[2:]))


class ConvolvedContext(nn.Module):
    """A bottleneck convolution with as many weights as `ObjectContext` has."""

    def __init__(self, width: int, key: int) -> None:
        super().__init__()
        with torch.device("meta"):  # only to be counted
            wanted = _weights(ObjectContext(width, key))
        sizes = range(1, 2 * width + 1)
        inner = min(sizes, key=lambda m: abs(9 * m * m + 2 * m * width - wanted))
        self.layers = nn.Sequential(
            _block(width, inner, 1), _block(inner, inner, 3), _block(inner, width, 1)
        )

    def forward(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        """pixels (B, C, h, w) → contexts (B, C, h, w)."""
        return self.layers(pixels)


def regions(pixels: Tensor, coarse: Tensor) -> Tensor:
    """What each class's region looks like: means of pixels, weighted by coarse scores.

    pixels (B, C, h, w), coarse logits (B, N, h, w) → (B, N, C). The weights of a region add up to 1
    over the pixels, not those of a pixel over the classes.
    """
    weights = coarse.float().flatten(2).softmax(2).to(pixels.dtype)
    return weights @ pixels.flatten(2).transpose(1, 2)


def _rates(shape: Shape, head: str) -> list[int]:
    if not shape.rates:
        raise Refusal(f"head '{head}' has dilated branches: give their rates, as rates: [6, 12]")
    return shape.rates


def _dropout(shape: Shape, papers: float) -> float:
    return papers if shape.dropout is None else shape.dropout


def _weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.ndim > 1)


def _vectors(inputs: int, outputs: int) -> nn.Sequential:
    """For a vector an object: too few for batch statistics, so each is normalised by itself."""
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.LayerNorm(outputs), nn.ReLU())


def _block(
    inputs: int, outputs: int, kernel: int, rate: int = 1, norm: nn.Module | None = None
) -> nn.Sequential:
    padding = rate * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False),
        norm or nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


HEADS: dict[str, Callable[[Shape], Head]] = {
    "deeplabv1": DeepLabV1,
    "deeplabv2": DeepLabV2,
    "deeplabv3plus": DeepLabV3Plus,
    "ocr": lambda shape: Context(shape, ObjectContext),
    "ocr_none": lambda shape: Context(shape, None),
    "ocr_global": lambda shape: Context(shape, GlobalContext),
    "ocr_conv": lambda shape: Context(shape, ConvolvedContext),
    "aspp": SideBySide,
}


class FullSize(nn.Module):
    """A segmenter whose scores come at the size of the image: what others get to use."""

    def __init__(self, network: "Segmenter") -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised → logits (B, 1 + K, H, W)."""
        size = images.shape[2:]
        return self.network.positions.drawn(self.network(images), size, size)


class Scores(NamedTuple):
    """Logits (B, 1 + K, h, w), where they lie in a view of the image, and its size in pixels."""

    logits: Tensor
    positions: Positions
    view: Size

    def beside(self, mask: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Logits and ids on one grid: at each pixel of a mask (B, H, W), or at each position."""
        if grid == "image":
            return self.positions.drawn(self.logits, self.view, mask.shape[1:]), mask
        size = self.logits.shape[2:]
        return self.logits, self.positions.nearest(mask, size, view=self.view)


class Segmenter(nn.Module):
    """A backbone under a head: photographs in, class scores of every pixel out.

    scales: at which the image is seen besides its own; the scores are the largest of all
    (arXiv 1511.03339, as deeplab-pytorch trains and tests it).
    """

    def __init__(
        self,
        backbone: Backbone,
        head: str,
        classes: int,
        rates: list[int] | None = None,
        width: int | None = None,
        dropout: float | None = None,
        scales: list[float] | tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        self.backbone, self.scales = backbone, scales
        places = backbone.positions
        shape = Shape(backbone.channels, places, classes, rates, width, dropout)
        self.head = chosen(HEADS, head, "head")(shape)
        self.positions = places[self.head.grid]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → logits (B, 1 + K, h, w) on the head's own, coarser grid."""
        return self.outputs(images)[""].logits

    def outputs(self, images: Tensor) -> dict[str, Scores]:
        """All logits that are trained, each on a grid of its own: "" are the scores themselves.

        "x1", "x0.5" and so on are those of single scales, and auxiliary ones end in "aux".
        """
        seen = {"x1": self._look(images)}
        if not self.scales:
            return seen["x1"]
        for scale in self.scales:
            size = [scaled(side, scale) for side in images.shape[2:]]
            smaller = F.interpolate(images, size, mode="bilinear", align_corners=False)
            seen[f"x{scale:g}"] = self._look(smaller)
        whole = seen["x1"][""]
        fitted = [self._onto(found[""], whole) for found in seen.values()]
        best = whole._replace(logits=torch.stack(fitted).amax(0))
        single = {f"{at}_{n}".strip("_"): v for at, found in seen.items() for n, v in found.items()}
        return {"": best, **single}

    def _look(self, images: Tensor) -> dict[str, Scores]:
        outputs = self.head.outputs(self.backbone(images))
        view = images.shape[2:]
        return {name: Scores(logits, self.positions, view) for name, logits in outputs.items()}

    def _onto(self, found: Scores, whole: Scores) -> Tensor:
        """Scores of one view where those of the whole image lie."""
        return Onto(found.view, whole.view, self.positions)(found.logits)


def scaled(side: int, scale: float) -> int:
    """Whole pixels of a side at a scale, at least one.

    In whole numbers alone: an exported graph would keep a float's size of the example for all.
    """
    share = Fraction(scale).limit_denominator(1000)
    return torch.sym_max(1, side * share.numerator // share.denominator)
