"""Pictures of maps, masks and mistakes: uint8 arrays in, uint8 (H, W, 3) out, always the same."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.morphology import dilation
from skimage.segmentation import find_boundaries

from fbr.show.palette import PALETTE, VOID

Colour = tuple[int, int, int]

# Dark violet to pale yellow; lightness only rises, so it reads right in grey and to every eye.
_HEAT_STOPS = [
    (6, 4, 24),
    (38, 14, 82),
    (84, 18, 112),
    (132, 33, 108),
    (180, 52, 88),
    (221, 84, 58),
    (245, 131, 27),
    (251, 190, 48),
    (252, 250, 160),
]
_HEAT = np.stack(
    [
        np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_HEAT_STOPS)), channel)
        for channel in zip(*_HEAT_STOPS, strict=True)
    ],
    axis=1,
)

# The kinds that `error_kinds` tells apart, by number; hues stay apart under red-green blindness.
ERROR_COLOURS: dict[str, Colour] = {
    "true background": (54, 58, 68),
    "true positive": (0, 158, 115),
    "false positive": (230, 97, 1),
    "false negative": (86, 180, 233),
    "wrong class": (214, 84, 190),
    "void": (150, 150, 150),
}

_STRIP: Colour = (24, 26, 31)
_STRIP_INK: Colour = (236, 238, 242)
_GAP = 4
_CAPTION = 22
_FONT_SIZE = 13


def heat(image: np.ndarray, cam: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """Lay a map over an image as heat.

    image (H, W, 3) uint8; cam (h, w) in 0..1, resized to the image, values outside are clipped and
    NaN counts as 0. alpha 0 shows only the image, 1 only the map.
    """
    height, width = image.shape[:2]
    small = Image.fromarray(np.nan_to_num(np.asarray(cam, dtype=np.float32)))
    full = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
    levels = np.rint(full.clip(0, 1) * 255).astype(np.uint8)
    return _blend(image, _HEAT[levels], alpha)


def mask_overlay(image: np.ndarray, mask: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """Paint class ids over an image in palette colours with contours.

    image (H, W, 3) uint8; mask (H, W) of ids. Background stays the image; void (255) is hatched and
    lined in white. Lines grow with the image.
    """
    _check_same_size(image, mask)
    line = max(1, round(min(mask.shape) / 200))
    void = mask == VOID
    classes = (mask > 0) & ~void
    edges = dilation(find_boundaries(mask, mode="inner"), np.ones((line, line)))
    rows, columns = np.indices(mask.shape)
    hatch = (rows + columns) % (8 * line) < 2 * line
    colours = PALETTE[mask]
    out = image.copy()
    out[classes] = _blend(image, colours, alpha)[classes]
    out[classes & edges] = _blend(colours, 255, 0.4)[classes & edges]
    out[void & hatch] = _blend(image, 255, 0.75)[void & hatch]
    out[void & edges] = 255
    return out


def error_kinds(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Tell each pixel's kind, (H, W) uint8, as an index into `ERROR_COLOURS`.

    pred, target (H, W) of ids. Positive means any class but background; void (255) in either is
    void.
    """
    _check_same_size(pred, target)
    kinds = np.zeros(pred.shape, dtype=np.uint8)
    kinds[(pred > 0) & (pred == target)] = 1
    kinds[(pred > 0) & (target == 0)] = 2
    kinds[(pred == 0) & (target > 0)] = 3
    kinds[(pred > 0) & (target > 0) & (pred != target)] = 4
    kinds[(pred == VOID) | (target == VOID)] = 5
    return kinds


def error_map(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Colour each pixel of a prediction (H, W) by its kind of mistake, see `ERROR_COLOURS`."""
    colours = np.array(list(ERROR_COLOURS.values()), dtype=np.uint8)
    return colours[error_kinds(pred, target)]


def panel(tiles: Sequence[tuple[str, np.ndarray]], height: int = 192) -> np.ndarray:
    """Set (title, picture) pairs side by side, each scaled to `height` under a one-line title."""
    if not tiles:
        raise ValueError("a panel needs at least one picture")
    pictures = [_scaled(picture, height) for _, picture in tiles]
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) + 1)
    canvas = Image.new("RGB", (width, height + _CAPTION + _GAP), _STRIP)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(_FONT_SIZE)
    left = _GAP
    for (title, _), picture in zip(tiles, pictures, strict=True):
        canvas.paste(picture, (left, _CAPTION))
        caption = _fitted(title, font, picture.width - 8)
        draw.text((left + 1, _CAPTION / 2), caption, _STRIP_INK, font, anchor="lm")
        left += picture.width + _GAP
    return np.asarray(canvas)


def to_png_bytes(image: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as PNG."""
    return _encoded(image, format="PNG", optimize=True)


def to_jpeg_bytes(image: np.ndarray, quality: int = 85) -> bytes:
    """Encode (H, W, 3) uint8 as JPEG, without colour subsampling, which would smear masks."""
    return _encoded(image, format="JPEG", quality=quality, subsampling=0)


def _encoded(image: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return buffer.getvalue()


def _blend(image: np.ndarray, colours: np.ndarray | int, alpha: float) -> np.ndarray:
    return np.rint((1 - alpha) * image + alpha * colours).astype(np.uint8)


def _check_same_size(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(f"sizes differ: {first.shape[:2]} and {second.shape[:2]}")


def _scaled(picture: np.ndarray, height: int) -> Image.Image:
    tall, wide = picture.shape[:2]
    size = (max(1, round(wide * height / tall)), height)
    # Small pictures keep square pixels: smooth enlargement shows detail that is not there.
    filter_ = Image.Resampling.NEAREST if height >= tall else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize(size, filter_)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"
