"""Photographs and masks: JPEG in, palette PNG in and out, with errors that name the image."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fbr.errors import Refusal
from fbr.files.atomic import write_bytes


def voc_palette() -> np.ndarray:
    """Return the VOC colour map as (256, 3) uint8; row 255 is the colour of void.

    The bits of an id are dealt in turn to red, green and blue, the lowest ones to the highest bit.
    """
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            dealt = (ids >> (3 * bit + channel)) & 1
            colours[:, channel] |= (dealt << (7 - bit)).astype(np.uint8)
    return colours


PALETTE = voc_palette().tobytes()


def read_image(path: Path) -> np.ndarray:
    """Decode a photograph to (H, W, 3) uint8."""
    return _decode(path, "RGB")


def read_grey(path: Path) -> np.ndarray:
    """Decode a grey picture, such as a saliency map, to (H, W) uint8."""
    return _decode(path, "L")


def read_mask(path: Path) -> np.ndarray:
    """Decode an id mask to (H, W) uint8: the palette's indices, not its colours."""
    return _decode(path, None)


def read_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture, from its header alone."""
    with _opened(path) as picture:
        return picture.height, picture.width


def _decode(path: Path, mode: str | None) -> np.ndarray:
    with _opened(path) as picture:
        if mode is None and picture.mode not in ("P", "L"):
            raise Refusal(
                f"{path}: found a picture of mode {picture.mode}, expected a mask of class ids "
                f"(palette or 8-bit grey) for id '{path.stem}'"
            )
        return np.array(picture.convert(mode) if mode else picture, dtype=np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture; what goes wrong here, or in the block below, names the image."""
    try:
        with Image.open(path) as picture:
            yield picture
    except FileNotFoundError:
        raise Refusal(f"{path}: missing, expected the file of id '{path.stem}'") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise Refusal(
            f"{path}: cannot be read as a picture ({error}); replace the file of id '{path.stem}'"
        ) from None


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write ids (H, W) uint8 as a PNG in VOC's palette, so that no viewer shows it black."""
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette(PALETTE)
    _write(path, picture, format="PNG")


def write_grey(path: Path, values: np.ndarray) -> None:
    """Write (H, W) uint8 as a grey PNG."""
    _write(path, Image.fromarray(values, mode="L"), format="PNG")


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as a JPEG without chroma subsampling: thin parts keep their colour."""
    _write(path, Image.fromarray(image), format="JPEG", quality=95, subsampling=0)


def _write(path: Path, picture: Image.Image, **options: object) -> None:
    # Pillow writes a JPEG to a file by itself, and takes a disk that fills up for success.
    encoded = BytesIO()
    picture.save(encoded, **options)
    write_bytes(path, encoded.getvalue())
