"""Photographs and masks: JPEG in, palette PNG in and out, with errors that name the image."""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

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
END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of every PNG
JPEG_END, SPARE = b"\xff\xd9", 64  # the mark, and bytes that a careless program leaves behind it
ORIENTATION = 0x0112  # EXIF's tag of how the camera was held, and what undoes each value
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DEEP = ("I", "F")  # first letters of modes whose values do not fit a byte; "I;16" is one
ON_SIDE = {UPRIGHT[value] for value in (5, 6, 7, 8)}


def read_image(path: Path) -> np.ndarray:
    """Decode a photograph to (H, W, 3) uint8, as its pixels are stored."""
    return _decode(path, "RGB")


def read_grey(path: Path) -> np.ndarray:
    """Decode a grey picture, such as a saliency map, to (H, W) uint8."""
    return _decode(path, "L")


def read_mask(path: Path) -> np.ndarray:
    """Decode an id mask to (H, W) uint8: the palette's indices, not its colours."""
    mask = _decode(path, None)
    if path.suffix == ".png" and not _ended(path):
        # All pixels may be there, but then nothing has checked them.
        raise Refusal(f"{path}: cut off at its end; replace the file of id '{path.stem}'")
    return mask


def _ended(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-len(END), os.SEEK_END)
        return file.read() == END


def read_ids(path: Path) -> tuple[np.ndarray, str | None]:
    """Decode a stranger's id mask to (H, W) uint8, and say what of it had to be repaired.

    Ids may have been saved as VOC's colours, or under a palette that another program put in
    another order; grey and VOC's palette are taken as they are.
    """
    with _opened(path) as picture:
        if picture.mode in ("RGB", "RGBA"):
            return _by_colour(np.array(picture.convert("RGB")), path), "colours instead of ids"
        mask, palette = _indices(picture, path), picture.getpalette()
    if not palette:
        return mask, None
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette) // 3] = np.reshape(palette, (-1, 3))
    used = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    known = {tuple(colour): id for id, colour in enumerate(voc_palette().tolist())}
    ids = [known.get(tuple(colours[index].tolist())) for index in used]
    # Fewer than two colours, or one that is none of VOC's first, tell nothing of another order.
    if len(used) < 2 or ids == used.tolist() or any(id is None or 20 < id < 255 for id in ids):
        return mask, None
    table = np.zeros(256, np.uint8)
    table[used] = ids
    return table[mask], "a palette in another order"


def _by_colour(colours: np.ndarray, path: Path) -> np.ndarray:
    """(H, W, 3) of VOC's colours → (H, W) ids."""
    code = colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    known = voc_palette().astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    table = dict(zip(known.tolist(), range(256), strict=True))
    found, places = np.unique(code, return_inverse=True)
    for colour in found.tolist():
        if colour not in table:
            raise Refusal(
                f"{path}: id '{path.stem}' has the colour #{colour:06x}, which is none of VOC's "
                "palette; expected a mask of class ids (palette or 8-bit grey)"
            )
    return np.array([table[c] for c in found.tolist()], np.uint8)[places].reshape(code.shape)


def read_upright(path: Path) -> np.ndarray:
    """Decode a photograph to (H, W, 3) uint8 as viewers show it, however the camera was held."""
    with _opened(path) as picture:
        turn = _turn(picture)
        image = shallow(picture, "RGB")
        return np.array(image if turn is None else image.transpose(turn))


def is_upright(path: Path) -> bool:
    """Whether a photograph is stored as viewers show it, from its header alone."""
    with _opened(path) as picture:
        return _turn(picture) is None


def read_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as it is stored, from its header alone."""
    with _opened(path) as picture:
        return picture.height, picture.width


def whole_size(path: Path) -> tuple[int, int]:
    """`read_size` of a JPEG, which is refused if it is cut short."""
    size = read_size(path)
    with path.open("rb") as file:
        file.seek(-min(SPARE, os.fstat(file.fileno()).st_size), os.SEEK_END)
        ended = JPEG_END in file.read()
    if not ended:  # or much lies behind its end: only its pixels can tell
        read_image(path)
    return size


def upright_size(path: Path) -> tuple[int, int]:
    """(H, W) of what `read_upright` gives, from the header alone; refuses what that refuses."""
    with _opened(path) as picture:
        _of_bytes(picture)
        lies = _turn(picture) in ON_SIDE
        return picture.size if lies else picture.size[::-1]


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What turns a photograph upright, as its header says; TIFFs Pillow turns by itself."""
    if picture.format != "TIFF":
        with suppress(SyntaxError):  # no EXIF after all
            # Not picture.getexif(), which decodes a PNG for what may come behind its pixels.
            return UPRIGHT.get(Image.Image.getexif(picture).get(ORIENTATION))
    return None


def is_grey(path: Path) -> bool:
    """Whether a picture holds 8-bit grey values, from its header alone."""
    with _opened(path) as picture:
        return picture.mode == "L"


def _decode(path: Path, mode: str | None) -> np.ndarray:
    with _opened(path) as picture:
        return _indices(picture, path) if mode is None else np.array(shallow(picture, mode))


def shallow(picture: Image.Image, mode: str) -> Image.Image:
    """Convert to RGB or grey."""
    _of_bytes(picture)
    return picture.convert(mode)


def _of_bytes(picture: Image.Image) -> None:
    """Pillow would cut deeper values off instead of scaling them."""
    if picture.mode.startswith(DEEP):
        raise ValueError(
            f"more than 8 bits a channel (mode {picture.mode}); save it with 8 and run again"
        )


def _indices(picture: Image.Image, path: Path) -> np.ndarray:
    if picture.mode not in ("P", "L"):
        raise Refusal(
            f"{path}: found a picture of mode {picture.mode}, expected a mask of class ids "
            f"(palette or 8-bit grey) for id '{path.stem}'"
        )
    return np.array(picture, dtype=np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture; what goes wrong here, or in the block below, names the image."""
    try:
        with Image.open(path) as picture:
            yield picture
    except FileNotFoundError:
        raise Refusal(f"{path}: missing, expected the file of id '{path.stem}'") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise Refusal(
            f"{path}: cannot be read as a picture ({error}); replace the file of id '{path.stem}'"
        ) from None


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write ids (H, W) uint8 as a PNG in VOC's palette, so that no viewer shows it black."""
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette(PALETTE)
    # Masks are runs of equal ids: packed as runs they take a third of the time, and as little room.
    _write(path, picture, format="PNG", compress_type=zlib.Z_RLE)


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
