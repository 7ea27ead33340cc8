"""Saliency maps of other programs: found under any common name, checked, and their share told."""

import logging
from pathlib import Path
from unicodedata import normalize

from fbr.datasets.prepared import Entry
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder, link

log = logging.getLogger("fbr")
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")  # of two files of one image, the first of these
STEMS = (
    *("{id}", "{id}_sal", "{id}_saliency", "{id}_salmap", "{id}_pred", "{id}_mask", "{id}_map"),
    *("{id}-sal", "{id}-saliency", "sal_{id}", "saliency_{id}", "{id}.jpg", "{id}.png"),
)


def add(folder: Path, entries: list[Entry], target: PartialFolder) -> dict[str, str]:
    """Link or convert the maps of these images to `<id>.png`; tell the share of each split.

    Maps may be smaller than their images, and must have their shape. None at all is refused.
    """
    files = _files(folder)
    covered = set()
    for entry in entries:
        if file := _named_after(entry.id, files):
            _take(file, entry, target / f"{entry.id}.png")
            covered.add(entry.id)
    if not covered:
        example = f"{entries[0].id}.png" if entries else "<id>.png"
        raise Refusal(
            f"{folder}: no saliency map of any image among its {len(files)} pictures, expected "
            f"{example} or a like name"
        )
    shares = {}
    for split in dict.fromkeys(split for entry in entries for split in entry.splits):
        ids = [entry.id for entry in entries if split in entry.splits]
        shares[split] = f"{len(covered.intersection(ids))} of {len(ids)}"
    said = ", ".join(f"{split} {share}" for split, share in shares.items())
    lacking = [entry.id for entry in entries if entry.id not in covered]
    log.info("saliency: %s%s", said, f"; the first without is {lacking[0]}" if lacking else "")
    return shares


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """Pictures by (stem, ending)."""
    if not folder.is_dir():
        raise Refusal(f"{folder}: no such folder, expected saliency maps in it")
    return {
        (normalize("NFC", path.stem), path.suffix.lower()): path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in ENDINGS
    }


def _named_after(id: str, files: dict[tuple[str, str], Path]) -> Path | None:
    names = ((stem.format(id=id), ending) for stem in STEMS for ending in ENDINGS)
    return next((files[name] for name in names if name in files), None)


def _take(file: Path, entry: Entry, target: Path) -> None:
    height, width = pictures.read_size(file)
    if not entry.has_shape_of(height, width):
        raise Refusal(
            f"{file}: a saliency map of {width}x{height} cannot be of id '{entry.id}', which is "
            f"{entry.width}x{entry.height}; give it its own map"
        )
    if file.suffix.lower() == ".png" and pictures.is_grey(file):
        link(file, target)
    else:
        pictures.write_grey(target, pictures.read_grey(file))
