"""COCO 2014 from its own annotation files and image folders."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from fbr.datasets.prepared import VOID, Entry
from fbr.errors import Refusal
from fbr.files import pictures
from fbr.files.atomic import PartialFolder, link
from fbr.params import CocoSource

WHENCE = "COCO 2014: the images and the instance annotations of cocodataset.org, unpacked"
SPLITS = {"train": "train2014", "val": "val2014"}


def missing(source: CocoSource, root: Path) -> list[str]:
    """What must be fetched first, a line each."""
    base = Path(source.root)
    needed = [
        path
        for name in SPLITS.values()
        for path in (base / name, base / "annotations" / f"instances_{name}.json")
    ]
    return [f"{path}: {WHENCE}" for path in needed if not (root / path).exists()]


def build(
    source: CocoSource, root: Path, folders: dict[str, PartialFolder]
) -> tuple[list[Entry], list[str]]:
    """Link the images and paint the annotations; images without an object keep an empty label."""
    if lines := missing(source, root):
        raise Refusal(f"COCO is not there yet: {'; '.join(lines)}")
    base = root / source.root
    entries, names = [], []
    for split, folder in SPLITS.items():
        file = base / "annotations" / f"instances_{folder}.json"
        try:
            content = json.loads(file.read_text())
            categories = sorted(content["categories"], key=lambda c: c["id"])
            number = {c["id"]: i for i, c in enumerate(categories, start=1)}
            names = ["background", *(c["name"] for c in categories)]
            objects = defaultdict(list)
            for annotation in content["annotations"]:
                objects[annotation["image_id"]].append(annotation)
            listed = sorted(content["images"], key=lambda image: image["id"])
        except (KeyError, TypeError, ValueError) as error:
            raise Refusal(
                f"{file}: not COCO's instance annotations ({error!r}); fetch it again"
            ) from None
        for image in listed:
            id = Path(image["file_name"]).stem
            photograph = folders["images"] / f"{id}.jpg"
            link(base / folder / image["file_name"], photograph)
            size = (image["height"], image["width"])
            if (found := pictures.read_size(photograph)) != size:
                raise Refusal(
                    f"{file}: image '{id}' is {size[1]}x{size[0]} here, its file {found[1]}x"
                    f"{found[0]}; fetch both again"
                )
            try:
                mask, instances = paint(objects[image["id"]], size, number)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise Refusal(
                    f"{file}: image '{id}': an object of it is wrong: {error!r}"
                ) from None
            pictures.write_mask(folders["masks"] / f"{id}.png", mask)
            pictures.write_mask(folders["instances"] / f"{id}.png", instances)
            classes = tuple(int(c) for c in np.unique(mask) if 0 < c < VOID)
            entries.append(Entry(id, *size, (split,), classes))
    return entries, names


def paint(
    annotations: list[dict], size: tuple[int, int], number: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Class ids and instance numbers (H, W) uint8: small objects over large ones, crowds void.

    At most 254 objects of an image are kept, the largest: the masks are 8-bit.
    """
    mask, instances = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    annotations = sorted(annotations, key=lambda a: (not a.get("iscrowd", 0), -a["area"]))
    count = 0
    for annotation in annotations[: VOID - 1]:
        inside = _inside(annotation["segmentation"], size)
        crowd = annotation.get("iscrowd", 0)
        count += not crowd
        mask[inside] = VOID if crowd else number[annotation["category_id"]]
        instances[inside] = VOID if crowd else count
    return mask, instances


def _inside(segmentation: list | dict, size: tuple[int, int]) -> np.ndarray:
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        code = coco_mask.frPyObjects(segmentation, *size)
    else:
        code = segmentation
    return coco_mask.decode(code).astype(bool)
