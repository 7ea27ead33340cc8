"""The archive for a test server: equal masks give equal bytes, and what is read is not trusted."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fbr.errors import Refusal
from fbr.files.archives import LARGEST, Wary, read_to_end
from fbr.files.pictures import END, PALETTE

# Where each pass of an interlaced PNG begins, across and down, and its steps.
ADAM7 = [
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
]
SPARE = 1000  # members beyond the masks, folders and strays, that are still looked at


@dataclass(frozen=True)
class Wanted:
    """What an archive must hold: the folder in it, (H, W) by image id, and the highest class id."""

    folder: str
    sizes: dict[str, tuple[int, int]]
    foreground: int


def pack(archive: Path, masks: Path, ids: Iterable[str], inside: str) -> None:
    """Write a tar.gz of masks/<id>.png, names in order and no dates."""
    with (
        open(archive, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for id in sorted(ids):
            content = (masks / f"{id}.png").read_bytes()
            member = tarfile.TarInfo(f"{inside}/{id}.png")
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))


def problems(archive: Path, wanted: Wanted) -> Iterator[str]:
    """Yield one line for each thing that a test server would not take; nothing if all is well.

    Each id's mask must be there once, as a picture in VOC's palette, of its image's size, with ids
    0…K. The archive may come from anywhere: nothing is extracted to disk, no link or device is
    followed, and no length that a header claims is believed before it is found small.
    """
    masks = {f"{wanted.folder}/{id}.png": size for id, size in wanted.sizes.items()}
    left = dict(masks)
    try:
        with _opened(archive) as tar:
            for number, member in enumerate(tar):
                name = member.name.removeprefix("./")
                if number >= len(masks) + SPARE:
                    yield f"more than {number} members; the rest was not looked at"
                    return
                # A mask of 4000×4000 pixels fits uncompressed.
                if not 0 <= member.size <= LARGEST:
                    yield f"{_shown(name)} claims {member.size} bytes; nothing behind it was read"
                    return
                if member.isdir() and f"{wanted.folder}/".startswith(f"{name}/".removeprefix("./")):
                    continue
                if name not in masks or not member.isreg() or member.issparse():
                    yield f"found {_shown(name)}{_kind(member)}, expected {wanted.folder}/<id>.png"
                elif name not in left:
                    yield f"found {name} twice"
                elif wrong := _wrong(tar.extractfile(member).read(), left.pop(name), wanted):
                    yield f"{name} {wrong}"
            read_to_end(tar)
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, zlib.error) as error:
        yield f"cannot be read as a tar archive, or no further ({error or type(error).__name__})"
        return
    if left:
        yield f"{len(left)} masks missing, the first is {min(left)}"


def _wrong(content: bytes, size: tuple[int, int], wanted: Wanted) -> str | None:
    """What is wrong with a mask of an image of this size (H, W)."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.size[::-1] != size:
                return f"is {_by(*picture.size)}, expected {_by(*size[::-1])}"
            if picture.mode != "P":
                return f"is of mode {picture.mode}, expected P, a palette picture"
            palette = bytes(picture.getpalette() or b"")
            highest = picture.getextrema()[1]
            used = palette[: 3 * (highest + 1)]
            if not palette or not PALETTE.startswith(used):
                return "has another palette than VOC's"
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.verify()  # checksums, to the last chunk but one; then nothing can be decoded
        if END not in content:
            raise ValueError("cut off at its end")
        if _unpacked(content) < _expected(content):
            raise ValueError("it lacks rows")
    except Exception as error:  # Pillow names a broken picture in a dozen ways
        return f"cannot be read as PNG ({error})"
    if 3 * highest >= len(palette):
        return f"holds ids up to {highest} and a palette of {len(palette) // 3} colours"
    if highest > wanted.foreground:
        return f"holds ids up to {highest}, expected 0 to {wanted.foreground}"
    return None


def _unpacked(content: bytes) -> int:
    """Bytes that the rows of a PNG unpack to, up to LARGEST; Pillow fills up what is not there."""
    packed, at = [], 8
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        if kind == b"IDAT":
            packed.append(content[at + 8 : at + 8 + length])
        at += 12 + length
    return len(zlib.decompressobj().decompress(b"".join(packed), LARGEST))


def _expected(content: bytes) -> int:
    """Bytes that the rows of a palette picture need: bits of its pixels, and a filter byte each."""
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    depth, interlaced = content[24], content[28]
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    sizes = [
        (-(-(width - left) // right), -(-(height - top) // down))
        for left, top, right, down in passes
    ]
    return sum(high * (1 + (wide * depth + 7) // 8) for wide, high in sizes if wide > 0)


def _by(width: int, height: int) -> str:
    return f"{width}×{height}"


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f", a link to {_shown(member.linkname)}"
    return " of another kind than a file" if not member.isreg() or member.issparse() else ""


def _shown(name: str) -> str:
    """A name from outside, fit for one line of a terminal."""
    short = name if len(name) <= 100 else f"{name[:97]}..."
    return short if short.isprintable() else ascii(short)


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive, gzipped or not."""
    if not archive.is_file():
        found = "is a folder" if archive.is_dir() else "not found"
        raise Refusal(f"{archive}: {found}; name a .tar.gz of masks")
    with open(archive, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        with tarfile.open(fileobj=Wary(stream), mode="r:") as tar:
            yield tar
