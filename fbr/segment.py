"""`fbr segment`: cut photographs into regions of like colours; needs no network and no labels."""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from fbr.errors import Refusal
from fbr.files import pictures
from fbr.masks.superpixels import Growing, grow, over_segment
from fbr.show import overlays
from fbr.workspace import Workspace

MOST = 254  # regions that an 8-bit picture numbers, beside 0 and void
FINEST = 10_000  # superpixels; merging takes time by their square
LONG_SIDE = 1000  # pixels that are looked at; larger photographs are shrunk for it


def main(argv: list[str], workspace: Workspace) -> int:
    """Write <name>_regions.png, regions numbered from 1, and <name>_overlay.jpg of each image.

    Older ones are written over, but no image that is given.
    """
    parser = argparse.ArgumentParser(prog="fbr segment", description=main.__doc__)
    parser.add_argument("images", nargs="+", help="photographs")
    parser.add_argument("--regions", type=int, default=1, help="end at so few (default: 1)")
    parser.add_argument("--least", type=float, default=0.9, help="or at this likeness (0.9)")
    parser.add_argument("--superpixels", type=int, default=400, help="begin with so many (400)")
    parser.add_argument("--out", help="folder to write to (default: beside each image)")
    asked = parser.parse_args(argv)
    if not 1 <= asked.regions <= MOST or not 1 <= asked.superpixels <= FINEST:
        raise Refusal(
            f"found --regions {asked.regions} --superpixels {asked.superpixels}, expected regions "
            f"from 1 to {MOST} and superpixels from 1 to {FINEST}"
        )
    if math.isnan(asked.least):
        raise Refusal("found --least nan, expected a likeness, of which 1 is the most")
    if asked.out and Path(asked.out).exists() and not Path(asked.out).is_dir():
        raise Refusal(f"{asked.out}: is a file, expected a folder to write to (--out)")
    images = [Path(image) for image in asked.images]
    for image in images:
        if image.is_dir():
            raise Refusal(f"{image}: is a folder, expected photographs; name its files")
    bases = [Path(asked.out or image.parent) / image.stem for image in images]
    if len({_lies(base) for base in bases}) < len(bases):
        raise Refusal("two images have one name, their regions would meet; run them one by one")
    written = [[Path(f"{base}{end}") for end in ("_regions.png", "_overlay.jpg")] for base in bases]
    given = {_lies(image) for image in images}
    for path, files in zip(images, written, strict=True):
        for file in files:
            if _lies(file) in given:
                raise Refusal(
                    f"{file}: is given, and what is made of {path} would be written over it; leave "
                    "it out, or name another folder (--out)"
                )
    for path, (mask, overlay) in zip(images, written, strict=True):
        image = pictures.read_upright(path)
        superpixels, regions = segment(image, asked.superpixels, asked.regions, asked.least)
        pictures.write_mask(mask, regions)
        pictures.write_jpeg(overlay, overlays.mask_overlay(image, regions))
        print(
            f"{path}: {image.shape[1]}×{image.shape[0]}, {superpixels} superpixels in "
            f"{regions.max()} regions: {mask.name}, {overlay.name}"
        )
    return 0


def _lies(file: Path) -> Path:
    """Where a file lies, however its folder is spelled; a link to a file is a file of its own."""
    return file.parent.resolve() / file.name


def segment(
    image: np.ndarray, superpixels: int, regions: int, least: float
) -> tuple[int, np.ndarray]:
    """Return how many superpixels there were, and regions (H, W) uint8 from 1 to at most 254.

    image: (H, W, 3) uint8. Merging ends at `regions`, or below `least` if that leaves few enough.
    """
    height, width = image.shape[:2]
    scale = min(1, LONG_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    begun = over_segment(small, superpixels)
    found = grow(small, begun, Growing(), regions, least)
    if found.max() >= MOST:
        # However unlike the neighbours: where no colour is shared, likeness falls below 0.
        found = grow(small, begun, Growing(), MOST, -math.inf)
    numbered = Image.fromarray((found + 1).astype(np.uint8))
    full = np.asarray(numbered.resize((width, height), Image.Resampling.NEAREST))
    return int(begun.max()) + 1, full
